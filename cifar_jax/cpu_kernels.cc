// Convolutions and sums over a batch for the CPU, called by XLA through its foreign function interface.
//
// Images are float32 [batch, height, width, channel], kernels float32 [height, width, in, out]. Every
// convolution is cut into tiles of a few pixels by a few vectors of channels, whose sums stay in
// registers. How the work is cut never depends on the number of threads where sums would be added in
// another order, so results do not either.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

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

// Some images and the frame that a convolution sees of them: of height x width pixels, beginning
// `top` and `left` pixels before the image, zero outside of it.
struct Images {
  const float* data;
  int64_t batch, image_height, image_width, channels;
  int64_t height, width, top, left;

  Images(const Buffer& buffer, int64_t height, int64_t width, int64_t top, int64_t left)
      : data(buffer.typed_data()),
        batch(buffer.dimensions()[0]),
        image_height(buffer.dimensions()[1]),
        image_width(buffer.dimensions()[2]),
        channels(buffer.dimensions()[3]),
        height(height),
        width(width),
        top(top),
        left(left) {
    if (top == 0 && left == 0 && height <= image_height && width <= image_width) {
      this->height = image_height, this->width = image_width;  // no copy is needed
    }
  }
  bool framed() const {
    return top != 0 || left != 0 || height != image_height || width != image_width;
  }
  int64_t size() const { return height * width * channels; }

  // The frames of `count` images, `size()` floats each: where they lie, or a copy in scratch memory.
  const float* Frames(int64_t first, int64_t count) const {
    const float* image = data + first * image_height * image_width * channels;
    if (!framed()) return image;
    float* const frames = Scratch(kPadded, count * size());
    const int64_t begin = std::clamp<int64_t>(left, 0, width);
    const int64_t end = std::clamp<int64_t>(left + image_width, begin, width);
    float* to = frames;
    for (int64_t n = 0; n < count; ++n, image += image_height * image_width * channels) {
      for (int64_t row = -top; row < height - top; ++row, to += width * channels) {
        if (row < 0 || row >= image_height) {
          std::memset(to, 0, sizeof(float) * width * channels);
          continue;
        }
        std::memset(to, 0, sizeof(float) * begin * channels);
        std::memcpy(to + begin * channels, image + (row * image_width + begin - left) * channels,
                    sizeof(float) * (end - begin) * channels);
        std::memset(to + end * channels, 0, sizeof(float) * (width - end) * channels);
      }
    }
    return frames;
  }
};

// ---- Sums of products of pixels and weights ------------------------------------------------------

// What an output pixel is a sum over: stretches of floats, counted from the pixel's corner of the frame.
struct Stretch {
  int64_t offset, length;
};

// out[p][c] = sum over the stretches' floats i of x[p][i] * weights[i][c], for `pixels` of kPixels
// pixels and the first `channels` of kVectors vectors.
template <typename V, int kVectors>
void Tile(const float* const* pixel, const std::vector<Stretch>& stretches, const float* weights,
          float* const* out, int pixels, int64_t channels) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  const float* x[kPixels];
  std::copy(pixel, pixel + kPixels, x);
  V sums[kPixels][kVectors] = {};
  for (const Stretch& stretch : stretches) {
    for (int64_t i = stretch.offset; i < stretch.offset + stretch.length; ++i) {
      V w[kVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) w[v] = Load<V>(weights + v * lanes);
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) sums[p][v] += x[p][i] * w[v];
      }
      weights += kVectors * lanes;
    }
  }
  if (channels >= kVectors * lanes) {
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) {
      if (p >= pixels) break;
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) Store(out[p] + v * lanes, sums[p][v]);
    }
  } else {
    float values[kPixels][kVectors * lanes];
    std::memcpy(values, sums, sizeof(values));
    for (int p = 0; p < pixels; ++p) CopyFew(values[p], channels, out[p]);
  }
}

// The kinds of tile by the channels that they take; the one that wastes the fewest, the widest of those.
struct TileKind {
  int64_t width;
  void (*tile)(const float* const*, const std::vector<Stretch>&, const float*, float* const*, int,
               int64_t);
};

const TileKind& KindOfTile(int64_t channels) {
  static const std::vector<TileKind> kinds = [] {
    std::vector<TileKind> result = {{kHalf, Tile<HalfVector, 1>},
                                    {kLanes, Tile<Vector, 1>},
                                    {2 * kLanes, Tile<Vector, 2>}};
    if constexpr (kManyRegisters) {
      result.push_back({3 * kHalf, Tile<HalfVector, 3>});
      result.push_back({3 * kLanes, Tile<Vector, 3>});
    }
    return result;
  }();
  const auto worse = [channels](const TileKind& a, const TileKind& b) {
    const int64_t total_a = CeilDiv(channels, a.width) * a.width;
    const int64_t total_b = CeilDiv(channels, b.width) * b.width;
    return total_a != total_b ? total_a > total_b : a.width < b.width;
  };
  return *std::max_element(kinds.begin(), kinds.end(), worse);
}

