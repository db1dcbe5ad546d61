// The CUDA kernels, for nvcc, NVRTC and the host emulator of the tests. What each computes: params.h.
//
// Axes: NCHW maps run pixels along x (vectors of 16 bytes where they fit), channels along y; channels_last maps run
// channels along x, pixels along y. Samples run along z. ext/grids.py picks the grids: axes that are no loops here it
// covers whole. Each axis has fewer than 2^31 elements, the maps may have more. Sums have a fixed order: no atomics, the
// same bits on every run.
#pragma once
#include "philox.h"

namespace noisegan {

constexpr int kThreads = 256;  // of a block at most; ext/grids.py: THREADS
#define NG_DEVICE __device__ __forceinline__

NG_DEVICE u32 first_x() { return blockIdx.x * blockDim.x + threadIdx.x; }
NG_DEVICE u32 first_y() { return blockIdx.y * blockDim.y + threadIdx.y; }
NG_DEVICE u32 first_z() { return blockIdx.z * blockDim.z + threadIdx.z; }
NG_DEVICE u32 stride_x() { return gridDim.x * blockDim.x; }
NG_DEVICE u32 stride_y() { return gridDim.y * blockDim.y; }
NG_DEVICE u32 stride_z() { return gridDim.z * blockDim.z; }

// V numbers that travel together.
template <class T, int V> struct alignas(sizeof(T) * V) Pack {
  T at[V];
};

// Fours are what a block of Philox makes, too. float64 is for checks, not for speed: one by one.
template <class T> constexpr int kWide = 4;
template <> constexpr int kWide<double> = 1;

template <class T> NG_DEVICE bool aligned(const void* address) { return (u64)address % sizeof(Pack<T, kWide<T>>) == 0; }

template <class A, class T, int V> NG_DEVICE void load(const T* from, A (&to)[V]) {
  const Pack<T, V> pack = *(const Pack<T, V>*)from;
  for (int v = 0; v < V; ++v) to[v] = widen(pack.at[v]);
}

template <class A, class T, int V> NG_DEVICE void store(T* to, const A (&from)[V]) {
  Pack<T, V> pack;
  for (int v = 0; v < V; ++v) pack.at[v] = narrow<T>(from[v]);
  *(Pack<T, V>*)to = pack;
}

// Four normals of a stream. A call: inlined a dozen times it would be half of the compile time.
__device__ __noinline__ inline Pack<float, 4> draw_four(i64 id, u32 block, u32 key0, u32 key1, u32 step) {
  const Words w = philox_block(id, block, key0, key1, step);
  Pack<float, 4> normals;
  box_muller(w.a, w.b, &normals.at[0], &normals.at[1]);
  box_muller(w.c, w.d, &normals.at[2], &normals.at[3]);
  return normals;
}

// The normals of pixels p .. p + V - 1; V is 4 or 1, p a multiple of V.
template <int V, class A> NG_DEVICE void draw(const Noise& noise, u32 n, u32 p, A (&e)[V]) {
  const auto four = draw_four(noise.ids[n], noise.first_block + p / 4, noise.key0, noise.key1, (u32)*noise.step);
  if constexpr (V == 4)
    for (int v = 0; v < V; ++v) e[v] = four.at[v];
  else
    e[0] = p & 2 ? p & 1 ? four.at[3] : four.at[2] : p & 1 ? four.at[1] : four.at[0];
}

// Noise of channel c at pixels p .. p + V - 1, those before `end`.
template <int V, class A> NG_DEVICE void load_noise(const Noise& noise, u32 n, u32 c, u32 p, u32 end, A (&e)[V]) {
  if (noise.values) {
    const A* values = (const A*)noise.values + n * noise.stride_n + c * noise.stride_c;
    for (int v = 0; v < V; ++v) e[v] = p + v < end ? values[(p + v) * noise.stride_p] : (A)0;
  } else if (noise.ids) {
    draw(noise, n, p, e);
  } else {
    for (int v = 0; v < V; ++v) e[v] = 0;
  }
}

// The noise of four pixels and several channels; read once where all channels share it.
template <class A> struct NoiseOfFour {
  const Noise& noise;
  const A* first;
  A shared[4];

  NG_DEVICE NoiseOfFour(const Noise& noise, u32 n, u32 p, u32 end) : noise(noise) {
    first = (const A*)noise.values + n * noise.stride_n + p * noise.stride_p;
    if (!noise.stride_c) load_noise<4>(noise, n, 0, p, end, shared);
  }
  template <int V> NG_DEVICE void at(u32 c, int j, A (&e)[V]) const {
    const A same = j < 2 ? j < 1 ? shared[0] : shared[1] : j < 3 ? shared[2] : shared[3];  // stays in registers
    for (int v = 0; v < V; ++v)
      e[v] = noise.stride_c ? first[(c + v) * noise.stride_c + j * noise.stride_p] : same;
  }
};

// h = g times the derivative at y, for V elements from `at` on.
template <class T, class A, int V>
NG_DEVICE void load_h(const void* g, const void* y, i64 at, const Activation<A>& act, A (&h)[V]) {
  load((const T*)g + at, h);
  A value[V];
  if (y) load((const T*)y + at, value);
  for (int v = 0; v < V; ++v) h[v] *= y ? act.derivative(value[v]) : act.gain;
}

// Sum over threadIdx.x, complete where threadIdx.x = 0. blockDim.x is a power of two and blocks are whole warps.
template <class A> NG_DEVICE A sum_over_x(A value) {
  const int width = blockDim.x;
#pragma unroll 1
  for (int lane = (width < 32 ? width : 32) / 2; lane > 0; lane /= 2) value += __shfl_xor_sync(~0u, value, lane);
  if (width <= 32) return value;
  __shared__ A of_warp[kThreads / 32];
  const int warp = (threadIdx.y * width + threadIdx.x) / 32;
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warp[warp] = value;
  __syncthreads();
  if (threadIdx.x == 0)
#pragma unroll 1
    for (int other = 1; other < width / 32; ++other) value += of_warp[warp + other];
  return value;
}

// Sums over threadIdx.y, complete where threadIdx.y = 0. blockDim.y is a power of two.
template <class A, int V> NG_DEVICE void sum_over_y(A (&values)[V]) {
  __shared__ A upper[V][kThreads / 2];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll 1
  for (u32 half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y >= half && threadIdx.y < 2 * half)
      for (int v = 0; v < V; ++v) upper[v][thread - half * blockDim.x] = values[v];
    __syncthreads();
    if (threadIdx.y < half)
      for (int v = 0; v < V; ++v) values[v] += upper[v][thread];
  }
}

