// Shared by all kernels: vectors of floats, work for several threads, reused scratch memory.

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

// Lanes of a vector register, and pixels per tile. A tile is two vectors of channels wide, or three if there
// are 32 registers: then its sums and operands just fill the registers.
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

// Floats that fill half of a typical core's second-level cache.
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

// Copies n floats. n is small: calling memcpy would cost more than the copy.
inline void CopyFew(const float* from, int64_t n, float* to) {
  for (; n >= 4; n -= 4, from += 4, to += 4) std::memcpy(to, from, 4 * sizeof(float));
  if (n & 2) {
    std::memcpy(to, from, 2 * sizeof(float));
    from += 2, to += 2;
  }
  if (n & 1) *to = *from;
}

int64_t CeilDiv(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : a / b; }

// Calls work(i) for every i in [0, count), in this thread and in XLA's pool. `cost` is the approximate
// number of vector operations of one call. Waking a thread for a few microseconds of work does not pay off.
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
  // A thread that finds no work left must not touch `work`, which may have been destroyed.
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

// Scratch memory of this thread, reused from call to call. Buffers in use together need different slots.
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