// A grid of output pixels that are sums over the same stretches, with its weights in the order in which
// tiles read them: [block of channels][float of the stretches][channel of the block].
struct Grid {
  int64_t rows, columns;
  int64_t in_row, in_column, out_row, out_column;  // from pixel to pixel, in floats
  int64_t out_offset = 0;
  std::vector<Stretch> stretches;
  int64_t channels = 0, depth = 0;
  const float* weights = nullptr;

  int64_t blocks() const { return CeilDiv(channels, KindOfTile(channels).width); }

  // Orders the weights into `memory` and returns where it ends. The weight of float i of the stretches
  // and channel c is source(i)[c * stride].
  template <typename Source>
  float* Pack(ffi::ThreadPool& pool, int64_t out_channels, int64_t stride, const Source& source,
              float* memory) {
    const int64_t width = KindOfTile(out_channels).width;
    channels = out_channels;
    weights = memory;
    depth = 0;
    for (const Stretch& stretch : stretches) depth += stretch.length;
    ParallelFor(pool, blocks(), depth * (stride == 1 ? 4 : width), [&](int64_t block) {
      float* to = memory + block * depth * width;
      const int64_t here = std::min(width, channels - block * width);
      for (int64_t i = 0; i < depth; ++i, to += width) {
        const float* from = source(i) + block * width * stride;
        for (int64_t c = 0; c < here; ++c) to[c] = from[c * stride];
        std::fill(to + here, to + width, 0.0f);
      }
    });
    return memory + blocks() * depth * width;
  }

  void ComputeBlock(int64_t block, const float* in, float* out) const {
    const TileKind& kind = KindOfTile(channels);
    const float* x[kPixels];
    float* y[kPixels];
    const int64_t count = rows * columns;
    in -= in_column, out += out_offset + block * kind.width - out_column;
    for (int64_t first = 0, column = 0; first < count; first += kPixels) {
      const int pixels = static_cast<int>(std::min<int64_t>(kPixels, count - first));
      for (int p = 0; p < pixels; ++p) {
        in += in_column, out += out_column;
        if (column++ == columns) {
          column = 1;
          in += in_row - columns * in_column, out += out_row - columns * out_column;
        }
        x[p] = in, y[p] = out;
      }
      std::fill(x + pixels, x + kPixels, in);
      kind.tile(x, stretches, weights + block * depth * kind.width, y, pixels,
                channels - block * kind.width);
    }
  }
};

// Floats that Grid::Pack needs at most.
int64_t PackedSize(int64_t depth, int64_t channels) { return depth * (channels + 3 * kLanes); }

// Computes the grids of all images, `out_size` floats each.
void ComputeGrids(ffi::ThreadPool& pool, const std::vector<Grid>& grids, const Images& images,
                  float* out, int64_t out_size) {
  int64_t cost = 0;
  for (const Grid& grid : grids)
    cost += grid.rows * grid.columns * grid.depth * CeilDiv(grid.channels, kLanes);
  const int64_t chunk =
      std::clamp<int64_t>(kCacheFloats / images.size(), 1,
                          CeilDiv(images.batch, 2 * std::max<int64_t>(1, pool.num_threads())));
  ParallelFor(pool, CeilDiv(images.batch, chunk), chunk * cost, [&](int64_t task) {
    const int64_t first = task * chunk, count = std::min(chunk, images.batch - first);
    const float* frames = images.Frames(first, count);
    for (const Grid& grid : grids)
      for (int64_t block = 0; block < grid.blocks(); ++block)
        for (int64_t n = 0; n < count; ++n)
          grid.ComputeBlock(block, frames + n * images.size(), out + (first + n) * out_size);
  });
}

// out [row, channel] = in [row, depth] times weights, where weights[i, c] = from[i * step + c * stride].
void MatrixProduct(ffi::ThreadPool& pool, const float* in, int64_t rows, int64_t depth,
                   const float* from, int64_t step, int64_t stride, int64_t channels, float* out) {
  Grid grid{1, rows, 0, depth, 0, channels};
  grid.stretches = {{0, depth}};
  grid.Pack(pool, channels, stride, [&](int64_t i) { return from + i * step; },
            Scratch(kShared, PackedSize(depth, channels)));
  const int64_t share = CeilDiv(rows, 2 * std::max<int64_t>(1, pool.num_threads()));
  const int64_t piece =
      CeilDiv(std::clamp<int64_t>(kCacheFloats / depth, 1, share), kPixels) * kPixels;
  ParallelFor(pool, CeilDiv(rows, piece), piece * depth * CeilDiv(channels, kLanes), [&](int64_t task) {
    Grid part = grid;
    part.columns = std::min(piece, rows - task * piece);
    for (int64_t block = 0; block < part.blocks(); ++block)
      part.ComputeBlock(block, in + task * piece * depth, out + task * piece * channels);
  });
}