// ---------------------------------------------------------------------------------------------------- bias_act

template <class T, int V> NG_DEVICE void bias_act_planes(const BiasAct& q) {
  typedef typename Arithmetic<T>::type A;
  const Activation<A> act(q);
#pragma unroll 1
  for (u32 n = first_z(); n < q.n; n += stride_z())
#pragma unroll 1
    for (u32 p = first_x() * V; p < q.p; p += stride_x() * V) {
      A noise[V], strength[V], map[V];
#pragma unroll 1
      for (u32 c = first_y(), first = c; c < q.c; c += stride_y()) {
        if (q.strength) {  // what all channels share is read (or drawn) once
          if (c == first || q.noise.stride_c) load_noise<V>(q.noise, n, c, p, q.p, noise);
          if (c == first || q.strength_c) {
            const A* from = (const A*)q.strength + n * q.strength_n + c * q.strength_c + p * q.strength_p;
            for (int v = 0; v < V; ++v) strength[v] = from[v * q.strength_p];
          }
        }
        const i64 at = (n * q.c + c) * q.p + p;
        const A scale = q.scale ? ((const A*)q.scale)[n * q.c + c] : (A)1;
        const A bias = q.bias ? ((const A*)q.bias)[c] : (A)0;
        load((const T*)q.x + at, map);
        for (int v = 0; v < V; ++v) {
          A u = map[v] * scale;
          if (q.strength) u += strength[v] * noise[v];
          map[v] = act(act.gain * (u + bias));
        }
        store((T*)q.y + at, map);
      }
    }
}

template <class T, int V> NG_DEVICE void bias_act_pixels(const BiasAct& q) {
  typedef typename Arithmetic<T>::type A;
  const Activation<A> act(q);
#pragma unroll 1
  for (u32 n = first_z(); n < q.n; n += stride_z())
#pragma unroll 1
    for (u32 c = first_x() * V; c < q.c; c += stride_x() * V) {
      A scale[V], bias[V], map[V];
      for (int v = 0; v < V; ++v) {
        scale[v] = q.scale ? ((const A*)q.scale)[n * q.c + c + v] : (A)1;
        bias[v] = q.bias ? ((const A*)q.bias)[c + v] : (A)0;
      }
#pragma unroll 1
      for (u32 four = first_y() * 4; four < q.p; four += stride_y() * 4) {
        const NoiseOfFour<A> noise(q.noise, n, four, q.p);
#pragma unroll 1
        for (int j = 0; j < 4 && four + j < q.p; ++j) {
          const u32 p = four + j;
          const i64 at = (n * q.p + p) * q.c + c;
          load((const T*)q.x + at, map);
          for (int v = 0; v < V; ++v) map[v] *= scale[v];
          if (q.strength) {
            const A* strength = (const A*)q.strength + n * q.strength_n + c * q.strength_c + p * q.strength_p;
            A e[V];
            noise.at(c, j, e);
            for (int v = 0; v < V; ++v) map[v] += strength[v * q.strength_c] * e[v];
          }
          for (int v = 0; v < V; ++v) map[v] = act(act.gain * (map[v] + bias[v]));
          store((T*)q.y + at, map);
        }
      }
    }
}

