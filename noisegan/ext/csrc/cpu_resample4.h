// Separable filters of four taps that double, halve or keep the resolution: the network's own.
// Per row of the result: the rows of x that reach it are summed into one row (vertical taps), from which the columns
// follow (horizontal taps). Tiles of columns keep that row in the first-level cache; x comes from memory once.
#pragma once
#include "cpu_common.h"

template <class T, class A> NG_ROW void add_shifted(const T* row, A weight, i64 length, A* sums) {
#pragma omp simd
  for (i64 i = 0; i < length; ++i) sums[i] += weight * widen(row[i]);
}

template <class T, class A> NG_ROW void sum_of_2_rows(const T* r0, const T* r1, const A* f, i64 length, A* out) {
  const A f0 = f[0], f1 = f[1];
#pragma omp simd
  for (i64 i = 0; i < length; ++i) out[i] = f0 * widen(r0[i]) + f1 * widen(r1[i]);
}

template <class T, class A> NG_ROW void sum_of_4_rows(const T* const* rows, const A* f, i64 length, A* out) {
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
NG_ROW void double_columns(const A* v, i64 width, i64 channels, const A* even, const A* odd, i64 odd_shift, A* out) {
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

template <int kInner, class A> NG_ROW void halve_columns(const A* v, i64 width, i64 channels, const A* f, A* out) {
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

template <class A> NG_ROW void keep_columns(const A* v, i64 width, i64 inner, const A* f, A* out) {
  const A f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
#pragma omp simd
  for (i64 i = 0; i < width * inner; ++i)
    out[i] = f0 * v[i] + f1 * v[i + inner] + (f2 * v[i + 2 * inner] + f3 * v[i + 3 * inner]);
}

// One way of combining columns for the number of channels at hand: few are unrolled, for loops over them cost more
// than what they do.
template <class A> using DoubleColumns = void (*)(const A*, i64, i64, const A*, const A*, i64, A*);
template <class A> using HalveColumns = void (*)(const A*, i64, i64, const A*, A*);

template <class A> DoubleColumns<A> double_columns_of(i64 inner) {
  switch (inner) {
    case 1: return double_columns<1, A>;
    case 2: return double_columns<2, A>;
    case 3: return double_columns<3, A>;
    case 4: return double_columns<4, A>;
    default: return double_columns<0, A>;
  }
}

template <class A> HalveColumns<A> halve_columns_of(i64 inner) {
  switch (inner) {
    case 1: return halve_columns<1, A>;
    case 2: return halve_columns<2, A>;
    case 3: return halve_columns<3, A>;
    case 4: return halve_columns<4, A>;
    default: return halve_columns<0, A>;
  }
}

template <class T> void resample4(const UpFirDn& p, i64 planes, i64 inner) {
  typedef ArithmeticOf<T> A;
  const bool doubled = p.up == 2;
  const DoubleColumns<A> double_row = double_columns_of<A>(inner);
  const HalveColumns<A> halve_row = halve_columns_of<A>(inner);
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
  // A job is a band of rows, a tile wide, of one plane, or of several if they are small.
  const i64 tile = std::min(2 * ceil_div(p.ow, 2), 2 * std::max<i64>(8, 2048 / inner)), tiles = ceil_div(p.ow, tile);
  const i64 band = std::min(p.oh, std::max<i64>(8, 2 * kGrain / (tile * inner))), bands = ceil_div(p.oh, band);
  const i64 group = std::max<i64>(1, kGrain / (band * tile * inner)), groups = ceil_div(planes, group);
  const i64 reach = doubled ? tile / 2 + 2 : p.down * (tile - 1) + 4;  // columns of x that a tile needs
  const std::vector<T> zeros((size_t)(std::min(reach, p.w) * inner), narrow<T>((A)0));

  for_each_job(groups * bands * tiles, planes * p.oh * p.ow * inner, p.threads, [&](i64 job) {
    const i64 first_plane = job / tiles / bands * group, last_plane = std::min(planes, first_plane + group);
    const i64 first_row = job / tiles % bands * band, last_row = std::min(p.oh, first_row + band);
    const i64 j = job % tiles * tile, width = std::min(tile, p.ow - j);
    const i64 start = doubled ? j / 2 + columns.shift[0] : j * p.down - p.x0;
    const i64 left = std::clamp<i64>(start, 0, p.w), right = std::clamp<i64>(start + reach, left, p.w);
    std::vector<A> buffer((size_t)((reach + tile) * inner), (A)0);  // columns outside of x stay 0
    A *v = buffer.data(), *inside = v + (right > left ? left - start : 0) * inner, *wide = v + reach * inner;
    for (i64 plane = first_plane; plane < last_plane; ++plane) {
      const auto row_of_x = [&](i64 r) {
        return r < 0 || r >= p.h ? zeros.data() : (const T*)p.x + ((plane * p.h + r) * p.w + left) * inner;
      };
      for (i64 i = first_row; i < last_row; ++i) {
        T* y = (T*)p.y + ((plane * p.oh + i) * p.ow + j) * inner;
        A* out = target_row(y, wide);
        if (doubled) {
          const i64 q = i % 2, r = i / 2 + rows.shift[q];
          sum_of_2_rows(row_of_x(r), row_of_x(r + 1), weights[q], (right - left) * inner, inside);
          double_row(v, width, inner, taps[0], taps[1], columns.shift[1] - columns.shift[0], out);
        } else {
          const i64 r = i * p.down - p.y0;
          const T* const from[4] = {row_of_x(r), row_of_x(r + 1), row_of_x(r + 2), row_of_x(r + 3)};
          sum_of_4_rows(from, across, (right - left) * inner, inside);
          if (p.down == 2) {
            halve_row(v, width, inner, along, out);
          } else {
            keep_columns(v, width, inner, along, out);
          }
        }
        finish_row(out, width * inner, y);
      }
    }
  });
}
