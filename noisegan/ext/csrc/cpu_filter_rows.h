// Loops over rows for separable filters of four taps: rows of x summed into one (vertical taps), columns of that row
// combined (horizontal taps).
#pragma once
#include "cpu_common.h"

template <class T, class A> NG_ROW void add_shifted(const T* row, A weight, i64 length, A* sums) {
  for_lanes<A>(length, [=](i64 i, auto zero) {
    typedef decltype(zero) V;
    store(sums + i, load<V>(sums + i) + spread<V>(weight) * load<V>(row + i));
  });
}

template <class T, class A> NG_HD void sum_of_2_rows(const T* r0, const T* r1, const A* f, i64 length, A* out) {
  const A f0 = f[0], f1 = f[1];
  for_lanes<A>(length, [=](i64 i, auto zero) {
    typedef decltype(zero) V;
    store(out + i, spread<V>(f0) * load<V>(r0 + i) + spread<V>(f1) * load<V>(r1 + i));
  });
}

template <class T, class A> NG_HD void sum_of_4_rows(const T* const* rows, const A* f, i64 length, A* out) {
  const T *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
  const A f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
  for_lanes<A>(length, [=](i64 i, auto zero) {
    typedef decltype(zero) V;
    const V first = spread<V>(f0) * load<V>(r0 + i) + spread<V>(f1) * load<V>(r1 + i);
    store(out + i, first + (spread<V>(f2) * load<V>(r2 + i) + spread<V>(f3) * load<V>(r3 + i)));
  });
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
template <class T, class A> struct Rows {
  const A* from;
  T* to;
  i64 count, from_pitch, to_pitch;  // in elements
  i64 width;                        // of a row of results, in pixels
  Stores<T> put;
};

// Columns of doubled rows; the first column of each row is that of the even results. kInner is the number of channels
// per pixel if known at compile time, else 0.
template <int kInner, class T, class A>
void double_row(const A* v, i64 width, i64 channels, const A* even, const A* odd, i64 odd_shift, T* out,
                Stores<T> put) {
  const i64 inner = kInner ? kInner : channels;
  const A e0 = even[0], e1 = even[1], o0 = odd[0], o1 = odd[1];
  const A* u = v + odd_shift * inner;
  if constexpr (kInner == 1 && kPaired<T>) {
    for_lanes<A>(width / 2, [=](i64 k, auto zero) {
      typedef decltype(zero) V;
      put.pairs(out + 2 * k, spread<V>(e0) * load<V>(v + k) + spread<V>(e1) * load<V>(v + k + 1),
                spread<V>(o0) * load<V>(u + k) + spread<V>(o1) * load<V>(u + k + 1));
    });
  } else if constexpr (kInner == 1) {
#pragma omp simd
    for (i64 k = 0; k < width / 2; ++k) {
      out[2 * k] = narrow<T>(e0 * v[k] + e1 * v[k + 1]);
      out[2 * k + 1] = narrow<T>(o0 * u[k] + o1 * u[k + 1]);
    }
  } else {
    for (i64 k = 0; k < width / 2; ++k) {
      const A *vk = v + k * inner, *uk = u + k * inner;
      T* to = out + 2 * k * inner;
      for_lanes<A>(inner, [=](i64 c, auto zero) {
        typedef decltype(zero) V;
        put(to + c, spread<V>(e0) * load<V>(vk + c) + spread<V>(e1) * load<V>(vk + inner + c));
        put(to + inner + c, spread<V>(o0) * load<V>(uk + c) + spread<V>(o1) * load<V>(uk + inner + c));
      });
    }
  }
  if (width % 2) {
    const i64 k = width / 2;
    for (i64 c = 0; c < inner; ++c)
      out[2 * k * inner + c] = narrow<T>(e0 * v[k * inner + c] + e1 * v[(k + 1) * inner + c]);
  }
}

template <int kInner, class T, class A>
NG_ROW void double_columns(const Rows<T, A>& rows, i64 channels, const A* even, const A* odd, i64 odd_shift) {
  const A taps[4] = {even[0], even[1], odd[0], odd[1]};
  const Rows<T, A> r = rows;
  for (i64 i = 0; i < r.count; ++i) {
    const A* v = r.from + i * r.from_pitch;
    double_row<kInner>(v, r.width, channels, taps, taps + 2, odd_shift, r.to + i * r.to_pitch, r.put);
  }
}

template <int kInner, class T, class A>
void halve_row(const A* v, i64 width, i64 channels, const A* f, T* out, Stores<T> put) {
  const i64 inner = kInner ? kInner : channels;
  const A f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
  if constexpr (kInner == 1) {
#pragma omp simd
    for (i64 j = 0; j < width; ++j)
      out[j] = narrow<T>(f0 * v[2 * j] + f1 * v[2 * j + 1] + (f2 * v[2 * j + 2] + f3 * v[2 * j + 3]));
  } else {
    for (i64 j = 0; j < width; ++j) {
      const A* u = v + 2 * j * inner;
      T* to = out + j * inner;
      for_lanes<A>(inner, [=](i64 c, auto zero) {
        typedef decltype(zero) V;
        const V first = spread<V>(f0) * load<V>(u + c) + spread<V>(f1) * load<V>(u + inner + c);
        const V second = spread<V>(f2) * load<V>(u + 2 * inner + c) + spread<V>(f3) * load<V>(u + 3 * inner + c);
        put(to + c, first + second);
      });
    }
  }
}

template <int kInner, class T, class A> NG_ROW void halve_columns(const Rows<T, A>& rows, i64 channels, const A* f) {
  const A taps[4] = {f[0], f[1], f[2], f[3]};
  const Rows<T, A> r = rows;
  for (i64 i = 0; i < r.count; ++i)
    halve_row<kInner>(r.from + i * r.from_pitch, r.width, channels, taps, r.to + i * r.to_pitch, r.put);
}

template <class T, class A> NG_ROW void keep_columns(const Rows<T, A>& rows, i64 inner, const A* f) {
  const A f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
  const Rows<T, A> r = rows;
  for (i64 row = 0; row < r.count; ++row) {
    const A* v = r.from + row * r.from_pitch;
    T* out = r.to + row * r.to_pitch;
    for_lanes<A>(r.width * inner, [=](i64 i, auto zero) {
      typedef decltype(zero) V;
      const V first = spread<V>(f0) * load<V>(v + i) + spread<V>(f1) * load<V>(v + i + inner);
      const V second = spread<V>(f2) * load<V>(v + i + 2 * inner) + spread<V>(f3) * load<V>(v + i + 3 * inner);
      r.put(out + i, first + second);
    });
  }
}

// Whether columns are combined and stored as type T at once, not through a row of type A: what the compiler has to make
// vectors of has one width only.
template <class T> bool stored_at_once(const UpFirDn& p, i64 inner) {
  const bool kept = p.up == 1 && p.down == 1, pairs = p.up == 2 && std::is_same_v<T, bf16>;
  return std::is_same_v<T, ArithmeticOf<T>> || inner > 4 || kept || (inner == 1 && pairs);
}

// body(a constant): the number of channels, if it is small, or 0. Loops over few cost more than what they do.
template <class Body> void with_inner(i64 inner, const Body& body) {
  switch (inner) {
    case 1: return body(std::integral_constant<int, 1>());
    case 2: return body(std::integral_constant<int, 2>());
    case 3: return body(std::integral_constant<int, 3>());
    case 4: return body(std::integral_constant<int, 4>());
    default: return body(std::integral_constant<int, 0>());
  }
}

// The filter as the loops want it.
template <class A> struct FourTaps {
  A along[4], down[4];  // horizontal taps, vertical taps with the gain
  Phases columns, rows;
  A along_phase[2][2], down_phase[2][2];  // for doubling

  explicit FourTaps(const UpFirDn& p) : columns(p.x0), rows(p.y0) {
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
  }
  template <class T> void doubled(const Rows<T, A>& rows, i64 inner) const {
    with_inner(inner, [&](auto known) {
      double_columns<known()>(rows, inner, along_phase[0], along_phase[1], columns.shift[1] - columns.shift[0]);
    });
  }
  template <class T> void halved(const Rows<T, A>& rows, i64 inner) const {
    with_inner(inner, [&](auto known) { halve_columns<known()>(rows, inner, along); });
  }
  template <class T> void kept(const Rows<T, A>& rows, i64 inner) const { keep_columns(rows, inner, along); }
};