template <class T> NG_DEVICE void bias_act(const BiasAct& q) {
  const bool wide = (q.channels_last ? q.c : q.p) % kWide<T> == 0 && aligned<T>(q.x) && aligned<T>(q.y);
  if (q.channels_last)
    wide ? bias_act_pixels<T, kWide<T>>(q) : bias_act_pixels<T, 1>(q);
  else
    wide ? bias_act_planes<T, kWide<T>>(q) : bias_act_planes<T, 1>(q);
}

// ----------------------------------------------------------------------------------------------- bias_act_grad

// The pixels of one chunk.
struct Chunk {
  u32 first, end;
  NG_DEVICE Chunk(const BiasActGrad& q, u32 k)
      : first((u32)(k * q.p / q.chunks)), end((u32)((k + 1) * q.p / q.chunks)) {}
};

// A row of threads sums one channel of a chunk: a block holds blockDim.y channels.
template <class T, class A, int V>
NG_DEVICE void bias_act_grad_row(const BiasActGrad& q, const Activation<A>& act, u32 n, u32 c, const Chunk& chunk,
                                 A (&sums)[3]) {
  const A scale = q.scale ? ((const A*)q.scale)[n * q.c + c] : (A)1;
#pragma unroll 1
  for (u32 p = chunk.first + threadIdx.x * V; p < chunk.end; p += blockDim.x * V) {
    const i64 at = (n * q.c + c) * q.p + p;
    A h[V], other[V];
    load_h<T>(q.g, q.y, at, act, h);
    for (int v = 0; v < V; ++v) sums[0] += h[v];
    if (q.sum_hx) {
      load((const T*)q.x + at, other);
      for (int v = 0; v < V; ++v) sums[1] += h[v] * other[v];
    }
    if (q.sum_he) {
      load_noise<V>(q.noise, n, c, p, chunk.end, other);
      for (int v = 0; v < V; ++v) sums[2] += h[v] * other[v];
    }
    if (q.gx) {
      for (int v = 0; v < V; ++v) h[v] *= scale;
      store((T*)q.gx + at, h);
    }
  }
}

template <class T> NG_DEVICE void bias_act_grad_planes(const BiasActGrad& q, bool wide) {
  typedef typename Arithmetic<T>::type A;
  const Activation<A> act(q);
  const u32 k = blockIdx.x, c = first_y();
  const Chunk chunk(q, k);
  const bool whole = wide && chunk.first % kWide<T> == 0 && chunk.end % kWide<T> == 0;
#pragma unroll 1
  for (u32 n = blockIdx.z; n < q.n; n += gridDim.z) {  // barriers inside: the threads of a block stay together
    A sums[3] = {0, 0, 0};
    if (c < q.c)
      whole ? bias_act_grad_row<T, A, kWide<T>>(q, act, n, c, chunk, sums)
            : bias_act_grad_row<T, A, 1>(q, act, n, c, chunk, sums);
    for (int i = 0; i < 3; ++i) {
      A* const out = (A*)(i == 0 ? q.sum_h : i == 1 ? q.sum_hx : q.sum_he);
      if (!out) continue;
      const A sum = sum_over_x(sums[i]);
      if (threadIdx.x == 0 && c < q.c) out[(n * q.chunks + k) * q.c + c] = sum;
    }
  }
}

