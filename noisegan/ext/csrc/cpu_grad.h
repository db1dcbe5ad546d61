// h = g times the activation's derivative, with its sums over pixels (bias_act_grad) and over channels (channel_sum).
// Sums within a segment are of type A, sums of segments are double: the error does not grow with the map.
#pragma once
#include "cpu_philox.h"

// h for a row; y may be null.
template <class T, class A>
NG_ROW void slope_row(const T* g, const T* y, A* h, i64 length, const Activation<A>& given) {
  const Activation<A> act = given;
  if (y) {
#pragma omp simd
    for (i64 i = 0; i < length; ++i) h[i] = widen(g[i]) * act.derivative(widen(y[i]));
  } else {
#pragma omp simd
    for (i64 i = 0; i < length; ++i) h[i] = widen(g[i]) * act.gain;
  }
}

template <class T, class A, class Factor> NG_ROW void scale_row(const A* h, T* out, i64 length, Factor factor) {
#pragma omp simd
  for (i64 i = 0; i < length; ++i) out[i] = narrow<T>(h[i] * factor[i]);
}

// Four sums side by side: one alone would wait for each of its additions.
template <class A, class Factor> NG_ROW double dot_row(const A* h, Factor factor, i64 length) {
  A s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  const i64 part = length / 4;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (i64 i = 0; i < part; ++i) {
    s0 += h[i] * factor[i];
    s1 += h[i + part] * factor[i + part];
    s2 += h[i + 2 * part] * factor[i + 2 * part];
    s3 += h[i + 3 * part] * factor[i + 3 * part];
  }
  for (i64 i = 4 * part; i < length; ++i) s0 += h[i] * factor[i];
  return (double)(s0 + s1) + (double)(s2 + s3);
}

template <class A, class Factor> NG_ROW void add_row(const A* h, Factor factor, i64 length, A* sums) {
#pragma omp simd
  for (i64 i = 0; i < length; ++i) sums[i] += h[i] * factor[i];
}

// sums[k, c] += e[k] h[k, c]
template <class A> NG_ROW void add_pixels(const A* h, const A* e, i64 pixels, i64 channels, A* sums) {
  for (i64 k = 0; k < pixels; ++k) {
    const A factor = e[k];
#pragma omp simd
    for (i64 c = 0; c < channels; ++c) sums[k * channels + c] += h[k * channels + c] * factor;
  }
}

// out[k] = sum over c of weight[c] h[k, c]
template <class A> NG_ROW void sum_pixels(const A* h, const A* weight, i64 pixels, i64 channels, A* out) {
  for (i64 k = 0; k < pixels; ++k) {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (i64 c = 0; c < channels; ++c) sum += h[k * channels + c] * weight[c];
    out[k] = sum;
  }
}

// weight[n, c] of a sum over channels, dense
template <class A, class P> std::vector<A> weights_of(const P& p) {
  std::vector<A> weight((size_t)(p.n * p.c), (A)1);
  if (p.weight)
    for (i64 i = 0; i < p.n * p.c; ++i)
      weight[(size_t)i] = ((const A*)p.weight)[i / p.c * p.weight_n + i % p.c * p.weight_c];
  return weight;
}

// Computes h of a segment, gives gx, and returns h: in `buffer`, or in gx if that is the same.
template <class T, class A, class Scale>
const A* grad_segment(const BiasActGrad& p, i64 at, i64 length, Scale scale, A* buffer, const Activation<A>& act) {
  const T *g = (const T*)p.g + at, *y = p.y ? (const T*)p.y + at : nullptr;
  T* gx = p.gx ? (T*)p.gx + at : nullptr;
  A* h = gx && !p.scale ? target_row(gx, buffer) : buffer;
  slope_row(g, y, h, length, act);
  if (gx && p.scale) {
    scale_row(h, gx, length, scale);
  } else if (gx) {
    finish_row(h, length, gx);
  }
  return h;
}

// Pixels of a chunk where sums over channels are made beside; host.py: MAP_CHUNK.
constexpr i64 kMapChunk = 2048;