// ---- Dense convolution ---------------------------------------------------------------------------

bool IsPointwise(ffi::Span<const int64_t> kernel, int64_t stride, const Images& images) {
  return kernel[0] == 1 && kernel[1] == 1 && stride == 1 && !images.framed();
}

ffi::Error ConvForward(ffi::ThreadPool pool, Buffer images, Buffer kernel, int64_t stride, int64_t top,
                       int64_t left, Result result) {
  const auto k = kernel.dimensions(), out = result->dimensions();
  const int64_t in_channels = k[2], channels = k[3];
  const Images in(images, (out[1] - 1) * stride + k[0], (out[2] - 1) * stride + k[1], top, left);
  const float* w = kernel.typed_data();
  if (IsPointwise(k, stride, in)) {
    MatrixProduct(pool, in.data, in.batch * in.height * in.width, in_channels, w, channels, 1, channels,
                  result->typed_data());
    return ffi::Error::Success();
  }
  Grid grid{out[1], out[2], stride * in.width * in_channels, stride * in_channels, out[2] * channels,
            channels};
  for (int64_t ky = 0; ky < k[0]; ++ky)
    grid.stretches.push_back({ky * in.width * in_channels, k[1] * in_channels});
  grid.Pack(pool, channels, 1, [&](int64_t i) { return w + i * channels; },
            Scratch(kShared, PackedSize(k[0] * k[1] * in_channels, channels)));
  ComputeGrids(pool, {grid}, in, result->typed_data(), out[1] * out[2] * channels);
  return ffi::Error::Success();
}

// The gradient to an image is a convolution of the gradient `grad` with the kernel turned round. With a
// stride, pixels at one distance from a multiple of it meet the same taps: a grid for each distance.
ffi::Error ConvGradImages(ffi::ThreadPool pool, Buffer grad, Buffer kernel, int64_t stride, int64_t top,
                          int64_t left, Result result) {
  const auto k = kernel.dimensions(), in = result->dimensions();
  const int64_t channels = k[2], in_channels = k[3];
  const float* w = kernel.typed_data();
  const int64_t before_y = (k[0] - 1) / stride, before_x = (k[1] - 1) / stride;
  const Images from(grad, (in[1] - 1 + top) / stride + 1 + before_y,
                    (in[2] - 1 + left) / stride + 1 + before_x, before_y, before_x);
  if (IsPointwise(k, stride, from) && top == 0 && left == 0 && from.height == in[1] &&
      from.width == in[2]) {
    MatrixProduct(pool, from.data, from.batch * from.height * from.width, in_channels, w, 1, in_channels,
                  channels, result->typed_data());
    return ffi::Error::Success();
  }
  std::vector<Grid> grids;
  float* memory =
      Scratch(kShared, stride * stride * PackedSize(0, channels) + PackedSize(k[0] * k[1] * in_channels, channels));
  for (int64_t tap_y = 0; tap_y < stride; ++tap_y) {
    for (int64_t tap_x = 0; tap_x < stride; ++tap_x) {
      // The first pixel that meets taps tap_y + t * stride, and the pixel of `grad` that its last has.
      const int64_t y = ((tap_y - top) % stride + stride) % stride;
      const int64_t x = ((tap_x - left) % stride + stride) % stride;
      if (y >= in[1] || x >= in[2]) continue;
      const int64_t taps_y = CeilDiv(k[0] - tap_y, stride), taps_x = CeilDiv(k[1] - tap_x, stride);
      const int64_t first_y = (y + top - tap_y) / stride + before_y - (taps_y - 1);
      const int64_t first_x = (x + left - tap_x) / stride + before_x - (taps_x - 1);
      Grid grid{CeilDiv(in[1] - y, stride), CeilDiv(in[2] - x, stride), from.width * in_channels,
                in_channels, stride * in[2] * channels, stride * channels};
      grid.out_offset = (y * in[2] + x) * channels;
      for (int64_t t = 0; t < taps_y && taps_x > 0; ++t)
        grid.stretches.push_back(
            {((first_y + t) * from.width + first_x) * in_channels, taps_x * in_channels});
      memory = grid.Pack(
          pool, channels, in_channels,
          [&](int64_t i) {
            const int64_t tap = i / in_channels;
            const int64_t ky = tap_y + (taps_y - 1 - tap / taps_x) * stride;
            const int64_t kx = tap_x + (taps_x - 1 - tap % taps_x) * stride;
            return w + (ky * k[1] + kx) * channels * in_channels + i % in_channels;
          },
          memory);
      grids.push_back(std::move(grid));
    }
  }
  ComputeGrids(pool, grids, from, result->typed_data(), in[1] * in[2] * channels);
  return ffi::Error::Success();
}

