// Max pooling.

#pragma once

#include <vector>

#include "basics.h"

namespace {

using Places = ffi::Buffer<ffi::U8>;

// The maximum of each window and its position in the window, counted row by row. Of equal values the first
// counts; NaN is larger than any number.
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
          if (from + kHalf <= end) return Load<HalfVector>(from);  // lanes beyond the channels are unused
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
  std::vector<int64_t> offsets(window * window);  // of the positions in a window from its corner
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

}  // namespace
