// Sums over a batch for each channel, for batch norm.

#pragma once

#include <type_traits>

#include "basics.h"

namespace {

// result [2, channel] = sums over the rows r of the two terms term(r, c, zero) of channel c. `zero` is a
// vector (for the channels from c on) or a single float.
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
      // Adding sums of a few rows loses less to rounding. Two independent sums keep the pipeline busy.
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

// Sums of x - shift and of its square.
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

// Sums of g and of g * (x - mean), where g is the gradient if low < (x - mean) * scale + bias < high, and
// zero otherwise.
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
