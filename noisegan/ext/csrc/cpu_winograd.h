// Convolutions of 3 x 3 by Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray, "Fast algorithms for
// convolutional neural networks", 2015): 36 products in place of 144 for 16 results of a channel pair. Maps are
// channels_last; channels are multiples of kColumns. Computed in float, rounded once.
//
// A tile of 6 x 6 pixels, of which the next one shares 2, becomes 36 numbers, the kernel too; their products, summed
// over channels, become 4 x 4 results. Each of the 36 sums is a product of matrices. Along an axis the numbers are
// values of polynomials at 0, +-a, +-b and infinity. With a = 1 / b = sqrt(1/2) results are off by 2 to 3 times the
// rounding of plain sums; with the 1 and 2 of Lavin and Gray by 4 to 6 times (points: Barabasz et al., "Error analysis
// and improving the accuracy of Winograd convolution", 2018).
#pragma once
#include "cpu_common.h"

constexpr i64 kTaps = 36;
constexpr i64 kColumns = 32;  // of a block of a matrix product; channels are multiples of it
constexpr i64 kSide = 16;     // channels whose weights are transformed at a time
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 12;  // of a block: as many vectors as 32 registers hold beside the operands
#else
constexpr int kRows = 6;
#endif
constexpr int kAcross = 2;
constexpr i64 kWide = kAcross * kLanesOf<float>;
// Floats of transformed tiles that a thread works on at a time: half of a second-level cache of 1 MB.
constexpr i64 kTileRoom = 36 * 12 * 256;
// Floats between arrays of a power of two, which would all lie in the same few sets of a cache.
constexpr i64 kApart = 16;
// Tiles that are summed by themselves in the weights' gradient.
constexpr i64 kTileChunk = 128;

typedef Lanes<float> FloatLanes;
constexpr float kA = 0.70710678118654752f, kB = 1.4142135623730951f, kA2 = 0.5f, kB2 = 2.0f;
// One over the derivative of x (x^2 - a^2) (x^2 - b^2) at 0, a, b.
constexpr float kAt0 = 1 / (kA2 * kB2), kAtA = 1 / (2 * kA2 * (kA2 - kB2)), kAtB = 1 / (2 * kB2 * (kB2 - kA2));

// The five transforms along an axis. That of results is the transpose of that of gradients, that of the weights'
// gradient the transpose of that of weights.
NG_HD void of_input(const FloatLanes* d, FloatLanes* t) {
  const FloatLanes even_a = d[4] - kB2 * d[2], odd_a = kA * (d[3] - kB2 * d[1]);
  const FloatLanes even_b = d[4] - kA2 * d[2], odd_b = kB * (d[3] - kA2 * d[1]);
  t[0] = kA2 * kB2 * d[0] - (kA2 + kB2) * d[2] + d[4];
  t[1] = even_a + odd_a, t[2] = even_a - odd_a, t[3] = even_b + odd_b, t[4] = even_b - odd_b;
  t[5] = kA2 * kB2 * d[1] - (kA2 + kB2) * d[3] + d[5];
}

NG_HD void of_result(const FloatLanes* m, FloatLanes* y) {
  const FloatLanes even_a = m[1] + m[2], odd_a = kA * (m[1] - m[2]), even_b = m[3] + m[4], odd_b = kB * (m[3] - m[4]);
  y[0] = m[0] + even_a + even_b;
  y[1] = odd_a + odd_b;
  y[2] = kA2 * even_a + kB2 * even_b;
  y[3] = kA2 * odd_a + kB2 * odd_b + m[5];
}

NG_HD void of_gradient(const FloatLanes* g, FloatLanes* z) {
  const FloatLanes even_a = g[0] + kA2 * g[2], odd_a = kA * (g[1] + kA2 * g[3]);
  const FloatLanes even_b = g[0] + kB2 * g[2], odd_b = kB * (g[1] + kB2 * g[3]);
  z[0] = g[0], z[1] = even_a + odd_a, z[2] = even_a - odd_a, z[3] = even_b + odd_b, z[4] = even_b - odd_b, z[5] = g[3];
}