// A column of threads sums V channels of a chunk.
template <class T, int V> NG_DEVICE void bias_act_grad_pixels(const BiasActGrad& q) {
  typedef typename Arithmetic<T>::type A;
  const Activation<A> act(q);
  const u32 k = blockIdx.y, c = first_x() * V;
  const Chunk chunk(q, k);
#pragma unroll 1
  for (u32 n = blockIdx.z; n < q.n; n += gridDim.z) {  // as above
    A sums[3][V] = {};
#pragma unroll 1
    for (u32 four = (chunk.first / 4 + threadIdx.y) * 4; c < q.c && four < chunk.end; four += blockDim.y * 4) {
      const NoiseOfFour<A> noise(q.noise, n, four, chunk.end);
#pragma unroll 1
      for (int j = 0; j < 4; ++j) {
        const u32 p = four + j;
        const i64 at = (n * q.p + p) * q.c + c;
        if (p < chunk.first || p >= chunk.end) continue;
        A h[V], other[V];
        load_h<T>(q.g, q.y, at, act, h);
        for (int v = 0; v < V; ++v) sums[0][v] += h[v];
        if (q.sum_hx) {
          load((const T*)q.x + at, other);
          for (int v = 0; v < V; ++v) sums[1][v] += h[v] * other[v];
        }
        if (q.sum_he) {
          noise.at(c, j, other);
          for (int v = 0; v < V; ++v) sums[2][v] += h[v] * other[v];
        }
        if (q.gx) {
          if (q.scale)
            for (int v = 0; v < V; ++v) h[v] *= ((const A*)q.scale)[n * q.c + c + v];
          store((T*)q.gx + at, h);
        }
      }
    }
    for (int i = 0; i < 3; ++i) {
      A* const out = (A*)(i == 0 ? q.sum_h : i == 1 ? q.sum_hx : q.sum_he);
      if (!out) continue;
      sum_over_y(sums[i]);
      if (threadIdx.y == 0 && c < q.c)
        for (int v = 0; v < V; ++v) out[(n * q.chunks + k) * q.c + c + v] = sums[i][v];
    }
  }
}

template <class T> NG_DEVICE void bias_act_grad(const BiasActGrad& q) {
  const bool wide = (q.channels_last ? q.c : q.p) % kWide<T> == 0 && aligned<T>(q.g) && aligned<T>(q.y) && aligned<T>(q.x) &&
                    aligned<T>(q.gx);
  if (!q.channels_last)
    bias_act_grad_planes<T>(q, wide);
  else
    wide ? bias_act_grad_pixels<T, kWide<T>>(q) : bias_act_grad_pixels<T, 1>(q);
}

// ------------------------------------------------------------------------------------------------- channel_sum

template <class A> NG_DEVICE A weight_of(const ChannelSum& q, u32 n, u32 c) {
  return q.weight ? ((const A*)q.weight)[n * q.weight_n + c * q.weight_c] : (A)1;
}

template <class T, int V> NG_DEVICE void channel_sum_planes(const ChannelSum& q) {
  typedef typename Arithmetic<T>::type A;
  const Activation<A> act(q);
#pragma unroll 1
  for (u32 n = blockIdx.z; n < q.n; n += gridDim.z)
#pragma unroll 1
    for (u32 tile = blockIdx.x * blockDim.x * V; tile < q.p; tile += stride_x() * V) {
      const u32 p = tile + threadIdx.x * V;
      A sums[V] = {}, h[V];
#pragma unroll 1
      for (u32 c = threadIdx.y; p < q.p && c < q.c; c += blockDim.y) {
        const A weight = weight_of<A>(q, n, c);
        load_h<T>(q.g, q.y, (n * q.c + c) * q.p + p, act, h);
        for (int v = 0; v < V; ++v) sums[v] += weight * h[v];
      }
      sum_over_y(sums);
      if (threadIdx.y == 0 && p < q.p)
        for (int v = 0; v < V; ++v) ((A*)q.out)[n * q.p + p + v] = sums[v];
    }
}

template <class T, int V> NG_DEVICE void channel_sum_pixels(const ChannelSum& q) {
  typedef typename Arithmetic<T>::type A;
  const Activation<A> act(q);
#pragma unroll 1
  for (u32 n = blockIdx.z; n < q.n; n += gridDim.z)
#pragma unroll 1
    for (u32 tile = blockIdx.y * blockDim.y; tile < q.p; tile += stride_y()) {
      const u32 p = tile + threadIdx.y;
      A sum = 0, h[V];
#pragma unroll 1
      for (u32 c = threadIdx.x * V; p < q.p && c < q.c; c += blockDim.x * V) {
        load_h<T>(q.g, q.y, (n * q.p + p) * q.c + c, act, h);
        for (int v = 0; v < V; ++v) sum += weight_of<A>(q, n, c + v) * h[v];
      }
      sum = sum_over_x(sum);
      if (threadIdx.x == 0 && p < q.p) ((A*)q.out)[n * q.p + p] = sum;
    }
}

template <class T> NG_DEVICE void channel_sum(const ChannelSum& q) {
  const bool wide = (q.channels_last ? q.c : q.p) % kWide<T> == 0 && aligned<T>(q.g) && aligned<T>(q.y);
  if (q.channels_last)
    wide ? channel_sum_pixels<T, kWide<T>>(q) : channel_sum_pixels<T, 1>(q);
  else
    wide ? channel_sum_planes<T, kWide<T>>(q) : channel_sum_planes<T, 1>(q);
}

}  // namespace noisegan
