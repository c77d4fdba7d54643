// Depthwise convolution: each channel has its own kernel.

#pragma once

#include <type_traits>
#include <vector>

#include "basics.h"

namespace {

// Along one axis, for each output position: the taps of the kernel and the input positions they meet.
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

// The reverse, for each input position: the taps and the output positions they contribute to.
Taps Transposed(const Taps& taps, int64_t in) {
  Taps result(in);
  for (size_t o = 0; o < taps.size(); ++o)
    for (const Tap& t : taps[o]) result[t.place].push_back({t.tap, static_cast<int64_t>(o)});
  return result;
}

// Calls work(first channel, vectors) for all whole vectors, four at a time if possible, with the number of
// vectors as a compile-time constant. Then calls rest(first channel) for the remaining channels.
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
            // The columns for which column * stride + kx - left lies inside the image.
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

}  // namespace