// sums[p][c] += sum over pixels of x[p] * grad[c], for kRows floats p and kVectors vectors of channels.
// `x` moves by column_x and row_x floats, `grad` by `channels` from pixel to pixel.
struct Pixels {
  int64_t images, rows, columns;
  int64_t image_x, row_x, column_x, image_grad, channels;
};

template <typename V, int kVectors, int kRows>
void OuterTile(const float* x, const float* grad, const Pixels& pixels, float* sums, int64_t stride) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  V acc[kRows][kVectors] = {};
  for (int64_t n = 0; n < pixels.images; ++n) {
    const float* d = grad + n * pixels.image_grad;
    for (int64_t row = 0; row < pixels.rows; ++row) {
      const float* s = x + n * pixels.image_x + row * pixels.row_x;
      for (int64_t column = 0; column < pixels.columns; ++column) {
        V g[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) g[v] = Load<V>(d + v * lanes);
#pragma GCC unroll 8
        for (int p = 0; p < kRows; ++p) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) acc[p][v] += s[p] * g[v];
        }
        s += pixels.column_x;
        d += pixels.channels;
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kRows; ++p) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* to = sums + p * stride + v * lanes;
      Store(to, Load<V>(to) + acc[p][v]);
    }
  }
}

template <typename V, int kVectors, int kRows = kPixels>
void OuterTileOf(int rows, const float* x, const float* grad, const Pixels& pixels, float* sums,
                 int64_t stride) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return OuterTile<V, kVectors, kRows>(x, grad, pixels, sums, stride);
    OuterTileOf<V, kVectors, kRows - 1>(rows, x, grad, pixels, sums, stride);
  }
}

// [row, channel] of `wide` channels; what lies beyond those of `from` has no meaning.
const float* Widened(const float* from, int64_t rows, int64_t channels, int64_t wide) {
  if (wide == channels) return from;
  float* const widened = Scratch(kWidened, rows * wide);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < channels; c += kHalf) {
      const int64_t place = row * channels + c;
      if (place + kHalf <= rows * channels) {
        Store(widened + row * wide + c, Load<HalfVector>(from + place));
      } else {
        CopyFew(from + place, channels - c, widened + row * wide + c);
      }
    }
  }
  return widened;
}

