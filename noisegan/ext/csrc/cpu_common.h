// What the CPU kernels share: threads, conversion of rows to the type of arithmetic, operands with strides.
#pragma once
#include "cpu_lanes.h"

#include <algorithm>
#include <vector>

// Rows are worked on in segments of this many elements, so that their buffers stay in the first-level cache.
constexpr i64 kSegment = 512;
// A barrier costs as much as about this many elements of work.
constexpr i64 kWorthThreads = 32768;
// Work given to a thread at a time, in elements.
constexpr i64 kGrain = 8192;

// Not inlined, for the body would be compiled twice: for one thread and for several.
template <class Body> __attribute__((noinline)) void do_job(const Body& body, i64 job) {
  body(job);
#ifdef __AVX512F__
  _mm_sfence();  // what was stored past the caches is there before the job is done
#endif
}

// body(job) for each job. Which thread runs a job never changes a result: jobs do not depend on the number of threads.
template <class Body> void for_each_job(i64 jobs, i64 elements, int threads, const Body& body) {
  if (threads > 1 && jobs > 1 && elements >= kWorthThreads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 job = 0; job < jobs; ++job) do_job(body, job);
  } else {
    for (i64 job = 0; job < jobs; ++job) do_job(body, job);
  }
}

inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

// Loops over rows are compiled once per type of arithmetic, not into each kernel: half the time of compilation.
#define NG_ROW __attribute__((noinline))

template <class T> using ArithmeticOf = typename Arithmetic<T>::type;

// Rows of 16 bits are converted through a buffer for loops that combine neighbours.
template <class T, class A> NG_ROW const A* convert_row(const T* row, i64 length, A* buffer) {
#pragma omp simd
  for (i64 i = 0; i < length; ++i) buffer[i] = widen(row[i]);
  return buffer;
}

template <class T, class A> const A* widen_row(const T* row, i64 length, A* buffer) {
  if constexpr (std::is_same_v<T, A>) {
    return row;
  } else {
    return convert_row(row, length, buffer);
  }
}

template <class T, class A> NG_ROW void narrow_row(const A* row, i64 length, T* out) {
  for_lanes<A>(length, [=](i64 i, auto zero) { store(out + i, load<decltype(zero)>(row + i)); });
}

// Where to compute a row of type A that goes to `out`: there at once, if it has that type, else in the buffer.
template <class T, class A> A* target_row(T* out, A* buffer) {
  if constexpr (std::is_same_v<T, A>) {
    return out;
  } else {
    return buffer;
  }
}

template <class T, class A> void finish_row(const A* row, i64 length, T* out) {
  if constexpr (!std::is_same_v<T, A>) narrow_row(row, length, out);
}

// A number that looks like a row.
template <class A> struct Scalar {
  A value;
  A operator[](i64) const { return value; }
  Scalar operator+(i64) const { return *this; }
};
template <class V, class A> NG_HD V load(Scalar<A> number) { return spread<V>(number.value); }

// The next address where a cache line begins.
template <class A> A* align_row(A* row) { return (A*)(((size_t)row + 63) / 64 * 64); }

// Asks for the cache lines of a row that is about to be written, so that the stores need not wait for them.
template <class T> void reserve_row(T* row, i64 length) {
  for (i64 i = 0; i < length; i += 64 / (i64)sizeof(T)) __builtin_prefetch(row + i, 1);
}

template <class A> const A* gather_row(const A* data, i64 stride, i64 length, A* buffer) {
  if (stride == 1) return data;
  for (i64 i = 0; i < length; ++i) buffer[i] = data[i * stride];
  return buffer;
}

// `length` elements of factor times a row that repeats every `period`; null stands for a row of `otherwise`.
template <class A> const A* repeat_row(const A* row, A otherwise, A factor, i64 period, i64 length, A* out) {
  for (i64 i = 0; i < length; i += period)
    for (i64 k = 0; k < std::min(period, length - i); ++k) out[i + k] = factor * (row ? row[k] : otherwise);
  return out;
}

// A side operand on [n, c, p].
template <class A> struct Operand {
  const A* data;
  i64 n, c, p;
  const A* at(i64 in, i64 ic, i64 ip) const { return data + in * n + ic * c + ip * p; }
};

// With one pixel or one channel both layouts are the same memory: take the one whose rows are longer.
template <class P> bool rows_of_channels(const P& p) { return p.p == 1 || (p.channels_last && p.c != 1); }