// A row of sums per lane, over rows of channels (or of several pixels' channels).
template <class A, i64 kLength = kSegment> struct LaneSums {
  A recent[kLength];
  double total[kLength];

  void clear(i64 length) {
    std::fill_n(recent, length, (A)0);
    std::fill_n(total, length, 0.0);
  }
  void flush(i64 length) {
#pragma omp simd
    for (i64 i = 0; i < length; ++i) {
      total[i] += (double)recent[i];
      recent[i] = 0;
    }
  }
  // Lanes a period apart belong to the same channel.
  void store(i64 length, i64 period, void* out) {
    flush(length);
    for (i64 c = 0; c < period; ++c) {
      double sum = 0;
      for (i64 i = c; i < length; i += period) sum += total[i];
      ((A*)out)[c] = (A)sum;
    }
  }
};

// One channel of a chunk of pixels: gx, the sums over pixels, and its part of the sums over channels.
template <class T, class A>
void grad_row(const BiasActGrad& p, i64 plane, i64 chunk, const Operand<A>& noise, const Activation<A>& act, A weight,
              A* sum_c) {
  A buffer[kSegment], wide_x[kSegment], noises[kSegment];
  const i64 n = plane / p.c, c = plane % p.c, first = chunk * p.p / p.chunks, last = (chunk + 1) * p.p / p.chunks;
  const Scalar<A> scale = {p.scale ? ((const A*)p.scale)[plane] : (A)1};
  double sum_h = 0, sum_hx = 0, sum_he = 0;
  for (i64 i = first; i < last; i += kSegment) {
    const i64 at = plane * p.p + i, length = std::min(kSegment, last - i);
    const A* h = grad_segment<T>(p, at, length, scale, buffer, act);
    if (p.sum_h) sum_h += dot_row(h, Scalar<A>{1}, length);
    if (p.sum_hx) sum_hx += dot_row(h, widen_row((const T*)p.x + at, length, wide_x), length);
    if (p.sum_he && noise.data) {
      const A* e = gather_row(noise.at(n, c, i), noise.p, length, noises);
      sum_he += dot_row(h, e, length);
    }
    if (sum_c) add_row(h, Scalar<A>{weight}, length, sum_c + i - first);
  }
  const i64 place = (n * p.chunks + chunk) * p.c + c;
  if (p.sum_h) ((A*)p.sum_h)[place] = (A)sum_h;
  if (p.sum_hx) ((A*)p.sum_hx)[place] = (A)sum_hx;
  if (p.sum_he) ((A*)p.sum_he)[place] = (A)sum_he;
}

template <class T, class A> void grad_planes(const BiasActGrad& p, const Operand<A>& noise) {
  const Activation<A> act = activation_of<A>(p);
  const i64 rows = p.n * p.c * p.chunks, group = std::max<i64>(1, kGrain * p.chunks / std::max<i64>(1, p.p));
  for_each_job(ceil_div(rows, group), p.n * p.c * p.p, p.threads, [=, &p](i64 job) {
    for (i64 row = job * group; row < std::min(rows, (job + 1) * group); ++row)
      grad_row<T>(p, row / p.chunks, row % p.chunks, noise, act, (A)0, (A*)nullptr);
  });
}

// With the sums over channels: all channels of a chunk, whose sums stay in the first-level cache. A chunk has
// kMapChunk pixels at most.
template <class T, class A> void grad_chunks(const BiasActGrad& p, const Operand<A>& noise) {
  const Activation<A> act = activation_of<A>(p);
  const std::vector<A> weight = weights_of<A>(p);
  for_each_job(p.n * p.chunks, p.n * p.c * p.p, p.threads, [=, &p, &weight](i64 job) {
    LaneSums<A, kMapChunk> sums;
    const i64 n = job / p.chunks, chunk = job % p.chunks;
    const i64 first = chunk * p.p / p.chunks, length = (chunk + 1) * p.p / p.chunks - first;
    sums.clear(length);
    for (i64 c = 0; c < p.c; ++c) {
      grad_row<T>(p, n * p.c + c, chunk, noise, act, weight[(size_t)(n * p.c + c)], sums.recent);
      if (c % 32 == 31) sums.flush(length);
    }
    sums.store(length, length, (A*)p.sum_c + n * p.p + first);
  });
}

