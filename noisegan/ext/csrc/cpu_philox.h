// Random numbers of a stream, many blocks at once. Logarithm, sine and cosine are polynomials of our own, for g++ does
// not vectorise calls of the C library; philox.h says the same number by number.
#pragma once
#include "cpu_common.h"
#include "philox.h"

#include <string.h>

#include <memory>

// Blocks made at once; kLanes * 4 numbers.
constexpr int kLanes = 64;

// Natural logarithm for 2^-33 <= u <= 1. m in [sqrt(1/2), sqrt(2)), then a polynomial in m - 1 (coefficients of
// Cephes' logf, S. Moshier, public domain); relative error below 2^-22.
NG_HD float log_normal_range(float u) {
  u32 word;
  memcpy(&word, &u, 4);
  int exponent = (int)(word - 0x3F3504F3u) >> 23;
  word -= (u32)exponent << 23;
  float m;
  memcpy(&m, &word, 4);
  float t = m - 1.0f, e = (float)exponent;
  float q = 7.0376836292e-2f;
  q = q * t - 1.1514610310e-1f;
  q = q * t + 1.1676998740e-1f;
  q = q * t - 1.2420140846e-1f;
  q = q * t + 1.4249322787e-1f;
  q = q * t - 1.6668057665e-1f;
  q = q * t + 2.0000714765e-1f;
  q = q * t - 2.4999993993e-1f;
  q = q * t + 3.3333331174e-1f;
  q = q * t * t * t + e * -2.12194440e-4f - 0.5f * t * t;
  return t + q + e * 0.693359375f;
}

// Sine and cosine for 0 <= angle <= 2 pi: reduced to [-pi/4, pi/4], pi/2 in three parts.
NG_HD void sin_cos(float angle, float* sine, float* cosine) {
  int quadrant = (int)(angle * 0.636619772f + 0.5f);
  float k = (float)quadrant;
  float r = angle - k * 1.5703125f;
  r -= k * 4.837512969970703125e-4f;
  r -= k * 7.54978995489188216e-8f;
  float z = r * r;
  float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
  float c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
  float a = quadrant & 1 ? c : s, b = quadrant & 1 ? s : c;
  *sine = quadrant & 2 ? -a : a;
  *cosine = (quadrant + 1) & 2 ? -b : b;
}

struct Stream {
  u32 key0, key1, step, first_block;
};

// words[w][lane]: word w of block number first + lane
inline void philox_lanes(const Stream& stream, i64 id, u32 first, u32 words[4][kLanes]) {
#pragma omp simd
  for (int lane = 0; lane < kLanes; ++lane) {
    Words w = philox_block(id, first + (u32)lane, stream.key0, stream.key1, stream.step);
    words[0][lane] = w.a;
    words[1][lane] = w.b;
    words[2][lane] = w.c;
    words[3][lane] = w.d;
  }
}

inline void convert_words(const u32 words[4][kLanes], i64* out) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int w = 0; w < 4; ++w) out[4 * lane + w] = words[w][lane];
}

inline void uniform_words(const u32 words[4][kLanes], float* out) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int w = 0; w < 4; ++w) out[4 * lane + w] = philox_uniform(words[w][lane]);
}

inline void normal_words(const u32 words[4][kLanes], float* out) {
  float normals[4][kLanes];
  for (int w = 0; w < 4; w += 2) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      float u = (float)words[w][lane] * 2.3283064365386963e-10f + 1.1641532182693481e-10f;
      float angle = (float)words[w + 1][lane] * 1.4629180792671596e-9f;
      float radius = sqrtf(-2.0f * log_normal_range(u)), sine, cosine;
      sin_cos(angle, &sine, &cosine);
      normals[w][lane] = radius * cosine;
      normals[w + 1][lane] = radius * sine;
    }
  }
  for (int lane = 0; lane < kLanes; ++lane)
    for (int w = 0; w < 4; ++w) out[4 * lane + w] = normals[w][lane];
}

// out[0 .. count): numbers `start` and following of one sample; start is a multiple of 4.
template <class Out, class Convert>
void stream_numbers(const Stream& stream, i64 id, i64 start, i64 count, Out* out, Convert convert) {
  u32 words[4][kLanes];
  for (i64 i = 0; i < count; i += 4 * kLanes) {
    philox_lanes(stream, id, stream.first_block + (u32)((start + i) / 4), words);
    if (count - i >= 4 * kLanes) {
      convert(words, out + i);
    } else {
      Out rest[4 * kLanes];
      convert(words, rest);
      memcpy(out + i, rest, (size_t)(count - i) * sizeof(Out));
    }
  }
}

template <class Out, class Convert>
void stream_map(const Stream& stream, const i64* ids, i64 n, i64 count, int threads, Out* out, Convert convert) {
  const i64 part = 16 * kLanes, parts = ceil_div(count, part);
  for_each_job(n * parts, n * count, threads, [=](i64 job) {
    const i64 sample = job / parts, start = job % parts * part;
    stream_numbers(stream, ids[sample], start, std::min(part, count - start), out + sample * count + start, convert);
  });
}

inline void philox(const Philox& p) {
  const Stream stream = {p.key0, p.key1, (u32)*p.step, p.first_block};
  if (p.kind == 0) {
    stream_map(stream, p.ids, p.n, p.count, p.threads, (i64*)p.out, convert_words);
  } else if (p.kind == 1) {
    stream_map(stream, p.ids, p.n, p.count, p.threads, (float*)p.out, uniform_words);
  } else {
    stream_map(stream, p.ids, p.n, p.count, p.threads, (float*)p.out, normal_words);
  }
}

// The noise of a kernel as an operand. What is to be drawn is drawn here, once for all channels: [n, p].
template <class A> class NoiseMap {
 public:
  NoiseMap(const Noise& noise, i64 n, i64 pixels, int threads) {
    if (noise.values || !noise.ids) {
      operand = {(const A*)noise.values, noise.stride_n, noise.stride_c, noise.stride_p};
      return;
    }
    std::unique_ptr<float[]> normals(new float[(size_t)(n * pixels)]);
    const Stream stream = {noise.key0, noise.key1, (u32)*noise.step, noise.first_block};
    stream_map(stream, noise.ids, n, pixels, threads, normals.get(), normal_words);
    if constexpr (std::is_same_v<A, float>) {
      drawn = std::move(normals);
    } else {
      drawn.reset(new A[(size_t)(n * pixels)]);
      std::copy_n(normals.get(), n * pixels, drawn.get());
    }
    operand = {drawn.get(), pixels, 0, 1};
  }
  Operand<A> operand;

 private:
  std::unique_ptr<A[]> drawn;
};