// The gradient to the kernel: for each of its rows a matrix [column and in channel, out channel], a sum
// over the pixels of the batch. Images are added in groups, and groups together at the end.
ffi::Error ConvGradKernel(ffi::ThreadPool pool, Buffer images, Buffer grad, int64_t stride, int64_t top,
                          int64_t left, Result result) {
  const auto out = grad.dimensions(), k = result->dimensions();
  const int64_t in_channels = k[2], channels = k[3];
  const int64_t wide = CeilDiv(channels, kHalf) * kHalf;
  int64_t rows = out[1], columns = out[2];
  Images in(images, (rows - 1) * stride + k[0], (columns - 1) * stride + k[1], top, left);
  if (IsPointwise(k, stride, in)) {
    // All pixels are alike: cut them into "images" of a size that suits.
    const int64_t pixels = in.batch * in.height * in.width;
    int64_t piece = 1;
    while (pixels % (2 * piece) == 0 && 2 * piece * (in_channels + wide) <= kCacheFloats &&
           pixels / (2 * piece) >= 8)
      piece *= 2;
    in.batch = pixels / piece;
    in.image_height = in.height = rows = 1;
    in.image_width = in.width = columns = piece;
  }
  const int64_t line = k[1] * in_channels, size = k[0] * line * wide;
  const int64_t line_tiles = CeilDiv(line, kPixels), tiles = k[0] * line_tiles;
  const int64_t groups = std::clamp<int64_t>((1 << 21) / size, 1, std::min<int64_t>(8, in.batch));
  const int64_t splits = std::min(CeilDiv(8, groups), tiles);
  const int64_t chunk = std::clamp<int64_t>(kCacheFloats / (in.size() + rows * columns * wide), 1,
                                            CeilDiv(in.batch, groups));
  float* const partial =
      groups == 1 && wide == channels ? result->typed_data() : Scratch(kShared, groups * size);
  const int64_t cost = in.batch * rows * columns * size / kLanes;
  ParallelFor(pool, groups * splits, cost / (groups * splits), [&](int64_t task) {
    const int64_t group = task / splits, split = task % splits;
    const int64_t end = in.batch * (group + 1) / groups;
    const int64_t first_tile = tiles * split / splits, last_tile = tiles * (split + 1) / splits;
    float* const sums = partial + group * size;
    const auto place = [&](int64_t tile) {  // in the rows of the kernel's matrices, all together
      return tile / line_tiles * line + tile % line_tiles * kPixels;
    };
    if (last_tile > first_tile) {
      const int64_t to = last_tile == tiles ? k[0] * line : place(last_tile);
      std::fill(sums + place(first_tile) * wide, sums + to * wide, 0.0f);
    }
    for (int64_t first = in.batch * group / groups; first < end; first += chunk) {
      const int64_t count = std::min(chunk, end - first);
      const float* x = in.Frames(first, count);
      const float* d = Widened(grad.typed_data() + first * rows * columns * channels,
                               count * rows * columns, channels, wide);
      const Pixels pixels{count, rows, columns, in.size(), stride * in.width * in_channels,
                          stride * in_channels, rows * columns * wide, wide};
      for (int64_t tile = first_tile; tile < last_tile; ++tile) {
        const int64_t ky = tile / line_tiles, i = tile % line_tiles * kPixels;
        const int taken = static_cast<int>(std::min<int64_t>(kPixels, line - i));
        const float* from = x + ky * in.width * in_channels + i;
        float* const to = sums + place(tile) * wide;
        int64_t c = 0;
        for (; c + 2 * kLanes <= wide; c += 2 * kLanes)
          OuterTileOf<Vector, 2>(taken, from, d + c, pixels, to + c, wide);
        for (; c + kLanes <= wide; c += kLanes)
          OuterTileOf<Vector, 1>(taken, from, d + c, pixels, to + c, wide);
        if (c < wide) OuterTileOf<HalfVector, 1>(taken, from, d + c, pixels, to + c, wide);
      }
    }
  });
  if (partial != result->typed_data()) {
    const int64_t depth = k[0] * line;
    ParallelFor(pool, depth, groups * wide / kLanes, [&](int64_t i) {
      float* to = result->typed_data() + i * channels;
      std::fill_n(to, channels, 0.0f);
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t c = 0; c < channels; ++c) to[c] += partial[g * size + i * wide + c];
    });
  }
  return ffi::Error::Success();
}

// ---- Depthwise convolution -----------------------------------------------------------------------

// Along an axis, which taps of the kernel meet which places of the input, for each place of the output.
struct Tap {
  int64_t tap, place;
};
using Taps = std::vector<std::vector<Tap>>;

Taps TapsOf(int64_t out, int64_t in, int64_t window, int64_t stride, int64_t padding) {
  Taps taps(out);
  for (int64_t o = 0; o < out; ++o)
    for (int64_t k = 0; k < window; ++k) {
      const int64_t place = o * stride + k - padding;
      if (place >= 0 && place < in) taps[o].push_back({k, place});
    }
  return taps;
}

// The same the other way: which taps took a place of the input to which places of the output.
Taps Transposed(const Taps& taps, int64_t in) {
  Taps result(in);
  for (size_t o = 0; o < taps.size(); ++o)
    for (const Tap& t : taps[o]) result[t.place].push_back({t.tap, static_cast<int64_t>(o)});
  return result;
}

// Calls work(first channel, vectors) such that all whole vectors are taken, four at a time if possible,
// with the number of vectors as a compile-time constant; then rest(first channel) for those that are left.
template <typename Work, typename Rest>
void ForChannels(int64_t channels, const Work& work, const Rest& rest) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) work(c, std::integral_constant<int, 4>());
  for (; c + kLanes <= channels; c += kLanes) work(c, std::integral_constant<int, 1>());
  for (; c < channels; ++c) rest(c);
}

