// h = g times the activation's derivative, with its sums over pixels (bias_act_grad) and over channels (channel_sum).
// One loop does it all: maps are read once, and sums stay in registers. Sums of a row are of type A, sums of rows are
// double: the error does not grow with the map.
#pragma once
#include "cpu_philox.h"

// What a loop has to do. What is usual has loops of its own: to ask at every vector costs as much as to compute it.
enum GradKind {
  kGradBias,   // gx = h, sums of h
  kGradNoise,  // gx = h, sums of h and h noise
  kGradMap,    // gx = h, sums of h, sums over channels
  kGradScale,  // all but the sums over channels
  kGradAny,    // whatever is asked for, a clamp, noise that differs from channel to channel
};

// body(a constant of that kind)
template <class Body> void with_grad_kind(GradKind kind, const Body& body) {
  switch (kind) {
    case kGradBias: return body(std::integral_constant<GradKind, kGradBias>());
    case kGradNoise: return body(std::integral_constant<GradKind, kGradNoise>());
    case kGradMap: return body(std::integral_constant<GradKind, kGradMap>());
    case kGradScale: return body(std::integral_constant<GradKind, kGradScale>());
    case kGradAny: return body(std::integral_constant<GradKind, kGradAny>());
  }
}

inline GradKind grad_kind(const BiasActGrad& p, bool noisy, bool shared) {
  const bool limited = p.clamp <= kLargestDouble;
  if (limited || !p.gx || (noisy && (p.sum_c || !shared))) return kGradAny;
  if (!p.scale && !p.x) return noisy ? kGradNoise : p.sum_c ? kGradMap : kGradBias;
  return p.scale && p.x && noisy ? kGradScale : kGradAny;
}

// Whether there are sums of h x, of h noise, over channels; `wanted` is where they come from or go to.
template <GradKind kKind> NG_HD bool sums_x(const void* wanted) {
  return kKind == kGradAny ? wanted != nullptr : kKind == kGradScale;
}
template <GradKind kKind> NG_HD bool sums_e(const void* wanted) {
  return kKind == kGradAny ? wanted != nullptr : kKind == kGradNoise || kKind == kGradScale;
}
template <GradKind kKind> NG_HD bool sums_c(const void* wanted) {
  return kKind == kGradAny ? wanted != nullptr : kKind == kGradMap;
}

// Part of the maps, from one element on. x and gx may be null.
template <class T> struct GradMaps {
  const T *g, *y, *x;
  T* gx;
  Stores<T> put;

  // Without y the activation is linear, whatever stands for it (bias_act_grad).
  GradMaps(const BiasActGrad& p, i64 at)
      : g((const T*)p.g + at),
        y((const T*)(p.y ? p.y : p.g) + at),
        x(p.x ? (const T*)p.x + at : nullptr),
        gx(p.gx ? (T*)p.gx + at : nullptr),
        put(p.n * p.c * p.p) {}
  // h at i; gx = h scale
  template <GradKind kKind, class V, class A> NG_HD V step(i64 i, V scale, const Activation<A>& act) const {
    const V h = load<V>(g + i) * act.template derivative<kKind == kGradAny>(load<V>(y + i));
    if (kKind != kGradAny || gx) put(gx + i, kKind < kGradScale ? h : h * scale);
    return h;
  }
};

// weight[n, c] of a sum over channels, dense
template <class A, class P> std::vector<A> weights_of(const P& p) {
  std::vector<A> weight((size_t)(p.n * p.c), (A)1);
  if (p.weight)
    for (i64 i = 0; i < p.n * p.c; ++i)
      weight[(size_t)i] = ((const A*)p.weight)[i / p.c * p.weight_n + i % p.c * p.weight_c];
  return weight;
}

// Pixels of a chunk where sums over channels are made beside; host.py: MAP_CHUNK.
constexpr i64 kMapChunk = 4096;

// Numbers of a plane whose sum is of type A.
constexpr i64 kSumSegment = 2048;

