// out[n, p] = sum over channels of weight h
#pragma once
#include "cpu_grad.h"

template <class T, class A> void channel_sum_planes(const ChannelSum& p, const std::vector<A>& weight) {
  const T *g = (const T*)p.g, *y = (const T*)p.y;
  const Activation<A> act = activation_of<A>(p);
  const i64 segments = ceil_div(p.p, kSegment);
  for_each_job(p.n * segments, p.n * p.c * p.p, p.threads, [=, &p, &weight](i64 job) {
    A h[kSegment];
    LaneSums<A> sums;
    const i64 n = job / segments, first = job % segments * kSegment, length = std::min(kSegment, p.p - first);
    sums.clear(length);
    for (i64 c = 0; c < p.c; ++c) {
      const i64 at = (n * p.c + c) * p.p + first;
      slope_row(g + at, y ? y + at : nullptr, h, length, act);
      add_row((const A*)h, Scalar<A>{weight[(size_t)(n * p.c + c)]}, length, sums.recent);
      if (c % 32 == 31) sums.flush(length);
    }
    sums.store(length, length, (A*)p.out + n * p.p + first);
  });
}

template <class T, class A> void channel_sum_pixels(const ChannelSum& p, const std::vector<A>& weight) {
  const T *g = (const T*)p.g, *y = (const T*)p.y;
  const Activation<A> act = activation_of<A>(p);
  const i64 group = std::max<i64>(1, kGrain / p.c), groups = ceil_div(p.p, group);
  for_each_job(p.n * groups, p.n * p.c * p.p, p.threads, [=, &p, &weight](i64 job) {
    A h[kSegment];
    const i64 n = job / groups, first = job % groups * group, last = std::min(p.p, first + group);
    for (i64 pixel = first; pixel < last; ++pixel) {
      double sum = 0;
      for (i64 c = 0; c < p.c; c += kSegment) {
        const i64 length = std::min(kSegment, p.c - c);
        const i64 at = (n * p.p + pixel) * p.c + c;
        slope_row(g + at, y ? y + at : nullptr, h, length, act);
        sum += dot_row((const A*)h, weight.data() + n * p.c + c, length);
      }
      ((A*)p.out)[n * p.p + pixel] = (A)sum;
    }
  });
}

template <class T> void channel_sum(const ChannelSum& p) {
  typedef ArithmeticOf<T> A;
  if (p.c == 0) std::fill_n((A*)p.out, p.n * p.p, (A)0);
  if (p.n == 0 || p.c == 0 || p.p == 0) return;
  const std::vector<A> weight = weights_of<A>(p);
  if (rows_of_channels(p)) {
    channel_sum_pixels<T>(p, weight);
  } else {
    channel_sum_planes<T>(p, weight);
  }
}
