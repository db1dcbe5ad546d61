// Separable filters of four taps that double, halve or keep the resolution: the network's own.
// Per row of the result: the rows of x that reach it are summed into one row (vertical taps), from which the columns
// follow (horizontal taps). Tiles of columns keep that row in the first-level cache; x comes from memory once.
#pragma once
#include "cpu_common.h"

template <class T, class A> void add_shifted(const T* row, A weight, i64 length, A* sums) {
#pragma omp simd
  for (i64 i = 0; i < length; ++i) sums[i] += weight * widen(row[i]);
}

template <class T, class A> void sum_of_2_rows(const T* const* rows, const A* f, i64 length, A* out) {
  const T *r0 = rows[0], *r1 = rows[1];
  const A f0 = f[0], f1 = f[1];
#pragma omp simd
  for (i64 i = 0; i < length; ++i) out[i] = f0 * widen(r0[i]) + f1 * widen(r1[i]);
}

template <class T, class A> void sum_of_4_rows(const T* const* rows, const A* f, i64 length, A* out) {
  const T *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
  const A f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
#pragma omp simd
  for (i64 i = 0; i < length; ++i)
    out[i] = f0 * widen(r0[i]) + f1 * widen(r1[i]) + (f2 * widen(r2[i]) + f3 * widen(r3[i]));
}

// The taps of the two phases of a doubled axis: result 2k + q is f[first[q]] u[k + shift[q]] + f[first[q] + 2] u[k +
// shift[q] + 1]. shift[1] - shift[0] is 0 or 1.
struct Phases {
  i64 first[2], shift[2];
  explicit Phases(i64 pad) {
    for (int q = 0; q < 2; ++q) {
      first[q] = (pad - q) & 1;
      shift[q] = (q + first[q] - pad) / 2;
    }
  }
};

// Columns of a doubled row: `width` of them from v, whose first is that of the even results. kInner is the number of
// channels per pixel if known at compile time, else 0.
template <int kInner, class A>
void double_columns(const A* v, i64 width, i64 channels, const A even[2], const A odd[2], i64 odd_shift, A* out) {
  const i64 inner = kInner ? kInner : channels;
  const A e0 = even[0], e1 = even[1], o0 = odd[0], o1 = odd[1];
  const A* u = v + odd_shift * inner;
  if (kInner == 1) {
#pragma omp simd
    for (i64 k = 0; k < width / 2; ++k) {
      out[2 * k] = e0 * v[k] + e1 * v[k + 1];
      out[2 * k + 1] = o0 * u[k] + o1 * u[k + 1];
    }
  } else {
    for (i64 k = 0; k < width / 2; ++k) {
      const A *vk = v + k * inner, *uk = u + k * inner;
      A* to = out + 2 * k * inner;
#pragma omp simd
      for (i64 c = 0; c < inner; ++c) {
        to[c] = e0 * vk[c] + e1 * vk[inner + c];
        to[inner + c] = o0 * uk[c] + o1 * uk[inner + c];
      }
    }
  }
  if (width % 2) {
    const i64 k = width / 2;
    for (i64 c = 0; c < inner; ++c)
      out[2 * k * inner + c] = e0 * v[k * inner + c] + e1 * v[(k + 1) * inner + c];
  }
}

template <int kInner, class A> void halve_columns(const A* v, i64 width, i64 channels, const A f[4], A* out) {
  const i64 inner = kInner ? kInner : channels;
  const A f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
  if (kInner == 1) {
#pragma omp simd
    for (i64 j = 0; j < width; ++j)
      out[j] = f0 * v[2 * j] + f1 * v[2 * j + 1] + (f2 * v[2 * j + 2] + f3 * v[2 * j + 3]);
  } else {
    for (i64 j = 0; j < width; ++j) {
      const A* u = v + 2 * j * inner;
#pragma omp simd
      for (i64 c = 0; c < inner; ++c)
        out[j * inner + c] = f0 * u[c] + f1 * u[inner + c] + (f2 * u[2 * inner + c] + f3 * u[3 * inner + c]);
    }
  }
}

template <class A> void keep_columns(const A* v, i64 width, i64 inner, const A f[4], A* out) {
  const A f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
#pragma omp simd
  for (i64 i = 0; i < width * inner; ++i)
    out[i] = f0 * v[i] + f1 * v[i + inner] + (f2 * v[i + 2 * inner] + f3 * v[i + 3 * inner]);
}