NG_HD void of_weight(const FloatLanes* w, FloatLanes* u) {
  const FloatLanes even_a = kAtA * (w[0] + kA2 * w[2]), odd_a = kAtA * kA * w[1];
  const FloatLanes even_b = kAtB * (w[0] + kB2 * w[2]), odd_b = kAtB * kB * w[1];
  u[0] = kAt0 * w[0], u[1] = even_a + odd_a, u[2] = even_a - odd_a, u[3] = even_b + odd_b, u[4] = even_b - odd_b;
  u[5] = w[2];
}

NG_HD void of_weight_gradient(const FloatLanes* u, FloatLanes* w) {
  const FloatLanes even_a = kAtA * (u[1] + u[2]), even_b = kAtB * (u[3] + u[4]);
  w[0] = kAt0 * u[0] + even_a + even_b;
  w[1] = kAtA * kA * (u[1] - u[2]) + kAtB * kB * (u[3] - u[4]);
  w[2] = kA2 * even_a + kB2 * even_b + u[5];
}

// Both axes: `from(i, j)` gives numbers of [In, In], `to(i, j, v)` takes those of [Out, Out].
template <int In, int Out, class Transform, class From, class To>
NG_HD void transform(const Transform& along, const From& from, const To& to) {
  FloatLanes column[In], half[Out][In], result[Out];
#pragma GCC unroll 6
  for (int j = 0; j < In; ++j) {
#pragma GCC unroll 6
    for (int i = 0; i < In; ++i) column[i] = from(i, j);
    along(column, result);
#pragma GCC unroll 6
    for (int i = 0; i < Out; ++i) half[i][j] = result[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < Out; ++i) {
    along(half[i], result);
#pragma GCC unroll 6
    for (int j = 0; j < Out; ++j) to(i, j, result[j]);
  }
}

// Rows of a product of matrices, kWide columns of it: m[r, :] = sum over k of v[r, k] u[k, :], or that added to m: sums of
// sums, which are more exact than one long sum.
template <int R>
NG_HD void multiply(const float* v, i64 v_row, i64 v_step, const float* u, i64 u_step, i64 length, float* m, i64 m_row,
                    bool add) {
  FloatLanes sums[R][kAcross] = {};
  for (i64 k = 0; k < length; ++k) {
    FloatLanes row[kAcross];
    for (int j = 0; j < kAcross; ++j) row[j] = load<FloatLanes>(u + k * u_step + j * kLanesOf<float>);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const FloatLanes factor = spread<FloatLanes>(v[r * v_row + k * v_step]);
      for (int j = 0; j < kAcross; ++j) sums[r][j] += factor * row[j];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < kAcross; ++j) {
      float* to = m + r * m_row + j * kLanesOf<float>;
      store(to, add ? load<FloatLanes>(to) + sums[r][j] : sums[r][j]);
    }
  }
}

// The same for any number of rows, and kColumns columns.
NG_ROW inline void multiply_rows(i64 rows, const float* v, i64 v_row, i64 v_step, const float* u, i64 u_step,
                                 i64 length, float* m, i64 m_row, bool add) {
  for (i64 j = 0; j < kColumns; j += kWide) {
    i64 r = 0;
    for (; r + kRows <= rows; r += kRows)
      multiply<kRows>(v + r * v_row, v_row, v_step, u + j, u_step, length, m + r * m_row + j, m_row, add);
    for (; r + 2 <= rows; r += 2)
      multiply<2>(v + r * v_row, v_row, v_step, u + j, u_step, length, m + r * m_row + j, m_row, add);
    for (; r < rows; ++r)
      multiply<1>(v + r * v_row, v_row, v_step, u + j, u_step, length, m + r * m_row + j, m_row, add);
  }
}

// The tiles of maps [n, h, w, channels], in the order of their pixels.
struct Tiles {
  i64 h, w, down, across;
  Tiles(i64 h, i64 w) : h(h), w(w), down(ceil_div(h, 4)), across(ceil_div(w, 4)) {}

