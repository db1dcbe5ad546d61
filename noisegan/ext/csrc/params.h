// What each kernel is told. One struct per kernel, shared by nvcc, NVRTC, the CPU library and the host emulator;
// noisegan/ext/params.py mirrors them field by field. No header of torch or of the C library: NVRTC has neither.
//
// T is the type of feature maps (float, double, bfloat16, float16), A the type of arithmetic and of all side operands:
// double for double, else float. Feature maps are [n, c, p], p pixels, dense: index (n C + c) P + p, or with
// channels_last (n P + p) C + c.
#pragma once

typedef long long i64;
typedef unsigned int u32;
typedef unsigned long long u64;

// e[n, c, p] in type A. Either values with strides (in elements, 0 broadcasts), or one map per sample drawn from a
// stream: pixel p takes the stream's normal number p, the same for all channels. Neither: no noise.
struct Noise {
  const void* values;
  i64 stride_n, stride_c, stride_p;
  const i64* ids;   // [n] sample ids, or null
  const i64* step;  // one number beside the ids: in memory, so that it may change while the kernel's arguments stay
  u32 key0, key1, first_block;
};

// y = clamp(gain lrelu(x scale + strength noise + bias)), rounded once to T
struct BiasAct {
  const void* x;         // T [n, c, p]
  void* y;               // T, laid out as x
  const void* scale;     // A [n, c] or null
  const void* bias;      // A [c] or null
  const void* strength;  // A with strides, null without noise
  i64 strength_n, strength_c, strength_p;
  Noise noise;
  i64 n, c, p;
  double slope, gain, clamp;  // clamp is infinite for none, and representable in T
  int channels_last;
  int threads;  // of the CPU library
};

// h = g times the activation's derivative, read off y: gain where 0 < y < clamp, gain slope where -clamp < y <= 0, else 0.
//   gx = h scale;   sums over the pixels of each chunk: sum_h of h, sum_hx of h x, sum_he of h noise
// Chunk k of `chunks` holds pixels [k P / chunks, (k + 1) P / chunks). Sums are A [n, chunks, c], null where not wanted.
struct BiasActGrad {
  const void* g;      // T [n, c, p]
  const void* y;      // T, laid out as g; null: linear without clamp, h = gain g
  const void* x;      // T, laid out as g; null unless sum_hx is wanted
  void* gx;           // T, laid out as g; null where not wanted
  const void* scale;  // A [n, c] or null
  void* sum_h;
  void* sum_hx;
  void* sum_he;
  // Of the CPU library; elsewhere the kernel for ChannelSum follows.
  void* sum_c;         // A [n, p]: sum over channels of weight h, or null
  const void* weight;  // as in ChannelSum
  i64 weight_n, weight_c;
  Noise noise;  // for sum_he only
  i64 n, c, p, chunks;
  double slope, gain, clamp;
  int channels_last;
  int threads;
};

// out[n, p] = sum over channels of weight h, in type A
struct ChannelSum {
  const void* g;       // T [n, c, p]
  const void* y;       // as in BiasActGrad
  const void* weight;  // A with strides over n and c, or null for 1
  i64 weight_n, weight_c;
  void* out;
  i64 n, c, p;
  double slope, gain, clamp;
  int channels_last;
  int threads;
};

// Insert up - 1 zeros after each sample, pad (negative: crop), filter, keep every down-th sample, times gain.
// y[i, j] = gain sum_{a, b} F[a, b] u[i down + a - y0, j down + b - x0], u[r, s] = x[r / up, s / up] where both divide
// and lie inside, else 0; F = f if flip, else f turned by 180 degrees.
struct UpFirDn {
  const void* x;  // T [n, c, h, w]
  void* y;        // T [n, c, oh, ow], laid out as x
  const void* f;  // A [kh, kw]; with separable: A [kh] taps, kh = kw, F is their outer product
  i64 n, c, h, w, oh, ow;
  i64 x0, y0;
  double gain;
  int kh, kw, up, down;
  int separable, flip;
  int channels_last;
  int threads;
};

// out[n, i] = number i of sample ids[n] at step *step of the stream (key0, key1), from block first_block on
struct Philox {
  const i64* ids;   // [n]
  const i64* step;  // one number
  void* out;        // kind 0: i64 words, 1: float uniforms in [0, 1), 2: float normals; [n, count]
  i64 n, count;
  u32 key0, key1, first_block;
  int kind;
  int threads;
};

// y = x * weight, 3 x 3, with a pixel of zeros around x. Of the CPU library only.
struct Winograd {
  const void* x;       // T [n, h, w, c]
  const void* weight;  // T [k, c, 3, 3] with strides
  void* y;             // T [n, h, w, k]
  void* room;          // float [36 (c + 1) k + 16]
  i64 weight_k, weight_c, weight_h, weight_w;
  i64 n, h, w, c, k;  // c and k multiples of 32
  int threads;
};

// The gradient of <g, x * weight> in the weight. Of the CPU library only.
struct WinogradWeight {
  const void* x;  // T [n, h, w, c]
  const void* g;  // T [n, h, w, k]
  void* weight;   // T [k, 3, 3, c]
  void* room;     // float [36 (128 (c + k) + c k + 48) + 16]
  i64 n, h, w, c, k;
  int threads;
};
