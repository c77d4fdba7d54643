// 3x3 convolution with stride 1: computes squares of 2x2 results from squares of 4x4 pixels, with 16
// multiplications instead of 36: F(2x2, 3x3) of Lavin and Gray, 2016. With their matrices, the results
// are A^T [(G k G^T) * (B^T x B)] A, and the gradient of the kernel is G^T [(B^T x B) * (A g A^T)] G. The
// sums over channels or squares are 16 matrix products, one per position in a square.

#pragma once

#include "tiles.h"

namespace {

constexpr int kPlaces = 16;

// The matrices, applied to one row or column.
struct InputTransform {  // B^T
  static constexpr int kIn = 4, kOut = 4;
  static void Apply(const Vector* x, Vector* y) {
    y[0] = x[0] - x[2], y[1] = x[1] + x[2], y[2] = x[2] - x[1], y[3] = x[1] - x[3];
  }
};
struct KernelTransform {  // G
  static constexpr int kIn = 3, kOut = 4;
  static void Apply(const Vector* x, Vector* y) {
    const Vector even = 0.5f * (x[0] + x[2]), odd = 0.5f * x[1];
    y[0] = x[0], y[1] = even + odd, y[2] = even - odd, y[3] = x[2];
  }
};
struct OutputTransform {  // A^T
  static constexpr int kIn = 4, kOut = 2;
  static void Apply(const Vector* x, Vector* y) {
    y[0] = x[0] + x[1] + x[2], y[1] = x[1] - x[2] - x[3];
  }
};
struct GradTransform {  // A
  static constexpr int kIn = 2, kOut = 4;
  static void Apply(const Vector* x, Vector* y) {
    y[0] = x[0], y[1] = x[0] + x[1], y[2] = x[0] - x[1], y[3] = -x[1];
  }
};
struct KernelGradTransform {  // G^T
  static constexpr int kIn = 4, kOut = 3;
  static void Apply(const Vector* x, Vector* y) {
    const Vector sum = 0.5f * (x[1] + x[2]);
    y[0] = x[0] + sum, y[1] = 0.5f * (x[1] - x[2]), y[2] = sum + x[3];
  }
};

// Applies a matrix to the columns and rows of a square. load(row, column) returns its vectors;
// store(row, column, vector) receives the result.
template <typename Transform, typename LoadAt, typename StoreAt>
inline __attribute__((always_inline)) void TransformSquare(const LoadAt& load, const StoreAt& store) {
  constexpr int in = Transform::kIn, out = Transform::kOut;
  Vector half[out][in];
#pragma GCC unroll 4
  for (int c = 0; c < in; ++c) {
    Vector column[in], result[out];
#pragma GCC unroll 4
    for (int r = 0; r < in; ++r) column[r] = load(r, c);
    Transform::Apply(column, result);
#pragma GCC unroll 4
    for (int r = 0; r < out; ++r) half[r][c] = result[r];
  }
#pragma GCC unroll 4
  for (int r = 0; r < out; ++r) {
    Vector row[out];
    Transform::Apply(half[r], row);
#pragma GCC unroll 4
    for (int c = 0; c < out; ++c) store(r, c, row[c]);
  }
}

// The 2x2 squares of the results of a batch, numbered across all images.
struct Squares {
  int64_t batch, height, width;  // of the results
  int64_t rows() const { return CeilDiv(height, 2); }
  int64_t columns() const { return CeilDiv(width, 2); }
  int64_t count() const { return batch * rows() * columns(); }
  int64_t image(int64_t square) const { return square / (rows() * columns()); }
  int64_t y(int64_t square) const { return square / columns() % rows() * 2; }
  int64_t x(int64_t square) const { return square % columns() * 2; }
};

// Distance between squares in scratch memory. Not a power of two: such addresses share too few cache lines.
int64_t Spaced(int64_t channels) { return channels + kLanes; }

// Transforms squares of pixels whose corners lie `top` and `left` before those of the results; pixels
// outside of the images are zero. Writes the channels from `begin` on as [place][square][channel], with
// Spaced(channels) floats per square and `room` squares per place.
template <typename Transform>
void TransformSquares(const Buffer& images, const Squares& squares, int64_t first, int64_t count,
                      int64_t top, int64_t left, int64_t begin, int64_t channels, int64_t room,
                      float* to) {
  constexpr int size = Transform::kIn;
  const auto shape = images.dimensions();
  const int64_t height = shape[1], width = shape[2], all = shape[3], step = Spaced(channels);
  float* const copy = to + kPlaces * room * step;
  for (int64_t s = 0; s < count; ++s, to += step) {
    const int64_t y = squares.y(first + s) - top, x = squares.x(first + s) - left;
    const float* image = images.typed_data() + squares.image(first + s) * height * width * all + begin;
    const float* corner = image + (y * width + x) * all;
    int64_t row = width * all, column = all;
    if (y < 0 || x < 0 || y + size > height || x + size > width) {
      for (int64_t r = 0; r < size; ++r) {
        for (int64_t c = 0; c < size; ++c) {
          float* const pixel = copy + (r * size + c) * channels;
          const bool inside = y + r >= 0 && y + r < height && x + c >= 0 && x + c < width;
          if (inside) {
            std::memcpy(pixel, corner + r * row + c * column, sizeof(float) * channels);
          } else {
            std::memset(pixel, 0, sizeof(float) * channels);
          }
        }
      }
      corner = copy, row = size * channels, column = channels;
    }
    for (int64_t v = 0; v < channels; v += kLanes)
      TransformSquare<Transform>(
          [&](int r, int c) { return Load(corner + r * row + c * column + v); },
          [&](int r, int c, Vector value) { Store(to + (r * 4 + c) * room * step + v, value); });
  }
}

// Floats of scratch memory that TransformSquares needs.
int64_t TransformedSize(int64_t room, int64_t channels) {
  return kPlaces * (room * Spaced(channels) + channels);
}

// Whether the algorithm pays off: with fewer channels, the transforms cost what it saves.
bool IsWinograd(ffi::Span<const int64_t> kernel, int64_t stride) {
  const int64_t in = kernel[2], out = kernel[3];
  return kernel[0] == 3 && kernel[1] == 3 && stride == 1 && in % kLanes == 0 && out % kLanes == 0 &&
         std::min(in, out) >= 2 * kLanes;
}

// Transforms weights into [block of channels][place][depth][channel of the block]. weight(tap, i, c) points
// to the weight of input i and channel c. The weights of the next channels follow it or, if `turned`, those
// of the next inputs.
template <typename Weight>
void TransformKernel(ffi::ThreadPool& pool, int64_t depth, int64_t channels, bool turned,
                     const Weight& weight, float* to) {
  const int64_t width = KindOfTile(channels).width, blocks = channels / width;
  const int64_t step = turned ? depth : channels;
  ParallelFor(pool, blocks * depth / kLanes, 40 * width, [&](int64_t task) {
    const int64_t block = task % blocks, first = task / blocks * kLanes;
    for (int64_t v = 0; v < width; v += kLanes) {
      float taps[9][kLanes][kLanes];  // [tap][input][channel]
      for (int tap = 0; tap < 9; ++tap) {
        const float* const from = weight(tap, first, block * width + v);
        for (int a = 0; a < kLanes; ++a)
          for (int b = 0; b < kLanes; ++b)
            (turned ? taps[tap][b][a] : taps[tap][a][b]) = from[a * step + b];
      }
      for (int i = 0; i < kLanes; ++i) {
        float* const place = to + (block * kPlaces * depth + first + i) * width + v;
        TransformSquare<KernelTransform>(
            [&](int r, int c) { return Load(taps[3 * r + c][i]); },
            [&](int r, int c, Vector value) { Store(place + (r * 4 + c) * depth * width, value); });
      }
    }
  });
}

// The convolution of `images`, padded by `top` and `left` zeros, with transformed weights.
void WinogradForward(ffi::ThreadPool& pool, const Buffer& images, const float* weights, int64_t top,
                     int64_t left, Result& result) {
  const auto out = result->dimensions();
  const int64_t depth = images.dimensions()[3], channels = out[3];
  const int64_t width = KindOfTile(channels).width, step = Spaced(depth);
  const Squares squares{out[0], out[1], out[2]};
  const int64_t share = CeilDiv(squares.count(), 2 * std::max<int64_t>(1, pool.num_threads()));
  const int64_t room =
      CeilDiv(std::min(std::max<int64_t>(kCacheFloats / (kPlaces * depth), 2 * kPixels), share), kPixels) * kPixels;
  const int64_t cost = room * kPlaces * depth * channels / kLanes;
  ParallelFor(pool, CeilDiv(squares.count(), room), cost, [&](int64_t task) {
    const int64_t first = task * room, count = std::min(room, squares.count() - first);
    float* const in = Scratch(kPadded, TransformedSize(room, depth));
    float* const products = Scratch(kWidened, kPlaces * room * width);
    TransformSquares<InputTransform>(images, squares, first, count, top, left, 0, depth, room, in);
    Grid product{1, count, 0, step, 0, width};
    product.stretches = {{0, depth}};
    product.channels = width, product.depth = depth, product.weights = weights;
    for (int64_t block = 0; block < channels / width; ++block) {
      for (int place = 0; place < kPlaces; ++place, product.weights += depth * width)
        product.ComputeBlock(0, in + place * room * step, products + place * room * width);
      for (int64_t s = 0; s < count; ++s) {
        const int64_t y = squares.y(first + s), x = squares.x(first + s);
        float* const corner =
            result->typed_data() +
            ((squares.image(first + s) * out[1] + y) * out[2] + x) * channels + block * width;
        for (int64_t v = 0; v < width; v += kLanes)
          TransformSquare<OutputTransform>(
              [&](int r, int c) { return Load(products + ((r * 4 + c) * room + s) * width + v); },
              [&](int r, int c, Vector value) {
                if (y + r < out[1] && x + c < out[2])
                  Store(corner + (r * out[2] + c) * channels + v, value);
              });
      }
    }
  });
}

// The gradient of the kernel, [tap][in channel][out channel]. Squares are summed within groups of images,
// then over the groups.
void WinogradGradKernel(ffi::ThreadPool& pool, const Buffer& images, const Buffer& grad, int64_t top,
                        int64_t left, float* result) {
  const auto out = grad.dimensions();
  const int64_t depth = images.dimensions()[3], channels = out[3], size = kPlaces * depth * channels;
  const Squares squares{out[0], out[1], out[2]};
  const int64_t per_image = squares.rows() * squares.columns();
  const int64_t groups = std::clamp<int64_t>((1 << 21) / size, 1, std::min<int64_t>(8, out[0]));
  const int64_t splits = std::min(CeilDiv(8, groups), depth / kLanes);
  const int64_t room =
      std::clamp<int64_t>(kCacheFloats / (kPlaces * (depth / splits + channels)), 64, 256);
  float* const partial = Scratch(kShared, groups * size);
  const int64_t cost = squares.count() * size / kLanes / (groups * splits);
  ParallelFor(pool, groups * splits, cost, [&](int64_t task) {
    const int64_t group = task / splits, split = task % splits;
    const int64_t begin = depth / kLanes * split / splits * kLanes;
    const int64_t taken = depth / kLanes * (split + 1) / splits * kLanes - begin;
    const int64_t end = out[0] * (group + 1) / groups * per_image;
    float* const sums = partial + group * size;
    for (int place = 0; place < kPlaces; ++place)
      std::fill_n(sums + (place * depth + begin) * channels, taken * channels, 0.0f);
    float* const x = Scratch(kPadded, TransformedSize(room, taken));
    float* const d = Scratch(kWidened, TransformedSize(room, channels));
    for (int64_t first = out[0] * group / groups * per_image; first < end; first += room) {
      const int64_t count = std::min(room, end - first);
      TransformSquares<InputTransform>(images, squares, first, count, top, left, begin, taken, room, x);
      TransformSquares<GradTransform>(grad, squares, first, count, 0, 0, 0, channels, room, d);
      const Pixels pixels{1, 1, count, 0, 0, Spaced(taken), 0, Spaced(channels)};
      for (int place = 0; place < kPlaces; ++place) {
        for (int64_t i = 0; i < taken; i += kPixels) {
          const int rows = static_cast<int>(std::min<int64_t>(kPixels, taken - i));
          const float* const from = x + place * room * Spaced(taken) + i;
          const float* const g = d + place * room * Spaced(channels);
          float* const to = sums + (place * depth + begin + i) * channels;
          int64_t c = 0;
          for (; c + 2 * kLanes <= channels; c += 2 * kLanes)
            OuterTileOf<Vector, 2>(rows, from, g + c, pixels, to + c, channels);
          if (c < channels) OuterTileOf<Vector, 1>(rows, from, g + c, pixels, to + c, channels);
        }
      }
    }
  });
  ParallelFor(pool, depth, groups * channels, [&](int64_t i) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      TransformSquare<KernelGradTransform>(
          [&](int row, int column) {
            Vector sum = {};
            for (int64_t g = 0; g < groups; ++g)
              sum += Load(partial + g * size + ((row * 4 + column) * depth + i) * channels + c);
            return sum;
          },
          [&](int row, int column, Vector value) {
            Store(result + ((row * 3 + column) * depth + i) * channels + c, value);
          });
    }
  });
}

}  // namespace