void Depthwise(ffi::ThreadPool& pool, const Taps& rows, const Taps& columns, const Buffer& images,
               const Buffer& kernel, float* out) {
  const auto in = images.dimensions();
  const int64_t width = in[2], channels = in[3], window = kernel.dimensions()[1];
  const float* weights = kernel.typed_data();
  const int64_t lines = rows.size(), line = columns.size() * channels;
  ParallelFor(pool, in[0] * lines, line, [&](int64_t task) {
    const float* image = images.typed_data() + task / lines * in[1] * width * channels;
    const std::vector<Tap>& taps_y = rows[task % lines];
    float* to = out + task * line;
    for (const std::vector<Tap>& taps_x : columns) {
      const auto sum = [&](int64_t c, auto zero, const auto& add) {
        for (const Tap& y : taps_y)
          for (const Tap& x : taps_x)
            add(zero, image + (y.place * width + x.place) * channels + c,
                weights + (y.tap * window + x.tap) * channels + c);
        return zero;
      };
      ForChannels(
          channels,
          [&](int64_t c, auto vectors) {
            struct Sums {
              Vector of[decltype(vectors)::value];
            };
            const Sums sums = sum(c, Sums{}, [](Sums& s, const float* x, const float* w) {
#pragma GCC unroll 4
              for (int v = 0; v < decltype(vectors)::value; ++v)
                s.of[v] += Load(x + v * kLanes) * Load(w + v * kLanes);
            });
#pragma GCC unroll 4
            for (int v = 0; v < decltype(vectors)::value; ++v) Store(to + c + v * kLanes, sums.of[v]);
          },
          [&](int64_t c) {
            to[c] = sum(c, 0.0f, [](float& s, const float* x, const float* w) { s += *x * *w; });
          });
      to += channels;
    }
  });
}

ffi::Error DepthwiseForward(ffi::ThreadPool pool, Buffer images, Buffer kernel, int64_t stride,
                            int64_t top, int64_t left, Result result) {
  const auto in = images.dimensions(), k = kernel.dimensions(), out = result->dimensions();
  Depthwise(pool, TapsOf(out[1], in[1], k[0], stride, top), TapsOf(out[2], in[2], k[1], stride, left),
            images, kernel, result->typed_data());
  return ffi::Error::Success();
}

ffi::Error DepthwiseGradImages(ffi::ThreadPool pool, Buffer grad, Buffer kernel, int64_t stride,
                               int64_t top, int64_t left, Result result) {
  const auto out = grad.dimensions(), k = kernel.dimensions(), in = result->dimensions();
  Depthwise(pool, Transposed(TapsOf(out[1], in[1], k[0], stride, top), in[1]),
            Transposed(TapsOf(out[2], in[2], k[1], stride, left), in[2]), grad, kernel,
            result->typed_data());
  return ffi::Error::Success();
}

// result[i] = sum over groups of partial[group][i], in double precision.
void SumGroups(const float* partial, int64_t groups, int64_t size, float* result) {
  for (int64_t i = 0; i < size; ++i) {
    double sum = 0;
    for (int64_t g = 0; g < groups; ++g) sum += partial[g * size + i];
    result[i] = static_cast<float>(sum);
  }
}

ffi::Error DepthwiseGradKernel(ffi::ThreadPool pool, Buffer images, Buffer grad, int64_t stride,
                               int64_t top, int64_t left, Result result) {
  const auto in = images.dimensions(), out = grad.dimensions(), k = result->dimensions();
  const int64_t channels = in[3], size = k[0] * k[1] * channels;
  const Taps rows = TapsOf(out[1], in[1], k[0], stride, top);
  const int64_t groups = std::min<int64_t>(in[0], 32);
  float* const partial = Scratch(kShared, groups * size);
  ParallelFor(pool, groups, CeilDiv(in[0], groups) * out[1] * out[2] * channels, [&](int64_t group) {
    float* const sums = partial + group * size;
    std::fill_n(sums, size, 0.0f);
    for (int64_t n = in[0] * group / groups; n < in[0] * (group + 1) / groups; ++n) {
      for (int64_t row = 0; row < out[1]; ++row) {
        const float* line_grad = grad.typed_data() + (n * out[1] + row) * out[2] * channels;
        for (const Tap& tap : rows[row]) {
          const float* line = images.typed_data() + (n * in[1] + tap.place) * in[2] * channels;
          for (int64_t kx = 0; kx < k[1]; ++kx) {
            // The columns whose place column * stride + kx - left lies in the image.
            const int64_t begin = std::max<int64_t>(0, CeilDiv(left - kx, stride));
            const int64_t end = std::min(out[2], CeilDiv(in[2] + left - kx, stride));
            float* const to = sums + (tap.tap * k[1] + kx) * channels;
            const float* const x = line + (kx - left) * channels;
            ForChannels(
                channels,
                [&](int64_t c, auto vectors) {
                  Vector acc[decltype(vectors)::value] = {};
                  for (int64_t column = begin; column < end; ++column)
#pragma GCC unroll 4
                    for (int v = 0; v < decltype(vectors)::value; ++v)
                      acc[v] += Load(x + column * stride * channels + c + v * kLanes) *
                                Load(line_grad + column * channels + c + v * kLanes);
#pragma GCC unroll 4
                  for (int v = 0; v < decltype(vectors)::value; ++v)
                    Store(to + c + v * kLanes, Load(to + c + v * kLanes) + acc[v]);
                },
                [&](int64_t c) {
                  float acc = 0;
                  for (int64_t column = begin; column < end; ++column)
                    acc += x[column * stride * channels + c] * line_grad[column * channels + c];
                  to[c] += acc;
                });
          }
        }
      }
    }
  });
  SumGroups(partial, groups, size, result->typed_data());
  return ffi::Error::Success();
}

