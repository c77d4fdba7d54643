// Matrix products in tiles of a few pixels by a few vectors of channels. Their sums stay in registers.

#pragma once

#include <vector>

#include "basics.h"

namespace {

// A run of consecutive floats, at an offset from a pixel's corner in the frame. An output pixel is a weighted
// sum over the floats of several stretches.
struct Stretch {
  int64_t offset, length;
};

// out[p][c] = sum over the floats i of the stretches of x[p][i] * weights[i][c], for `pixels` (of kPixels)
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

// The tile width that wastes the fewest channels. Among equals, the widest wins.
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

// A grid of output pixels that are sums over the same stretches. Its weights are in the order in which
// tiles read them: [block of channels][float of the stretches][channel of the block].
struct Grid {
  int64_t rows, columns;
  int64_t in_row, in_column, out_row, out_column;  // steps from pixel to pixel, in floats
  int64_t out_offset = 0;
  std::vector<Stretch> stretches;
  int64_t channels = 0, depth = 0;
  const float* weights = nullptr;

  int64_t blocks() const { return CeilDiv(channels, KindOfTile(channels).width); }

  // Writes the weights in order into `memory` and returns its end. The weight of float i of the stretches
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

// sums[p][c] += sum over pixels of x[p] * grad[c], for kRows floats p and kVectors vectors of channels.
// From pixel to pixel, `x` moves by column_x and row_x floats and `grad` by `channels` floats.
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

}  // namespace