// Sums of h, h x and h noise.
template <class A> struct PixelSums {
  A h, hx, he;
};

// A row of one channel; e may be null. Adds weight h to sum_c, which may be null.
template <GradKind kKind, class T, class A>
NG_ROW PixelSums<A> grad_row(const GradMaps<T>& given_maps, i64 length, A scale, const A* e, A weight, A* sum_c,
                             const Activation<A>& given_act) {
  const GradMaps<T> maps = given_maps;
  const Activation<A> act = given_act;
  const bool with_x = sums_x<kKind>(maps.x), with_e = sums_e<kKind>(e), with_c = sums_c<kKind>(sum_c);
  Sum<A> h_sum, hx_sum, he_sum;
  for (i64 first = 0; first < length; first += kSumSegment) {
    for_lanes<A>(std::min(kSumSegment, length - first), [&](i64 at, auto zero) {
      typedef decltype(zero) V;
      const i64 i = first + at;
      const V h = maps.template step<kKind>(i, spread<V>(scale), act);
      h_sum.add(h);
      if (with_x) hx_sum.add(h * load<V>(maps.x + i));
      if (with_e) he_sum.add(h * load<V>(e + i));
      if (with_c) store(sum_c + i, load<V>(sum_c + i) + h * spread<V>(weight));
    });
    h_sum.end_row();
    if (with_x) hx_sum.end_row();
    if (with_e) he_sum.end_row();
  }
  return {(A)h_sum.total, (A)hx_sum.total, (A)he_sum.total};
}

// One channel of a chunk of pixels.
template <class T, class A>
void grad_channel(const BiasActGrad& p, i64 plane, i64 chunk, const Operand<A>& noise, const Activation<A>& act,
                  A weight, A* sum_c) {
  const i64 n = plane / p.c, c = plane % p.c, first = chunk * p.p / p.chunks;
  const i64 length = (chunk + 1) * p.p / p.chunks - first;
  const A scale = p.scale ? ((const A*)p.scale)[plane] : (A)1;
  std::vector<A> noises((size_t)(noise.data && noise.p != 1 ? length : 0));
  const A* e = noise.data ? gather_row(noise.at(n, c, first), noise.p, length, noises.data()) : nullptr;
  const i64 place = (n * p.chunks + chunk) * p.c + c;
  with_grad_kind(grad_kind(p, e != nullptr, true), [&](auto kind) {
    const GradMaps<T> maps(p, plane * p.p + first);
    const PixelSums<A> sums = grad_row<kind()>(maps, length, scale, e, weight, sum_c, act);
    if (p.sum_h) ((A*)p.sum_h)[place] = sums.h;
    if (p.sum_hx) ((A*)p.sum_hx)[place] = sums.hx;
    if (p.sum_he) ((A*)p.sum_he)[place] = sums.he;
  });
}

template <class T, class A> void grad_planes(const BiasActGrad& p, const Operand<A>& noise) {
  const Activation<A> act(p);
  const i64 rows = p.n * p.c * p.chunks, group = std::max<i64>(1, kGrain * p.chunks / std::max<i64>(1, p.p));
  for_each_job(ceil_div(rows, group), p.n * p.c * p.p, p.threads, [=, &p](i64 job) {
    for (i64 row = job * group; row < std::min(rows, (job + 1) * group); ++row)
      grad_channel<T>(p, row / p.chunks, row % p.chunks, noise, act, (A)0, (A*)nullptr);
  });
}

