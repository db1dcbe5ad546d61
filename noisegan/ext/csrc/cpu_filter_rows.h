// Loops over rows for separable filters of four taps: rows of x summed into one (vertical taps), columns of that row
// combined (horizontal taps).
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

// Rows whose columns are to be combined, and where the results go: a call for each row would cost as much as the row.
template <class A> struct Rows {
  const A* from;
  A* to;
  i64 count, from_pitch, to_pitch;  // in elements
  i64 width;                        // of a row of results, in pixels
};

// Columns of doubled rows; the first column of each row is that of the even results. kInner is the number of channels
// per pixel if known at compile time, else 0.
template <int kInner, class A>
void double_row(const A* v, i64 width, i64 channels, const A* even, const A* odd, i64 odd_shift, A* out) {
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

template <int kInner, class A>
NG_ROW void double_columns(const Rows<A>& rows, i64 channels, const A* even, const A* odd, i64 odd_shift) {
  const A taps[4] = {even[0], even[1], odd[0], odd[1]};
  const Rows<A> r = rows;
  for (i64 i = 0; i < r.count; ++i)
    double_row<kInner>(r.from + i * r.from_pitch, r.width, channels, taps, taps + 2, odd_shift, r.to + i * r.to_pitch);
}

template <int kInner, class A> void halve_row(const A* v, i64 width, i64 channels, const A* f, A* out) {
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

template <int kInner, class A> NG_ROW void halve_columns(const Rows<A>& rows, i64 channels, const A* f) {
  const A taps[4] = {f[0], f[1], f[2], f[3]};
  const Rows<A> r = rows;
  for (i64 i = 0; i < r.count; ++i)
    halve_row<kInner>(r.from + i * r.from_pitch, r.width, channels, taps, r.to + i * r.to_pitch);
}

template <class A> NG_ROW void keep_columns(const Rows<A>& rows, i64 inner, const A* f) {
  const A f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
  const Rows<A> r = rows;
  for (i64 row = 0; row < r.count; ++row) {
    const A* v = r.from + row * r.from_pitch;
    A* out = r.to + row * r.to_pitch;
#pragma omp simd
    for (i64 i = 0; i < r.width * inner; ++i)
      out[i] = f0 * v[i] + f1 * v[i + inner] + (f2 * v[i + 2 * inner] + f3 * v[i + 3 * inner]);
  }
}

// One way of combining columns for the number of channels at hand: few are unrolled, for loops over them cost more
// than what they do.
template <class A> using DoubleColumns = void (*)(const Rows<A>&, i64, const A*, const A*, i64);
template <class A> using HalveColumns = void (*)(const Rows<A>&, i64, const A*);

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

// The filter as the loops want it.
template <class A> struct FourTaps {
  A along[4], down[4];  // horizontal taps, vertical taps with the gain
  Phases columns, rows;
  A along_phase[2][2], down_phase[2][2];  // for doubling
  DoubleColumns<A> double_columns;
  HalveColumns<A> halve_columns;

  FourTaps(const UpFirDn& p, i64 inner) : columns(p.x0), rows(p.y0) {
    for (int b = 0; b < 4; ++b) {
      along[b] = ((const A*)p.f)[p.flip ? b : 3 - b];
      down[b] = along[b] * (A)p.gain;
    }
    for (int q = 0; q < 2; ++q) {
      for (int k = 0; k < 2; ++k) {
        along_phase[q][k] = along[columns.first[q] + 2 * k];
        down_phase[q][k] = down[rows.first[q] + 2 * k];
      }
    }
    double_columns = double_columns_of<A>(inner);
    halve_columns = halve_columns_of<A>(inner);
  }
  void doubled(const Rows<A>& rows, i64 inner) const {
    double_columns(rows, inner, along_phase[0], along_phase[1], columns.shift[1] - columns.shift[0]);
  }
  void halved(const Rows<A>& rows, i64 inner) const { halve_columns(rows, inner, along); }
  void kept(const Rows<A>& rows, i64 inner) const { keep_columns(rows, inner, along); }
};
