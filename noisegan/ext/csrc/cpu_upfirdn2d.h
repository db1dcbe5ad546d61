// Resampling with a filter: a path for any filter here, the separable four-tap filters in cpu_resample4.h.
// Both layouts are one: `planes` of [h, w, inner], which is [n c][h, w, 1] or, with channels_last, [n][h, w, c].
#pragma once
#include "cpu_resample4.h"
#include "cpu_resample4_small.h"

// The smallest k >= 0 for which k down + offset is a multiple of up, or -1.
inline i64 first_multiple(i64 offset, i64 up, i64 down) {
  for (i64 k = 0; k < up; ++k)
    if ((k * down + offset) % up == 0) return k;
  return -1;
}

// A row of the result at a time: each tap adds a part of one row of x.
template <class T> void filter_any(const UpFirDn& p, i64 planes, i64 inner) {
  typedef ArithmeticOf<T> A;
  std::vector<A> filter((size_t)(p.kh * p.kw));
  for (i64 a = 0; a < p.kh; ++a) {
    for (i64 b = 0; b < p.kw; ++b) {
      const A* f = (const A*)p.f;
      const i64 fa = p.flip ? a : p.kh - 1 - a, fb = p.flip ? b : p.kw - 1 - b;
      filter[(size_t)(a * p.kw + b)] = (A)p.gain * (p.separable ? f[fa] * f[fb] : f[fa * p.kw + fb]);
    }
  }
  i64 stride = 1;  // of the columns of the result that a tap of one phase reaches
  while (stride * p.down % p.up) ++stride;
  const i64 step = stride * p.down / p.up;  // the columns of x that they read
  const i64 group = std::max<i64>(1, kGrain / std::max<i64>(1, p.ow * inner * p.kh)), groups = ceil_div(p.oh, group);
  for_each_job(planes * groups, planes * p.oh * p.ow * inner, p.threads, [=, &p, &filter](i64 job) {
    const i64 plane = job / groups, first_row = job % groups * group;
    std::vector<A> sums((size_t)(p.ow * inner));
    for (i64 i = first_row; i < std::min(p.oh, first_row + group); ++i) {
      std::fill(sums.begin(), sums.end(), (A)0);
      for (i64 a = 0; a < p.kh; ++a) {
        const i64 r = i * p.down + a - p.y0;
        if (r < 0 || r % p.up || r / p.up >= p.h) continue;
        const T* row = (const T*)p.x + (plane * p.h + r / p.up) * p.w * inner;
        for (i64 b = 0; b < p.kw; ++b) {
          const A weight = filter[(size_t)(a * p.kw + b)];
          i64 j = first_multiple(b - p.x0, p.up, p.down);
          if (j < 0) continue;
          i64 s = (j * p.down + b - p.x0) / p.up;
          const i64 skip = s < 0 ? ceil_div(-s, step) : 0;
          j += skip * stride;
          s += skip * step;
          const i64 count = s < p.w && j < p.ow ? std::min((p.w - 1 - s) / step, (p.ow - 1 - j) / stride) + 1 : 0;
          if (stride == 1 && step == 1) {
            add_shifted(row + s * inner, weight, count * inner, sums.data() + j * inner);
          } else {
            for (i64 k = 0; k < count; ++k)
              add_shifted(row + (s + k * step) * inner, weight, inner, sums.data() + (j + k * stride) * inner);
          }
        }
      }
      narrow_row(sums.data(), p.ow * inner, (T*)p.y + (plane * p.oh + i) * p.ow * inner);
    }
  });
}

template <class T> void upfirdn2d(const UpFirDn& p) {
  const i64 inner = p.channels_last ? p.c : 1, planes = p.channels_last ? p.n : p.n * p.c;
  if (planes == 0 || inner == 0 || p.oh <= 0 || p.ow <= 0) return;
  const bool common = (p.up == 1 && p.down <= 2) || (p.up == 2 && p.down == 1);
  const bool four = common && p.separable && p.kh == 4 && p.kw == 4;
  if (four && inner == 1 && is_small<T>(p)) {
    resample4_small<T>(p, planes);
  } else if (four) {
    resample4<T>(p, planes, inner);
  } else {
    filter_any<T>(p, planes, inner);
  }
}
