// Element maths, one text for every compiler: number types, activation and its derivative.
#pragma once
#include "params.h"

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define NG_HD __host__ __device__ __forceinline__
typedef __nv_bfloat16 bf16;
typedef __half f16;
NG_HD float widen(bf16 v) { return __bfloat162float(v); }
NG_HD float widen(f16 v) { return __half2float(v); }
template <class T> NG_HD T narrow(float v);
template <> NG_HD bf16 narrow<bf16>(float v) { return __float2bfloat16_rn(v); }
template <> NG_HD f16 narrow<f16>(float v) { return __float2half_rn(v); }
#else
#include <math.h>
#define NG_HD inline __attribute__((always_inline))
struct bf16 {
  unsigned short bits;
};
#if defined(__FLT16_MANT_DIG__) && !defined(NG_SOFTWARE_F16)
typedef _Float16 f16;
#else  // g++ before 12 and clang before 15 have no such type on x86
struct f16 {
  unsigned short bits;
};
#endif
NG_HD float widen(bf16 v) {
  union {
    u32 word;
    float value;
  } u = {(u32)v.bits << 16};
  return u.value;
}
template <class T> NG_HD T narrow(float v);
#if defined(__FLT16_MANT_DIG__) && !defined(NG_SOFTWARE_F16)
NG_HD float widen(f16 v) { return (float)v; }
template <> NG_HD f16 narrow<f16>(float v) { return (f16)v; }
#else
NG_HD float widen(f16 v) {
  u32 sign = (u32)(v.bits & 0x8000u) << 16, rest = v.bits & 0x7FFFu;
  union {
    u32 word;
    float value;
  } u = {rest << 13};
  u.value *= 5.192296858534828e33f;  // 2^112, between the biases of the exponents; right for subnormals too
  if (rest >= 0x7C00u) u.word |= 0x7F800000u;
  u.word |= sign;
  return u.value;
}
template <> NG_HD f16 narrow<f16>(float v) {  // to nearest, ties to even; NaN stays NaN
  union {
    float value;
    u32 word;
  } u = {v};
  u32 sign = u.word >> 31 << 15, rest = u.word & 0x7FFFFFFFu, bits;
  if (rest > 0x7F800000u) {
    bits = 0x7E00u;
  } else if (rest >= 0x47800000u) {  // 2^16
    bits = 0x7C00u;
  } else if (rest < 0x38800000u) {  // 2^-14: the sum with 1/2 rounds to subnormals' unit, 2^-24
    u.word = rest;
    u.value += 0.5f;
    bits = u.word - 0x3F000000u;
  } else {
    bits = (rest - 0x38000000u + 0xFFFu + ((rest >> 13) & 1u)) >> 13;
  }
  return {(unsigned short)(bits | sign)};
}
#endif
template <> NG_HD bf16 narrow<bf16>(float v) {  // to nearest, ties to even; NaN stays NaN
  union {
    float value;
    u32 word;
  } u = {v};
  u32 rounded = (u.word + 0x7FFFu + ((u.word >> 16) & 1u)) >> 16;
  return {(unsigned short)((u.word & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded)};
}
#endif
NG_HD float widen(float v) { return v; }
NG_HD double widen(double v) { return v; }
template <> NG_HD float narrow<float>(float v) { return v; }
template <class T> NG_HD T narrow(double v);
template <> NG_HD double narrow<double>(double v) { return v; }

// The type of arithmetic for maps of type T.
template <class T> struct Arithmetic {
  typedef float type;
};
template <> struct Arithmetic<double> {
  typedef double type;
};

// What follows takes V for a number of type A or a vector of such (cpu_lanes.h).
template <class V, class A> NG_HD V spread(A value) { return value - V(); }

constexpr double kLargestDouble = 1.7976931348623157e308;

// clamp(lrelu(v)) of a v that has the gain in it. Comparisons are written so that NaN passes through.
template <class A> struct Activation {
  A slope, gain, clamp;
  bool limited;

  template <class P>
  NG_HD explicit Activation(const P& p)
      : slope((A)p.slope), gain((A)p.gain), clamp((A)p.clamp), limited(p.clamp <= kLargestDouble) {}

  template <class V> NG_HD V operator()(V v) const {
    v = v < V() ? v * spread<V>(slope) : v;
    if (limited) {
      v = v > spread<V>(clamp) ? spread<V>(clamp) : v;
      v = v < spread<V>(-clamp) ? spread<V>(-clamp) : v;
    }
    return v;
  }
  // With respect to what the gain multiplies, at the point whose result is y: at the kink that of the left side (as torch), 0 at the
  // clamp. kClamp: there may be one.
  template <bool kClamp = true, class V> NG_HD V derivative(V y) const {
    V d = y > V() ? spread<V>(gain) : spread<V>(gain * slope);
    if (kClamp && limited) {
      d = y >= spread<V>(clamp) ? V() : d;
      d = y <= spread<V>(-clamp) ? V() : d;
    }
    return d;
  }
};