  // Addresses of the pixels of a tile from `first` (-1 or 0) on, S x S; of `outside` where there is none.
  template <int S, class T>
  void pixels(i64 tile, i64 first, T* maps, i64 channels, T* outside, T** found) const {
    const i64 sample = tile / (down * across), i = tile / across % down * 4 + first, j = tile % across * 4 + first;
    for (i64 a = 0; a < S; ++a) {
      for (i64 b = 0; b < S; ++b) {
        const bool inside = i + a >= 0 && i + a < h && j + b >= 0 && j + b < w;
        found[a * S + b] = inside ? maps + ((sample * h + i + a) * w + j + b) * channels : outside;
      }
    }
  }
};

// A tile of all channels, transformed to [36] steps of `step`.
template <int S, class T, class Transform>
NG_HD void transform_tile(const Transform& along, const T* const* pixels, i64 channels, float* out, i64 step) {
  for (i64 c = 0; c < channels; c += kLanesOf<float>) {
    transform<S, 6>(
        along, [=](int i, int j) { return load<FloatLanes>(pixels[i * S + j] + c); },
        [=](int i, int j, FloatLanes v) { store(out + (i * 6 + j) * step + c, v); });
  }
}

// The weights of kSide channels and kColumns results, in the order that vectors are made of, transformed to steps of
// `step`. Read along what is contiguous: of the weights as they lie every number is in another line of the cache.
template <class T> void transform_weights(const T* weight, const Winograd& p, float* out, i64 step) {
  float taps[9][kSide][kColumns];
  for (i64 tap = 0; tap < 9; ++tap) {
    const T* from = weight + tap / 3 * p.weight_h + tap % 3 * p.weight_w;
    if (p.weight_k == 1) {
      for (i64 c = 0; c < kSide; ++c)
        for (i64 k = 0; k < kColumns; ++k) taps[tap][c][k] = widen(from[c * p.weight_c + k]);
    } else {
      for (i64 k = 0; k < kColumns; ++k)
        for (i64 c = 0; c < kSide; ++c) taps[tap][c][k] = widen(from[c * p.weight_c + k * p.weight_k]);
    }
  }
  for (i64 c = 0; c < kSide; ++c) {
    for (i64 k = 0; k < kColumns; k += kLanesOf<float>) {
      transform<3, 6>(
          of_weight, [&](int i, int j) { return load<FloatLanes>(&taps[i * 3 + j][c][k]); },
          [=](int i, int j, FloatLanes v) { store(out + (i * 6 + j) * step + c * kColumns + k, v); });
    }
  }
}

template <class T> void winograd(const Winograd& p) {
  float* weights = align_row((float*)p.room);  // [k / kColumns, 36, c, kColumns]
  const i64 parts = p.c / kSide, weight_step = p.c * kColumns + kApart;
  for_each_job(p.k / kColumns * parts, kTaps * p.k * p.c, p.threads, [=, &p](i64 job) {
    const i64 block = job / parts, c = job % parts * kSide;
    transform_weights((const T*)p.weight + block * kColumns * p.weight_k + c * p.weight_c, p,
                      weights + block * kTaps * weight_step + c * kColumns, weight_step);
  });

  const Tiles tiles(p.h, p.w);
  const Stores<T> write(sizeof(T) == 4 ? p.n * p.h * p.w * p.k : 0);  // in 16 bits a line would come in parts
  const i64 count = p.n * tiles.down * tiles.across;
  const i64 group = std::max<i64>(kRows, kTileRoom / (kTaps * p.c) / kRows * kRows);
  const i64 step = group * p.c + kApart, column_step = group * kColumns + kApart;
  for_each_job(ceil_div(count, group), p.n * p.h * p.w * p.k, p.threads, [=, &p](i64 job) {
    static thread_local std::vector<float> room;
    room.resize((size_t)(kTaps * (step + column_step) + 16));
    float *transformed = align_row(room.data()), *products = transformed + kTaps * step;
    const std::vector<T> zeros((size_t)p.c);
    std::vector<T> beyond((size_t)kColumns);
    const i64 first = job * group, rows = std::min(group, count - first);
    for (i64 t = 0; t < rows; ++t) {
      const T* pixels[36];
      tiles.pixels<6, const T>(first + t, -1, (const T*)p.x, p.c, zeros.data(), pixels);
      transform_tile<6>(of_input, pixels, p.c, transformed + t * p.c, step);
    }
    for (i64 block = 0; block < p.k / kColumns; ++block) {
      const float* u = weights + block * kTaps * weight_step;
      for (i64 tap = 0; tap < kTaps; ++tap)
        multiply_rows(rows, transformed + tap * step, p.c, 1, u + tap * weight_step, kColumns, p.c,
                      products + tap * column_step, kColumns, false);
      for (i64 t = 0; t < rows; ++t) {
        T* pixels[16];
        tiles.pixels<4, T>(first + t, 0, (T*)p.y + block * kColumns, p.k, beyond.data(), pixels);
        for (i64 j = 0; j < kColumns; j += kLanesOf<float>) {
          const float* m = products + t * kColumns + j;
          transform<6, 4>(
              of_result, [=](int a, int b) { return load<FloatLanes>(m + (a * 6 + b) * column_step); },
              [&](int a, int b, FloatLanes v) { write(pixels[a * 4 + b] + j, v); });
        }
      }
    }
  });
}

