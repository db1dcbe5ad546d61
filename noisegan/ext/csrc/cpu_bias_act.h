// y = clamp(gain lrelu(x scale + strength noise + bias))
#pragma once
#include "cpu_philox.h"

template <class A, class Scale, class Bias, class Strength, class Value>
void act_row(const A* x, A* y, i64 length, Scale scale, Bias bias, Strength strength, Value noise, Activation<A> act) {
#pragma omp simd
  for (i64 i = 0; i < length; ++i) y[i] = act(x[i] * scale[i] + (strength[i] * noise[i] + bias[i]));
}

template <class A, class Scale, class Bias>
void act_row(const A* x, A* y, i64 length, Scale scale, Bias bias, Activation<A> act) {
#pragma omp simd
  for (i64 i = 0; i < length; ++i) y[i] = act(x[i] * scale[i] + bias[i]);
}

// One segment, with the noise as it comes along the row: `strength` and `noise` point at the first element.
template <class T, class A, class Scale, class Bias>
void bias_act_segment(const T* x, T* y, i64 length, Scale scale, Bias bias, const A* strength, i64 strength_stride,
                      const A* noise, i64 noise_stride, const Activation<A>& act) {
  A wide[kSegment], strengths[kSegment], noises[kSegment];
  const A* row = widen_row(x, length, wide);
  A* out = target_row(y, wide);
  if (!strength || !noise) {
    act_row(row, out, length, scale, bias, act);
  } else if (strength_stride == 0 && noise_stride == 0) {
    act_row(row, out, length, scale, bias, Scalar<A>{*strength}, Scalar<A>{*noise}, act);
  } else {
    const A* e = gather_row(noise, noise_stride, length, noises);
    if (strength_stride == 0) {
      act_row(row, out, length, scale, bias, Scalar<A>{*strength}, e, act);
    } else {
      act_row(row, out, length, scale, bias, gather_row(strength, strength_stride, length, strengths), e, act);
    }
  }
  finish_row(out, length, y);
}

// Rows of pixels: scale and bias are numbers.
template <class T, class A> void bias_act_planes(const BiasAct& p, const Operand<A>& strength, const Operand<A>& noise) {
  const T* x = (const T*)p.x;
  T* y = (T*)p.y;
  const A *scale = (const A*)p.scale, *bias = (const A*)p.bias;
  const Activation<A> act = activation_of<A>(p);
  const i64 planes = p.n * p.c, group = std::max<i64>(1, kGrain / p.p);
  for_each_job(ceil_div(planes, group), planes * p.p, p.threads, [=, &p](i64 job) {
    for (i64 plane = job * group; plane < std::min(planes, (job + 1) * group); ++plane) {
      const i64 n = plane / p.c, c = plane % p.c;
      const Scalar<A> s = {scale ? scale[plane] : (A)1}, b = {bias ? bias[c] : (A)0};
      for (i64 i = 0; i < p.p; i += kSegment) {
        const A* r = strength.data ? strength.at(n, c, i) : nullptr;
        const A* e = noise.data ? noise.at(n, c, i) : nullptr;
        const i64 at = plane * p.p + i, length = std::min(kSegment, p.p - i);
        bias_act_segment(x + at, y + at, length, s, b, r, strength.p, e, noise.p, act);
      }
    }
  });
}

// Rows of channels: scale and bias are rows. Without noise several pixels make one row, for which scale and bias repeat.
template <class T, class A> void bias_act_pixels(const BiasAct& p, const Operand<A>& strength, const Operand<A>& noise) {
  const T* x = (const T*)p.x;
  T* y = (T*)p.y;
  const Activation<A> act = activation_of<A>(p);
  const bool noisy = strength.data && noise.data;
  const i64 repeat = noisy ? 1 : std::max<i64>(1, kSegment / p.c), period = repeat * p.c;
  const i64 scales = p.scale ? p.n : 1;
  std::vector<A> scale((size_t)(scales * period), (A)1), bias((size_t)period, (A)0);
  for (i64 i = 0; i < scales * period; ++i)
    if (p.scale) scale[(size_t)i] = ((const A*)p.scale)[i / period * p.c + i % p.c];
  for (i64 i = 0; i < period; ++i)
    if (p.bias) bias[(size_t)i] = ((const A*)p.bias)[i % p.c];

  const i64 group = repeat * std::max<i64>(1, kGrain / period), groups = ceil_div(p.p, group);
  for_each_job(p.n * groups, p.n * p.p * p.c, p.threads, [=, &p, &scale, &bias](i64 job) {
    const i64 n = job / groups, first = job % groups * group, last = std::min(p.p, first + group);
    const A* s = scale.data() + (p.scale ? n * period : 0);
    for (i64 pixel = first; pixel < last; pixel += repeat) {
      const i64 row = std::min(repeat, last - pixel) * p.c;
      for (i64 c = 0; c < row; c += kSegment) {
        const A* r = noisy ? strength.at(n, c, pixel) : nullptr;
        const A* e = noisy ? noise.at(n, c, pixel) : nullptr;
        const i64 at = (n * p.p + pixel) * p.c + c, length = std::min(kSegment, row - c);
        bias_act_segment(x + at, y + at, length, s + c, bias.data() + c, r, strength.c, e, noise.c, act);
      }
    }
  });
}

template <class T> void bias_act(const BiasAct& p) {
  typedef ArithmeticOf<T> A;
  if (p.n == 0 || p.c == 0 || p.p == 0) return;
  const NoiseMap<A> noise(p.noise, p.n, p.p, p.threads);
  const Operand<A> strength = {(const A*)p.strength, p.strength_n, p.strength_c, p.strength_p};
  if (rows_of_channels(p)) {
    bias_act_pixels<T>(p, strength, noise.operand);
  } else {
    bias_act_planes<T>(p, strength, noise.operand);
  }
}