// With the sums over channels: all channels of a chunk, whose sums stay in the first-level cache. A chunk has
// kMapChunk pixels at most.
template <class T, class A> void grad_chunks(const BiasActGrad& p, const Operand<A>& noise) {
  const Activation<A> act(p);
  const std::vector<A> weight = weights_of<A>(p);
  for_each_job(p.n * p.chunks, p.n * p.c * p.p, p.threads, [=, &p, &weight](i64 job) {
    A recent[kMapChunk];
    double total[kMapChunk];
    const i64 n = job / p.chunks, chunk = job % p.chunks;
    const i64 first = chunk * p.p / p.chunks, length = (chunk + 1) * p.p / p.chunks - first;
    std::fill_n(total, length, 0.0);
    for (i64 c = 0; c < p.c; ++c) {
      if (c % 32 == 0) std::fill_n(recent, length, (A)0);
      grad_channel<T>(p, n * p.c + c, chunk, noise, act, weight[(size_t)(n * p.c + c)], recent);
      if (c % 32 == 31 || c + 1 == p.c)
        for (i64 i = 0; i < length; ++i) total[i] += (double)recent[i];
    }
    std::copy_n(total, length, (A*)p.sum_c + n * p.p + first);
  });
}

// Rows of lanes: a pixel's channels, or those of several pixels.
template <class T, class A> struct GradRows {
  GradMaps<T> maps;
  i64 rows, lanes;
  const A *scale, *weight;  // per lane
  const A* e;               // per row, or null
  const A* e_lanes;         // per element, or null
  A* sum_c;                 // per row, or null
  double *h, *hx, *he;      // sums per lane
};

// kBlock vectors (or numbers, if V is A) of each row, from `lane` on.
template <GradKind kKind, class V, int kBlock, class T, class A>
NG_ROW void grad_block(const GradRows<T, A>& given_rows, i64 lane, const Activation<A>& given_act) {
  constexpr i64 kWidth = sizeof(V) / sizeof(A);
  const GradRows<T, A> r = given_rows;
  const Activation<A> act = given_act;
  const bool with_x = sums_x<kKind>(r.maps.x), with_e = sums_e<kKind>(r.e), with_c = sums_c<kKind>(r.sum_c);
  V scale[kBlock], h_sums[kBlock] = {}, hx_sums[kBlock] = {}, he_sums[kBlock] = {};
#pragma GCC unroll 8
  for (int b = 0; b < kBlock; ++b) scale[b] = load<V>(r.scale + lane + b * kWidth);
  for (i64 row = 0; row < r.rows; ++row) {
    const V e = spread<V>(with_e ? r.e[row] : (A)0);
    V of_c = {};
#pragma GCC unroll 8
    for (int b = 0; b < kBlock; ++b) {
      const i64 i = row * r.lanes + lane + b * kWidth;
      const V h = r.maps.template step<kKind>(i, scale[b], act);
      h_sums[b] += h;
      if (with_x) hx_sums[b] += h * load<V>(r.maps.x + i);
      if (with_e) he_sums[b] += h * e;
      if (kKind == kGradAny && r.e_lanes) he_sums[b] += h * load<V>(r.e_lanes + i);
      if (with_c) of_c += h * load<V>(r.weight + lane + b * kWidth);
    }
    if (with_c) r.sum_c[row] += sum_of<A>(of_c);
  }
#pragma GCC unroll 8
  for (int b = 0; b < kBlock; ++b) {
    add_to<A>(r.h + lane + b * kWidth, h_sums[b]);
    if (with_x) add_to<A>(r.hx + lane + b * kWidth, hx_sums[b]);
    if (with_e || (kKind == kGradAny && r.e_lanes)) add_to<A>(r.he + lane + b * kWidth, he_sums[b]);
  }
}

template <class T, class A> void grad_rows(const GradRows<T, A>& r, GradKind kind, const Activation<A>& act) {
  with_grad_kind(kind, [&](auto constant) {
    constexpr GradKind kKind = constant();
    constexpr i64 kLanes = kLanesOf<A>, kMost = kKind < kGradScale ? 8 : 4;  // more would not fit into the registers
    i64 lane = 0;
    for (; lane + kMost * kLanes <= r.lanes; lane += kMost * kLanes) grad_block<kKind, Lanes<A>, kMost>(r, lane, act);
    for (; lane + 4 * kLanes <= r.lanes; lane += 4 * kLanes) grad_block<kKind, Lanes<A>, 4>(r, lane, act);
    for (; lane + 2 * kLanes <= r.lanes; lane += 2 * kLanes) grad_block<kKind, Lanes<A>, 2>(r, lane, act);
    for (; lane + kLanes <= r.lanes; lane += kLanes) grad_block<kKind, Lanes<A>, 1>(r, lane, act);
    for (; lane < r.lanes; ++lane) grad_block<kGradAny, A, 1>(r, lane, act);
  });
}

