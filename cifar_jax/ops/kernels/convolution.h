// Dense convolution: by Winograd's algorithm if it fits, else directly, as sums over stretches of pixels.

#pragma once

#include <utility>

#include "winograd.h"

namespace {

// Images and their frames, the padded images that a convolution reads: height x width pixels that begin
// `top` and `left` pixels before the image, and are zero outside of it.
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

  // The frames of `count` images, `size()` floats each: in place, or copied to scratch memory.
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

// An upper bound of the floats that Grid::Pack needs.
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

bool IsPointwise(ffi::Span<const int64_t> kernel, int64_t stride, const Images& images) {
  return kernel[0] == 1 && kernel[1] == 1 && stride == 1 && !images.framed();
}

ffi::Error ConvForward(ffi::ThreadPool pool, Buffer images, Buffer kernel, int64_t stride, int64_t top,
                       int64_t left, Result result) {
  const auto k = kernel.dimensions(), out = result->dimensions();
  const int64_t in_channels = k[2], channels = k[3];
  const Images in(images, (out[1] - 1) * stride + k[0], (out[2] - 1) * stride + k[1], top, left);
  const float* w = kernel.typed_data();
  if (IsWinograd(k, stride)) {
    float* const transformed = Scratch(kShared, kPlaces * in_channels * channels);
    const auto weight = [=](int tap, int64_t i, int64_t c) {
      return w + (tap * in_channels + i) * channels + c;
    };
    TransformKernel(pool, in_channels, channels, false, weight, transformed);
    WinogradForward(pool, images, transformed, top, left, result);
    return ffi::Error::Success();
  }
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

// The gradient of an image is a convolution of `grad` with the kernel rotated by 180 degrees. With a
// stride, pixels with the same remainder modulo the stride meet the same taps: one grid per remainder.
ffi::Error ConvGradImages(ffi::ThreadPool pool, Buffer grad, Buffer kernel, int64_t stride, int64_t top,
                          int64_t left, Result result) {
  const auto k = kernel.dimensions(), in = result->dimensions();
  const int64_t channels = k[2], in_channels = k[3];
  const float* w = kernel.typed_data();
  if (IsWinograd(k, stride)) {
    float* const transformed = Scratch(kShared, kPlaces * in_channels * channels);
    const auto weight = [=](int tap, int64_t i, int64_t c) {  // of the rotated kernel
      return w + ((8 - tap) * channels + c) * in_channels + i;
    };
    TransformKernel(pool, in_channels, channels, true, weight, transformed);
    WinogradForward(pool, grad, transformed, 2 - top, 2 - left, result);
    return ffi::Error::Success();
  }
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
      // The first pixel that meets the taps tap_y + t * stride, and the pixel of `grad` of its last tap.
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

// [row, channel] with `wide` channels; those beyond the channels of `from` are undefined.
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

// The gradient of the kernel. Each of its rows is a matrix [column and in channel, out channel], summed
// over the pixels of the batch: first over groups of images, then over the groups.
ffi::Error ConvGradKernel(ffi::ThreadPool pool, Buffer images, Buffer grad, int64_t stride, int64_t top,
                          int64_t left, Result result) {
  const auto out = grad.dimensions(), k = result->dimensions();
  const int64_t in_channels = k[2], channels = k[3];
  if (IsWinograd(k, stride)) {
    WinogradGradKernel(pool, images, grad, top, left, result->typed_data());
    return ffi::Error::Success();
  }
  const int64_t wide = CeilDiv(channels, kHalf) * kHalf;
  int64_t rows = out[1], columns = out[2];
  Images in(images, (rows - 1) * stride + k[0], (columns - 1) * stride + k[1], top, left);
  if (IsPointwise(k, stride, in)) {
    // A 1x1 kernel treats all pixels alike, so cut them into "images" of a convenient size.
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
    const auto place = [&](int64_t tile) {  // in the rows of all matrices of the kernel
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

}  // namespace
