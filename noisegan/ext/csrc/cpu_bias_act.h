// y = clamp(gain lrelu(x scale + strength noise + bias))
#pragma once
#include "cpu_philox.h"

// A row of x; `noise` may be null. Scale, Bias and Strength are rows or Scalars; scale and bias have the gain in them.
template <class T, class A, class Scale, class Bias, class Strength>
NG_ROW void act_row(const T* x, T* y, i64 length, Scale scale, Bias bias, Strength strength, const A* noise,
                    const Activation<A>& given, Stores<T> put) {
  const Activation<A> act = given;
  if (noise) {
    for_lanes<A>(length, [=](i64 i, auto zero) {
      typedef decltype(zero) V;
      const V shift = spread<V>(act.gain) * load<V>(strength + i) * load<V>(noise + i) + load<V>(bias + i);
      put(y + i, act(load<V>(x + i) * load<V>(scale + i) + shift));
    });
  } else {
    for_lanes<A>(length, [=](i64 i, auto zero) {
      typedef decltype(zero) V;
      put(y + i, act(load<V>(x + i) * load<V>(scale + i) + load<V>(bias + i)));
    });
  }
}

// Rows of channels with a number per pixel for the noise. Scale and bias have the gain in them.
template <class T, class A>
NG_ROW void act_pixels(const T* x, T* y, i64 pixels, i64 channels, const A* scale, const A* bias, const A* noise,
                       const Activation<A>& given, Stores<T> put) {
  const Activation<A> act = given;
  for (i64 k = 0; k < pixels; ++k, x += channels, y += channels) {
    const A number = act.gain * noise[k];
    for_lanes<A>(channels, [=](i64 c, auto zero) {
      typedef decltype(zero) V;
      const V shift = spread<V>(number) + load<V>(bias + c);
      put(y + c, act(load<V>(x + c) * load<V>(scale + c) + shift));
    });
  }
}

// out = strength noise, rows with any strides
template <class A>
NG_ROW const A* product_row(const A* strength, i64 strength_stride, const A* noise, i64 noise_stride, i64 length,
                            A* out) {
  if (strength_stride == 0 && noise_stride == 0) {
    std::fill_n(out, length, *strength * *noise);
  } else {
    for (i64 i = 0; i < length; ++i) out[i] = strength[i * strength_stride] * noise[i * noise_stride];
  }
  return out;
}

// Rows of pixels: scale and bias are numbers, and so is the strength unless it is a map.
template <class T, class A>
void bias_act_planes(const BiasAct& p, const Operand<A>& strength, const Operand<A>& noise, bool noisy) {
  const T* x = (const T*)p.x;
  T* y = (T*)p.y;
  const A *scale = (const A*)p.scale, *bias = (const A*)p.bias;
  const Activation<A> act(p);
  const Stores<T> put(p.x == p.y ? 0 : p.n * p.c * p.p);  // to overwrite, lines have been read
  const i64 planes = p.n * p.c, group = std::max<i64>(1, kGrain / p.p);
  // Noise in rows is read where it is, else products are made of parts of rows.
  const bool dense = !noisy || (noise.p == 1 && strength.p <= 1);
  for_each_job(ceil_div(planes, group), planes * p.p, p.threads, [=, &p](i64 job) {
    A products[kSegment];
    for (i64 plane = job * group; plane < std::min(planes, (job + 1) * group); ++plane) {
      const i64 n = plane / p.c, c = plane % p.c, step = dense ? p.p : kSegment;
      const Scalar<A> s = {act.gain * (scale ? scale[plane] : (A)1)}, b = {act.gain * (bias ? bias[c] : (A)0)};
      for (i64 i = 0; i < p.p; i += step) {
        const i64 at = plane * p.p + i, length = std::min(step, p.p - i);
        const A *r = strength.at(n, c, i), *e = noisy ? noise.at(n, c, i) : nullptr;
        if (!dense) e = product_row(r, strength.p, e, noise.p, length, products);
        if (dense && noisy && strength.p == 1) {
          act_row(x + at, y + at, length, s, b, r, e, act, put);
        } else {
          act_row(x + at, y + at, length, s, b, Scalar<A>{dense && noisy ? *r : (A)1}, e, act, put);
        }
      }
    }
  });
}

// Rows of channels: scale and bias are rows. With few channels several pixels make one row, for which both repeat.
template <class T, class A>
void bias_act_pixels(const BiasAct& p, const Operand<A>& strength, const Operand<A>& noise, bool noisy) {
  const T* x = (const T*)p.x;
  T* y = (T*)p.y;
  const Activation<A> act(p);
  const Stores<T> put(p.x == p.y ? 0 : p.n * p.c * p.p);  // to overwrite, lines have been read
  const i64 repeat = std::max<i64>(1, kSegment / p.c), period = repeat * p.c, scales = p.scale ? p.n : 1;
  std::vector<A> scale((size_t)(scales * period)), bias((size_t)period);
  for (i64 n = 0; n < scales; ++n)
    repeat_row(p.scale ? (const A*)p.scale + n * p.c : nullptr, (A)1, act.gain, p.c, period, scale.data() + n * period);
  repeat_row((const A*)p.bias, (A)0, act.gain, p.c, period, bias.data());

  const i64 group = repeat * std::max<i64>(1, kGrain / period), groups = ceil_div(p.p, group);
  // A short loop per pixel costs more than a row of products.
  const bool shared = noisy && strength.c == 0 && noise.c == 0 && p.c >= 16;
  for_each_job(p.n * groups, p.n * p.p * p.c, p.threads, [=, &p, &scale, &bias](i64 job) {
    A products[kSegment];
    const i64 n = job / groups, first = job % groups * group, last = std::min(p.p, first + group);
    const A *s = scale.data() + (p.scale ? n * period : 0), *b = bias.data();
    for (i64 pixel = first; pixel < last; pixel += repeat) {
      const i64 pixels = std::min(repeat, last - pixel);
      for (i64 c = 0; c < p.c; c += kSegment) {
        const i64 at = (n * p.p + pixel) * p.c + c, channels = std::min(kSegment, p.c - c);
        if (shared) {
          product_row(strength.at(n, 0, pixel), strength.p, noise.at(n, 0, pixel), noise.p, pixels, products);
          act_pixels(x + at, y + at, pixels, channels, s + c, b + c, (const A*)products, act, put);
          continue;
        }
        for (i64 i = 0; i < (noisy ? pixels : 0); ++i) {
          const A *r = strength.at(n, c, pixel + i), *e = noise.at(n, c, pixel + i);
          product_row(r, strength.c, e, noise.c, channels, products + i * channels);
        }
        act_row(x + at, y + at, pixels * channels, s + c, b + c, Scalar<A>{1}, noisy ? products : nullptr, act, put);
      }
    }
  });
}

template <class T> void bias_act(const BiasAct& p) {
  typedef ArithmeticOf<T> A;
  if (p.n == 0 || p.c == 0 || p.p == 0) return;
  const Noise none = {};
  const NoiseMap<A> noise(p.strength ? p.noise : none, p.n, p.p, p.threads);
  const Operand<A> strength = {(const A*)p.strength, p.strength_n, p.strength_c, p.strength_p};
  const bool noisy = strength.data && noise.operand.data;
  if (rows_of_channels(p)) {
    bias_act_pixels<T>(p, strength, noise.operand, noisy);
  } else {
    bias_act_planes<T>(p, strength, noise.operand, noisy);
  }
}