template <class T, int kUp, int kDown, int kInner> void resample4_inner(const UpFirDn& p, i64 planes, i64 channels) {
  typedef ArithmeticOf<T> A;
  const i64 inner = kInner ? kInner : channels;
  A across[4], along[4];  // vertical taps with the gain, horizontal taps
  for (int b = 0; b < 4; ++b) {
    along[b] = ((const A*)p.f)[p.flip ? b : 3 - b];
    across[b] = along[b] * (A)p.gain;
  }
  const Phases columns(p.x0), rows(p.y0);
  A taps[2][2], weights[2][2];  // of the two phases
  for (int q = 0; q < 2; ++q) {
    for (int k = 0; k < 2; ++k) {
      taps[q][k] = along[columns.first[q] + 2 * k];
      weights[q][k] = across[rows.first[q] + 2 * k];
    }
  }
  const i64 tile = 2 * std::max<i64>(8, 2048 / inner), tiles = ceil_div(p.ow, tile);
  const i64 band = std::max<i64>(8, ceil_div(2 * kGrain, tile * inner)), bands = ceil_div(p.oh, band);
  const i64 reach = kUp == 2 ? tile / 2 + 2 : kDown * tile + 3;  // columns of x that a tile needs at most
  const std::vector<T> zeros((size_t)(std::min(reach, p.w) * inner), narrow<T>((A)0));

  for_each_job(planes * bands * tiles, planes * p.oh * p.ow * inner, p.threads, [&](i64 job) {
    const i64 plane = job / tiles / bands, first_row = job / tiles % bands * band, j = job % tiles * tile;
    const i64 width = std::min(tile, p.ow - j);
    const i64 start = kUp == 2 ? j / 2 + columns.shift[0] : j * kDown - p.x0;
    const i64 length = kUp == 2 ? (width + 1) / 2 + 2 : kDown * (width - 1) + 4;
    const i64 left = std::clamp<i64>(start, 0, p.w), right = std::clamp<i64>(start + length, left, p.w);
    std::vector<A> buffer((size_t)((length + width) * inner), (A)0);  // columns outside of x stay 0
    A *v = buffer.data(), *inside = v + (left - start) * inner, *wide = v + length * inner;
    const auto row_of_x = [&](i64 r) {
      return r < 0 || r >= p.h ? zeros.data() : (const T*)p.x + ((plane * p.h + r) * p.w + left) * inner;
    };
    for (i64 i = first_row; i < std::min(p.oh, first_row + band); ++i) {
      T* y = (T*)p.y + ((plane * p.oh + i) * p.ow + j) * inner;
      A* out = target_row(y, wide);
      if constexpr (kUp == 2) {
        const i64 q = i % 2, r = i / 2 + rows.shift[q];
        const T* const from[2] = {row_of_x(r), row_of_x(r + 1)};
        if (right > left) sum_of_2_rows(from, weights[q], (right - left) * inner, inside);
        double_columns<kInner>(v, width, inner, taps[0], taps[1], columns.shift[1] - columns.shift[0], out);
      } else {
        const i64 r = i * kDown - p.y0;
        const T* const from[4] = {row_of_x(r), row_of_x(r + 1), row_of_x(r + 2), row_of_x(r + 3)};
        if (right > left) sum_of_4_rows(from, across, (right - left) * inner, inside);
        if constexpr (kDown == 2) {
          halve_columns<kInner>(v, width, inner, along, out);
        } else {
          keep_columns(v, width, inner, along, out);
        }
      }
      finish_row(out, width * inner, y);
    }
  });
}

template <class T, int kUp, int kDown> void resample4(const UpFirDn& p, i64 planes, i64 inner) {
  switch (kUp == kDown ? 0 : inner) {
    case 1: return resample4_inner<T, kUp, kDown, 1>(p, planes, inner);
    case 2: return resample4_inner<T, kUp, kDown, 2>(p, planes, inner);
    case 3: return resample4_inner<T, kUp, kDown, 3>(p, planes, inner);
    case 4: return resample4_inner<T, kUp, kDown, 4>(p, planes, inner);
    default: return resample4_inner<T, kUp, kDown, 0>(p, planes, inner);
  }
}
