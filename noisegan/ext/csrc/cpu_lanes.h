// Rows as vectors: as many numbers at a time as a register holds, widened from maps of any type when they are loaded,
// rounded when they are stored. Of plain loops g++ makes such only while all that they touch has one width.
#pragma once
#include "element.h"

#include <string.h>

#include <type_traits>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class A> struct LanesOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <class A> using Lanes = typename LanesOf<A>::type;
template <class A> constexpr i64 kLanesOf = kVectorBytes / (i64)sizeof(A);

typedef u32 WordLanes __attribute__((vector_size(kVectorBytes)));
typedef unsigned short HalfLanes __attribute__((vector_size(kVectorBytes / 2)));

// body(i, zero) along a row, where zero is a vector as long as one fits, and then a number.
template <class A, class Body> NG_HD void for_lanes(i64 length, const Body& body) {
  i64 i = 0;
  for (; i + kLanesOf<A> <= length; i += kLanesOf<A>) body(i, Lanes<A>());
  for (; i < length; ++i) body(i, A());
}

// What follows takes V for either.
template <class V, class T> NG_HD V load(const T* row) {
  if constexpr (std::is_arithmetic_v<V>) {
    return (V)widen(*row);
  } else {
    V v;
    if constexpr (std::is_same_v<T, bf16>) {
#ifdef __AVX512F__  // what g++ makes of the conversion takes four instructions
      v = (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)row)), 16);
#else
      HalfLanes half;
      memcpy(&half, row, sizeof half);
      const WordLanes words = __builtin_convertvector(half, WordLanes) << 16;
      memcpy(&v, &words, sizeof v);
#endif
    } else if constexpr (std::is_same_v<T, f16>) {
      float wide[kLanesOf<float>];
      for (int i = 0; i < kLanesOf<float>; ++i) wide[i] = widen(row[i]);
      memcpy(&v, wide, sizeof v);
    } else {
      memcpy(&v, row, sizeof v);
    }
    return v;
  }
}

// Numbers rounded to bfloat16, in the lower half of each word.
NG_HD WordLanes rounded(Lanes<float> v) {
#ifdef __AVX512BF16__
  // One instruction where `narrow` takes ten. It rounds alike but for subnormal numbers, which become zero.
  return (WordLanes)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
  WordLanes words;
  memcpy(&words, &v, sizeof v);
  const WordLanes nearest = (words + 0x7FFFu + ((words >> 16) & 1u)) >> 16, nan = WordLanes() + 0x7FC0u;
  return (words & 0x7FFFFFFFu) > 0x7F800000u ? nan : nearest;
#endif
}

template <class T, class V> NG_HD void store(T* row, V v) {
  if constexpr (std::is_arithmetic_v<V>) {
    *row = narrow<T>(v);
  } else if constexpr (std::is_same_v<T, bf16>) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i*)row, (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
    const HalfLanes half = __builtin_convertvector(rounded(v), HalfLanes);
    memcpy(row, &half, sizeof half);
#endif
  } else if constexpr (std::is_same_v<T, f16>) {
    float wide[kLanesOf<float>];
    memcpy(wide, &v, sizeof v);
    for (int i = 0; i < kLanesOf<float>; ++i) row[i] = narrow<f16>(wide[i]);
  } else {
    memcpy(row, &v, sizeof v);
  }
}

// Maps of at least this many bytes are stored past the caches. Measured: of 4 MB that costs up to a third, of 8 MB it
// saves as much.
constexpr i64 kPastCaches = (i64)8 << 20;

// How the results of a kernel are stored: into the caches, or past them, if the map is too large to be found there
// again. That saves reading the lines that are overwritten, and keeps what lies in the caches. With AVX-512 only.
template <class T> struct Stores {
  // Bits that the address of a store past the caches must not have: all, if there are to be none.
  size_t blocked;

  explicit Stores(i64 elements) : blocked(elements * (i64)sizeof(T) < kPastCaches ? ~(size_t)0 : 0) {}
  bool past() const { return blocked == 0; }

  template <class V> NG_HD void operator()(T* row, V v) const {
#ifdef __AVX512BF16__
    if constexpr (!std::is_arithmetic_v<V> && std::is_same_v<T, bf16>) {
      if (is_free(row, 32)) return _mm256_stream_si256((__m256i*)row, (__m256i)_mm512_cvtneps_pbh((__m512)v));
    }
#endif
    if constexpr (!std::is_arithmetic_v<V> && sizeof(T) > 2) {
      whole(row, v);
    } else {
      store(row, v);
    }
  }

  // Alternately one and the other.
  template <class V> NG_HD void pairs(T* row, V even, V odd) const {
    if constexpr (std::is_arithmetic_v<V>) {
      row[0] = narrow<T>(even);
      row[1] = narrow<T>(odd);
    } else if constexpr (std::is_same_v<T, bf16>) {
      whole(row, rounded(even) | rounded(odd) << 16);  // the first is the lower half: little-endian
    } else {
#ifdef __AVX512F__
      const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
      whole(row, _mm512_permutex2var_ps((__m512)even, low, (__m512)odd));
      whole(row + 16, _mm512_permutex2var_ps((__m512)even, high, (__m512)odd));
#endif
    }
  }

 private:
  NG_HD bool is_free(T* row, size_t bytes) const { return ((size_t)row & (blocked | (bytes - 1))) == 0; }
  // A vector of memory as it is.
  template <class V> NG_HD void whole(T* row, V v) const {
#ifdef __AVX512F__
    if (is_free(row, 64)) return _mm512_stream_si512((__m512i*)row, (__m512i)v);
#endif
    memcpy(row, &v, sizeof v);
  }
};

// Of which types `pairs` makes vectors.
#ifdef __AVX512F__
template <class T> constexpr bool kPaired = std::is_same_v<T, bf16> || std::is_same_v<T, float>;
#else
template <class T> constexpr bool kPaired = std::is_same_v<T, bf16>;
#endif

// Sum of a vector's numbers: its halves are added until there is one.
template <class A, class V> NG_HD A sum_of(const V& v) {
  if constexpr (sizeof(V) == sizeof(A)) {
    A value;
    memcpy(&value, &v, sizeof v);
    return value;
  } else {
    typedef A Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    memcpy(halves, &v, sizeof v);
    return sum_of<A>(halves[0] + halves[1]);
  }
}

typedef double DoubleLanes __attribute__((vector_size(kVectorBytes * 2)));  // as many as a vector of float
template <class A> using WideLanes = std::conditional_t<std::is_same_v<A, float>, DoubleLanes, Lanes<double>>;

// Adds to a row of sums.
template <class A, class V> NG_HD void add_to(double* sums, V v) {
  if constexpr (std::is_arithmetic_v<V>) {
    *sums += (double)v;
  } else {
    WideLanes<A> wide;
    memcpy(&wide, sums, sizeof wide);
    wide += __builtin_convertvector(v, WideLanes<A>);
    memcpy(sums, &wide, sizeof wide);
  }
}

// A sum of many numbers. Those of a row are added in type A, rows in double.
template <class A> struct Sum {
  Lanes<A> row = {};
  A rest = 0;
  double total = 0;

  NG_HD void add(Lanes<A> v) { row += v; }
  NG_HD void add(A v) { rest += v; }
  NG_HD void end_row() {
    total += sum_of<double>(__builtin_convertvector(row, WideLanes<A>)) + (double)rest;
    row = Lanes<A>();
    rest = 0;
  }
};