// Sums over tiles go on from chunk to chunk in one order, whatever the number of threads.
template <class T> void winograd_weight(const WinogradWeight& p) {
  const i64 step_x = kTileChunk * p.c + kApart, step_g = kTileChunk * p.k + kApart, step = p.c * p.k + kApart;
  float* of_x = align_row((float*)p.room);  // [36, tiles, c]
  float* of_g = of_x + kTaps * step_x;      // [36, tiles, k]
  float* sums = of_g + kTaps * step_g;      // [36, c, k]
  const Tiles tiles(p.h, p.w);
  const i64 count = p.n * tiles.down * tiles.across, blocks = p.k / kColumns;
  const std::vector<T> zeros((size_t)std::max(p.c, p.k));
  for (i64 first = 0; first < count; first += kTileChunk) {
    const i64 rows = std::min(kTileChunk, count - first);
    for_each_job(ceil_div(rows, 4), rows * kTaps * (p.c + p.k), p.threads, [=, &p, &zeros](i64 job) {
      for (i64 t = job * 4; t < std::min(rows, job * 4 + 4); ++t) {
        const T* pixels[36];
        tiles.pixels<6, const T>(first + t, -1, (const T*)p.x, p.c, zeros.data(), pixels);
        transform_tile<6>(of_input, pixels, p.c, of_x + t * p.c, step_x);
        tiles.pixels<4, const T>(first + t, 0, (const T*)p.g, p.k, zeros.data(), pixels);
        transform_tile<4>(of_gradient, pixels, p.k, of_g + t * p.k, step_g);
      }
    });
    for_each_job(kTaps * blocks, kTaps * rows * p.c * p.k, p.threads, [=, &p](i64 job) {
      const i64 tap = job / blocks, k = job % blocks * kColumns;
      multiply_rows(p.c, of_x + tap * step_x, 1, p.c, of_g + tap * step_g + k, p.k, rows, sums + tap * step + k, p.k,
                    first > 0);
    });
  }
  for_each_job(p.c / kSide, kTaps * p.c * p.k, p.threads, [=, &p](i64 job) {
    float taps[kLanesOf<float>][9][kSide];
    for (i64 k = 0; k < p.k; k += kLanesOf<float>) {
      for (i64 c = 0; c < kSide; ++c) {
        const float* u = sums + (job * kSide + c) * p.k + k;
        transform<6, 3>(
            of_weight_gradient, [=](int i, int j) { return load<FloatLanes>(u + (i * 6 + j) * step); },
            [&](int i, int j, FloatLanes v) {
              for (i64 l = 0; l < kLanesOf<float>; ++l) taps[l][i * 3 + j][c] = v[l];
            });
      }
      for (i64 l = 0; l < kLanesOf<float>; ++l)
        for (i64 tap = 0; tap < 9; ++tap)
          narrow_row(taps[l][tap], kSide, (T*)p.weight + ((k + l) * 9 + tap) * p.c + job * kSide);
    }
  });
}