// ---- Max pooling ----------------------------------------------------------------------------------

using Places = ffi::Buffer<ffi::U8>;

// The maximum of each window and its place in the window, row by row; of equals the first, and a NaN is
// larger than any number.
ffi::Error MaxPool(ffi::ThreadPool pool, Buffer images, int64_t window, int64_t stride, int64_t padding,
                   Result result, ffi::Result<Places> places) {
  const auto in = images.dimensions(), out = result->dimensions();
  const int64_t channels = in[3];
  ParallelFor(pool, out[0] * out[1], out[2] * window * window * CeilDiv(channels, 4), [&](int64_t task) {
    const float* image = images.typed_data() + task / out[1] * in[1] * in[2] * channels;
    const int64_t top = task % out[1] * stride - padding;
    const int64_t first_row = std::max<int64_t>(top, 0), last_row = std::min(top + window, in[1]);
    const float* const end = images.typed_data() + images.element_count();
    for (int64_t column = 0; column < out[2]; ++column) {
      const int64_t left = column * stride - padding;
      const int64_t first = std::max<int64_t>(left, 0), last = std::min(left + window, in[2]);
      for (int64_t c = 0; c < channels; c += kHalf) {
        const int64_t here = std::min<int64_t>(kHalf, channels - c);
        const auto load = [&](int64_t row, int64_t i) {
          const float* from = image + (row * in[2] + i) * channels + c;
          if (from + kHalf <= end) return Load<HalfVector>(from);  // beyond the channels without use
          HalfVector few = {};
          for (int64_t k = 0; k < here; ++k) few[k] = from[k];
          return few;
        };
        using Integers = decltype(HalfVector{} > HalfVector{});
        HalfVector largest = load(first_row, first);
        Integers place = Integers{} + static_cast<int>((first_row - top) * window + first - left);
        for (int64_t row = first_row; row < last_row; ++row) {
          for (int64_t i = first; i < last; ++i) {
            const HalfVector x = load(row, i);
            const Integers larger = (x > largest) | (x != x);
            largest = larger ? x : largest;
            place = larger ? Integers{} + static_cast<int>((row - top) * window + i - left) : place;
          }
        }
        const int64_t to = (task * out[2] + column) * channels + c;
        float values[kHalf];
        Store(values, largest);
        CopyFew(values, here, result->typed_data() + to);
        for (int64_t k = 0; k < here; ++k) places->typed_data()[to + k] = static_cast<uint8_t>(place[k]);
      }
    }
  });
  return ffi::Error::Success();
}

ffi::Error MaxPoolGrad(ffi::ThreadPool pool, Buffer grad, Places places, int64_t window, int64_t stride,
                       int64_t padding, Result result) {
  const auto out = grad.dimensions(), in = result->dimensions();
  const int64_t channels = in[3], size = in[1] * in[2] * channels;
  std::vector<int64_t> offsets(window * window);  // of a window's places from its corner
  for (int64_t i = 0; i < window * window; ++i) offsets[i] = (i / window * in[2] + i % window) * channels;
  ParallelFor(pool, in[0], out[1] * out[2] * channels + size / kLanes, [&](int64_t n) {
    float* const image = result->typed_data() + n * size;
    const float* g = grad.typed_data() + n * out[1] * out[2] * channels;
    const uint8_t* place = places.typed_data() + n * out[1] * out[2] * channels;
    std::fill_n(image, size, 0.0f);
    for (int64_t row = 0; row < out[1]; ++row) {
      for (int64_t column = 0; column < out[2]; ++column, g += channels, place += channels) {
        const int64_t corner = (row * stride - padding) * in[2] + column * stride - padding;
        for (int64_t c = 0; c < channels; ++c) image[corner * channels + offsets[place[c]] + c] += g[c];
      }
    }
  });
  return ffi::Error::Success();
}

// ---- Sums over a batch for each channel ----------------------------------------------------------