// Rows of up to kSegment lanes: several pixels of few channels, or part of one pixel's channels.
template <class T, class A> void grad_pixels(const BiasActGrad& p, const Operand<A>& noise) {
  const Activation<A> act = activation_of<A>(p);
  const i64 chunks = p.sum_h || p.sum_hx || p.sum_he ? p.chunks : ceil_div(p.p * p.c, kGrain);
  const i64 repeat = std::max<i64>(1, kSegment / p.c);
  const std::vector<A> weight = p.sum_c ? weights_of<A>(p) : std::vector<A>();
  for_each_job(p.n * chunks, p.n * p.c * p.p, p.threads, [=, &p, &weight](i64 job) {
    A buffer[kSegment], wide_x[kSegment], noises[kSegment], scales[kSegment];
    LaneSums<A> sum_h, sum_hx, sum_he;
    A of_segment = 0;
    const Scalar<A> one = {1};
    const i64 n = job / chunks, chunk = job % chunks;
    const i64 first = chunk * p.p / chunks, last = (chunk + 1) * p.p / chunks;
    for (i64 c = 0; c < p.c; c += kSegment) {
      const i64 channels = std::min(kSegment, p.c - c), lanes = repeat * channels;
      if (p.sum_h) sum_h.clear(lanes);
      if (p.sum_hx) sum_hx.clear(lanes);
      if (p.sum_he) sum_he.clear(lanes);
      const A* scale = p.scale ? repeat_row((const A*)p.scale + n * p.c + c, (A)1, channels, lanes, scales) : nullptr;
      i64 rows = 0;
      for (i64 pixel = first; pixel < last; pixel += repeat) {
        const i64 at = (n * p.p + pixel) * p.c + c, pixels = std::min(repeat, last - pixel), length = pixels * channels;
        const A* h = grad_segment<T>(p, at, length, scale, buffer, act);
        if (p.sum_c) {
          A* out = (A*)p.sum_c + n * p.p + pixel;
          sum_pixels(h, weight.data() + n * p.c + c, pixels, channels, c == 0 ? out : &of_segment);
          if (c > 0) *out += of_segment;  // more channels than a segment: pixel by pixel
        }
        if (p.sum_h) add_row(h, one, length, sum_h.recent);
        if (p.sum_hx) add_row(h, widen_row((const T*)p.x + at, length, wide_x), length, sum_hx.recent);
        if (p.sum_he && noise.data && noise.c == 0) {
          add_pixels(h, gather_row(noise.at(n, c, pixel), noise.p, pixels, noises), pixels, channels, sum_he.recent);
        } else if (p.sum_he && noise.data) {
          for (i64 i = 0; i < pixels; ++i) {
            const A* e = gather_row(noise.at(n, c, pixel + i), noise.c, channels, noises);
            add_row(h + i * channels, e, channels, sum_he.recent + i * channels);
          }
        }
        if (++rows % 32 == 0) {
          if (p.sum_h) sum_h.flush(lanes);
          if (p.sum_hx) sum_hx.flush(lanes);
          if (p.sum_he) sum_he.flush(lanes);
        }
      }
      const i64 place = (n * p.chunks + chunk) * p.c + c;
      if (p.sum_h) sum_h.store(lanes, channels, (A*)p.sum_h + place);
      if (p.sum_hx) sum_hx.store(lanes, channels, (A*)p.sum_hx + place);
      if (p.sum_he) sum_he.store(lanes, channels, (A*)p.sum_he + place);
    }
  });
}

template <class T> void bias_act_grad(const BiasActGrad& p) {
  typedef ArithmeticOf<T> A;
  if (p.c == 0 && p.sum_c) std::fill_n((A*)p.sum_c, p.n * p.p, (A)0);
  if (p.n == 0 || p.c == 0) return;
  const Noise none = {};
  const NoiseMap<A> noise(p.sum_he ? p.noise : none, p.n, p.p, p.threads);
  if (rows_of_channels(p)) {
    grad_pixels<T>(p, noise.operand);
  } else if (p.sum_c) {
    grad_chunks<T>(p, noise.operand);
  } else {
    grad_planes<T>(p, noise.operand);
  }
}