template <class T, class A> void grad_pixels(const BiasActGrad& p, const Operand<A>& noise) {
  const Activation<A> act(p);
  const i64 chunks = p.sum_h || p.sum_hx || p.sum_he ? p.chunks : ceil_div(p.p * p.c, kGrain);
  const std::vector<A> weight = p.sum_c ? weights_of<A>(p) : std::vector<A>();
  // Rows that are no whole number of vectors are taken together until they are, unless each has a sum of its own.
  const i64 repeat = p.sum_c || p.c % kLanesOf<A> == 0 ? 1 : kLanesOf<A>, lanes = repeat * p.c;
  // Some rows at a time, whose sums are of type A.
  const i64 most = std::clamp<i64>(4 * kGrain / lanes, 1, 256);
  const bool shared = noise.data && noise.c == 0 && repeat == 1, expanded = noise.data && !shared;
  const GradKind kind = grad_kind(p, noise.data, shared);
  for_each_job(p.n * chunks, p.n * p.c * p.p, p.threads, [=, &p, &weight](i64 job) {
    const i64 n = job / chunks, chunk = job % chunks;
    const i64 first = chunk * p.p / chunks, last = (chunk + 1) * p.p / chunks;
    std::vector<double> sums((size_t)(3 * lanes), 0.0);
    std::vector<A> scale((size_t)lanes), noises((size_t)(most * (expanded ? lanes : 1)));
    repeat_row(p.scale ? (const A*)p.scale + n * p.c : nullptr, (A)1, (A)1, p.c, lanes, scale.data());
    if (p.sum_c) std::fill((A*)p.sum_c + n * p.p + first, (A*)p.sum_c + n * p.p + last, (A)0);
    for (i64 pixel = first; pixel < last;) {
      // The pixels that are left over are a row each.
      const i64 together = last - pixel >= repeat ? repeat : 1;
      const i64 pixels = std::min(most, (last - pixel) / together) * together;
      for (i64 i = 0; i < (expanded ? pixels : 0); ++i)
        for (i64 c = 0; c < p.c; ++c) noises[(size_t)(i * p.c + c)] = *noise.at(n, c, pixel + i);
      const A* e = shared ? gather_row(noise.at(n, 0, pixel), noise.p, pixels, noises.data()) : nullptr;
      const GradRows<T, A> rows = {GradMaps<T>(p, (n * p.p + pixel) * p.c),
                                   pixels / together,
                                   together * p.c,
                                   scale.data(),
                                   p.sum_c ? weight.data() + n * p.c : nullptr,
                                   e,
                                   expanded ? noises.data() : nullptr,
                                   p.sum_c ? (A*)p.sum_c + n * p.p + pixel : nullptr,
                                   sums.data(),
                                   sums.data() + lanes,
                                   sums.data() + 2 * lanes};
      grad_rows(rows, kind, act);
      pixel += pixels;
    }
    void* const totals[3] = {p.sum_h, p.sum_hx, p.sum_he};
    for (int k = 0; k < 3; ++k) {
      for (i64 c = 0; c < (totals[k] ? p.c : 0); ++c) {
        double sum = 0;
        for (i64 lane = c; lane < lanes; lane += p.c) sum += sums[(size_t)(k * lanes + lane)];
        ((A*)totals[k])[(n * p.chunks + chunk) * p.c + c] = (A)sum;
      }
    }
  });
}

template <class T> void bias_act_grad(const BiasActGrad& given) {
  typedef ArithmeticOf<T> A;
  BiasActGrad p = given;
  if (!p.y) {  // linear, and g stands for y in the loops
    p.slope = 1;
    p.clamp = INFINITY;
  }
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