// result [2, channel] = sum over the rows r of [row, channel] of the two terms that term(r, c, zero) adds
// for channel c; `zero` is a vector of lanes from c on, or one float.
template <typename Term>
void ChannelSums(ffi::ThreadPool& pool, int64_t rows, int64_t channels, const Term& term, float* result) {
  constexpr int64_t kFewRows = 64;
  const int64_t group_rows = std::clamp<int64_t>((1 << 14) / channels, kFewRows, 1024);
  const int64_t groups = CeilDiv(rows, group_rows);
  float* const partial = Scratch(kShared, groups * 2 * channels);
  ParallelFor(pool, groups, group_rows * CeilDiv(channels, kLanes), [&](int64_t group) {
    const int64_t begin = group * group_rows, end = std::min(rows, begin + group_rows);
    float* const first = partial + group * 2 * channels;
    float* const second = first + channels;
    const auto sum = [&](int64_t c, auto zero) {
      using V = decltype(zero);
      V total_a = zero, total_b = zero;
      // Sums of sums of few rows lose less to rounding; two at a time need not wait for each other.
      for (int64_t few = begin; few < end; few += kFewRows) {
        V a[2] = {}, b[2] = {};
        int64_t r = few;
        for (; r + 2 <= std::min(end, few + kFewRows); r += 2) {
          term(r, c, a[0], b[0]);
          term(r + 1, c, a[1], b[1]);
        }
        if (r < std::min(end, few + kFewRows)) term(r, c, a[0], b[0]);
        total_a += a[0] + a[1];
        total_b += b[0] + b[1];
      }
      Store<V>(first + c, total_a);
      Store<V>(second + c, total_b);
    };
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) sum(c, Vector{});
    for (; c < channels; ++c) sum(c, 0.0f);
  });
  SumGroups(partial, groups, 2 * channels, result);
}

// Of x - shift and of its square.
ffi::Error ChannelMoments(ffi::ThreadPool pool, Buffer images, Buffer shift, Result result) {
  const int64_t channels = shift.element_count();
  const float *x = images.typed_data(), *s = shift.typed_data();
  ChannelSums(
      pool, images.element_count() / channels, channels,
      [&](int64_t r, int64_t c, auto& sum, auto& squares) {
        using V = std::decay_t<decltype(sum)>;
        const V deviation = Load<V>(x + r * channels + c) - Load<V>(s + c);
        sum += deviation;
        squares += deviation * deviation;
      },
      result->typed_data());
  return ffi::Error::Success();
}

// With y = (x - mean) * scale + bias, and g the gradient where low < y < high and zero elsewhere: of g
// and of g * (x - mean).
ffi::Error NormalizeGradSums(ffi::ThreadPool pool, Buffer grad, Buffer images, Buffer mean, Buffer scale,
                             Buffer bias, float low, float high, Result result) {
  const int64_t channels = mean.element_count();
  const float *d = grad.typed_data(), *x = images.typed_data(), *m = mean.typed_data(),
              *s = scale.typed_data(), *b = bias.typed_data();
  ChannelSums(
      pool, images.element_count() / channels, channels,
      [&](int64_t r, int64_t c, auto& sum, auto& products) {
        using V = std::decay_t<decltype(sum)>;
        const V deviation = Load<V>(x + r * channels + c) - Load<V>(m + c);
        const V y = deviation * Load<V>(s + c) + Load<V>(b + c);
        const V g = (y <= low) | (y >= high) ? V{} : Load<V>(d + r * channels + c);
        sum += g;
        products += g * deviation;
      },
      result->typed_data());
  return ffi::Error::Success();
}

}  // namespace

#define CONVOLUTION(name, function)                 \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,     \
                                ffi::Ffi::Bind()    \
                                    .Ctx<ffi::ThreadPool>() \
                                    .Arg<Buffer>()  \
                                    .Arg<Buffer>()  \
                                    .Attr<int64_t>("stride") \
                                    .Attr<int64_t>("top")    \
                                    .Attr<int64_t>("left")   \
                                    .Ret<Buffer>())

CONVOLUTION(conv_forward, ConvForward);
CONVOLUTION(conv_grad_images, ConvGradImages);
CONVOLUTION(conv_grad_kernel, ConvGradKernel);
CONVOLUTION(depthwise_forward, DepthwiseForward);
CONVOLUTION(depthwise_grad_images, DepthwiseGradImages);
CONVOLUTION(depthwise_grad_kernel, DepthwiseGradKernel);

XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool, MaxPool,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>()
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("padding")
                                  .Ret<Buffer>()
                                  .Ret<Places>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool_grad, MaxPoolGrad,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Places>()
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("padding")
                                  .Ret<Buffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    channel_moments, ChannelMoments,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(normalize_grad_sums, NormalizeGradSums,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Attr<float>("low")
                                  .Attr<float>("high")
                                  .Ret<Buffer>());
