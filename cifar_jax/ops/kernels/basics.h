// What all kernels share: vectors of floats, work for several threads, memory that is kept.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Buffer = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

// Lanes of a vector register, and pixels of a tile: with two vectors of channels, or three where there
// are 32 registers, the sums and what is multiplied fill the registers.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kPixels = 8;
constexpr bool kManyRegisters = true;
#elif defined(__AVX__)
constexpr int kLanes = 8, kPixels = 6;
constexpr bool kManyRegisters = false;
#else
constexpr int kLanes = 4, kPixels = 8;
constexpr bool kManyRegisters = true;
#endif
constexpr int kHalf = kLanes / 2;
typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float HalfVector __attribute__((vector_size(2 * kLanes)));

// Floats that take half of the second-level cache of a usual core.
constexpr int64_t kCacheFloats = 1 << 17;

template <typename V = Vector>
V Load(const float* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));  // one instruction, for any alignment
  return value;
}

template <typename V = Vector>
void Store(float* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

// Copies n floats, of which there are few: a call of memcpy would cost more than the copy.
inline void CopyFew(const float* from, int64_t n, float* to) {
  for (; n >= 4; n -= 4, from += 4, to += 4) std::memcpy(to, from, 4 * sizeof(float));
  if (n & 2) {
    std::memcpy(to, from, 2 * sizeof(float));
    from += 2, to += 2;
  }
  if (n & 1) *to = *from;
}

int64_t CeilDiv(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : a / b; }

// Calls work(i) for every i in [0, count), in this thread and those of XLA's pool. `cost` is about the
// number of vector operations of one call; what takes microseconds is not worth waking a thread.
template <typename Work>
void ParallelFor(ffi::ThreadPool& pool, int64_t count, int64_t cost, const Work& work) {
  const int64_t threads =
      std::min({pool.num_threads(), count, count * cost / 16384 + 1});
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) work(i);
    return;
  }
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
  };
  auto progress = std::make_shared<Progress>();
  // A thread that comes when nothing is left does not touch `work`, which may be gone by then.
  const auto help = [progress, count, &work] {
    for (int64_t i; (i = progress->next.fetch_add(1)) < count; progress->done.fetch_add(1)) work(i);
  };
  for (int64_t t = 1; t < threads; ++t) pool.Schedule([help] { help(); });
  help();
  while (progress->done.load() < count) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
}

// Memory of this thread that is kept from call to call. What is needed together has different slots.
enum Slot { kShared, kPadded, kWidened, kSlots };

float* Scratch(Slot slot, int64_t size) {
  struct Memory {
    float* data = nullptr;
    int64_t size = 0;
    ~Memory() { std::free(data); }
  };
  thread_local Memory slots[kSlots];
  Memory& memory = slots[slot];
  if (memory.size < size) {
    std::free(memory.data);
    memory.data = static_cast<float*>(std::aligned_alloc(64, CeilDiv(size, 16) * 64));
    memory.size = size;
  }
  return memory.data;
}

// result[i] = sum over groups of partial[group][i], in double precision.
void SumGroups(const float* partial, int64_t groups, int64_t size, float* result) {
  for (int64_t i = 0; i < size; ++i) {
    double sum = 0;
    for (int64_t g = 0; g < groups; ++g) sum += partial[g * size + i];
    result[i] = static_cast<float>(sum);
  }
}

}  // namespace
