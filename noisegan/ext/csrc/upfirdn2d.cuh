// Resampling with a finite impulse response filter, for nvcc, NVRTC and the host emulator; the formula: params.h.
//
// Each thread makes a patch of outputs. The patch of the usual filters (4 taps; up 2, down 2 or neither) starts where
// the inserted zeros do, so which tap meets which input is known to the compiler: zeros cost nothing and each input is
// read once per patch. All other filters take patches of one output.
//
// NCHW: patch columns along x, patch rows along y, planes along z. channels_last: channels along x, patch columns
// along y, samples times patch rows along z.
#pragma once
#include "kernels.cuh"

namespace noisegan {

constexpr int kTaps = 4, kStrip = 8;  // ext/grids.py: STRIP

template <class A> NG_DEVICE A tap(const UpFirDn& q, int a, int b) {
  const A* f = (const A*)q.f;
  if (!q.flip) a = q.kh - 1 - a, b = q.kw - 1 - b;
  return q.separable ? f[a] * f[b] : f[(i64)a * q.kw + b];
}

// One plane (one sample and channel) of a map: `from` is its first pixel.
template <class T> struct Plane {
  T* from;
  int row, pixel;  // strides
  NG_DEVICE T* at(int i, int j) const { return from + (i64)i * row + j * pixel; }
};

template <class T> NG_DEVICE Plane<T> plane_of(T* maps, const UpFirDn& q, u32 n, u32 plane, u32 c, u32 h, u32 w) {
  const u32 channels = (u32)q.c;
  if (q.channels_last) return {maps + (u64)n * h * w * channels + c, (int)(w * channels), (int)channels};
  return {maps + (u64)plane * h * w, (int)w, 1};
}

// All patches that fall to this thread: patch(x plane, y plane, patch row, patch column).
template <class T, class Patch> NG_DEVICE void each_patch(const UpFirDn& q, u32 rows, u32 columns, const Patch& patch) {
  const bool last = q.channels_last;
  const u32 along_z = (u32)q.n * (last ? rows : (u32)q.c), along_y = last ? columns : rows;
  const u32 along_x = last ? (u32)q.c : columns;
  const u32 x = first_x(), y = first_y();
  if (x >= along_x || y >= along_y) return;
#pragma unroll 1
  for (u32 z = first_z(); z < along_z; z += stride_z())
        patch(plane_of((const T*)q.x, q, z / rows, z, x, (u32)q.h, (u32)q.w),
              plane_of((T*)q.y, q, z / rows, z, x, (u32)q.oh, (u32)q.ow), (int)(last ? z % rows : y),
              (int)(last ? y : x));
}

// The smallest tap, at least 0, that meets a sample and no inserted zero where tap 0 lies at `at`.
NG_DEVICE int first_tap(int at, int up) { return (-at % up + up) % up; }

template <class T, int UP, int DOWN> NG_DEVICE void upfirdn2d_four_taps(const UpFirDn& q) {
  typedef typename Arithmetic<T>::type A;
  constexpr int S = UP, kColumns = ((S - 1) * DOWN + kTaps - 1) / UP + 1;  // outputs and inputs side by side
  constexpr int kAhead = (kTaps - 1) / DOWN;  // rows of outputs that a row of inputs begins before others are done
  constexpr int kSteps = (kStrip + kAhead + UP - 1) / UP;
  A f[kTaps][kTaps];
  for (int a = 0; a < kTaps; ++a)
    for (int b = 0; b < kTaps; ++b) f[a][b] = tap<A>(q, a, b) * (A)q.gain;
  const int h = (int)q.h, w = (int)q.w, oh = (int)q.oh, ow = (int)q.ow, y0 = (int)q.y0, x0 = (int)q.x0;
  const int top = first_tap(y0, UP), left = first_tap(x0, UP);  // by which strips start early

  auto strip = [&](const Plane<const T>& x, const Plane<T>& y, int strip_row, int strip_column) {
    const int i0 = strip_row * kStrip - top, j0 = strip_column * S - left;
    const int r0 = (i0 * DOWN - y0) / UP, s0 = (j0 * DOWN - x0) / UP;  // exact
    A sums[kAhead + 1][S] = {};  // of output rows i, i + 1, ...
#pragma unroll (2 / DOWN)  // two rows of inputs on their way
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int t = 0; t < DOWN; ++t) {
        const int r = r0 + step * DOWN + t;
        const T* row = x.at(r, s0);
#pragma unroll
        for (int s = 0; s < kColumns; ++s) {
          const bool inside = (u32)r < (u32)h && (u32)(s0 + s) < (u32)w;
          const A value = inside ? (A)widen(__ldg(row + s * x.pixel)) : (A)0;
#pragma unroll
          for (int i = 0; i <= kAhead; ++i)
#pragma unroll
            for (int j = 0; j < S; ++j) {
              const int a = t * UP + (kAhead - i) * DOWN, b = s * UP - j * DOWN;
              if (b >= 0 && b < kTaps) sums[i][j] += f[a][b] * value;
            }
        }
      }
      // UP rows are done; the others move up.
      const int done = step * UP - kAhead;
#pragma unroll
      for (int i = 0; i <= kAhead; ++i)
#pragma unroll
        for (int j = 0; j < S; ++j) {
          if (i < UP && done + i >= 0 && done + i < kStrip && (u32)(i0 + done + i) < (u32)oh && (u32)(j0 + j) < (u32)ow)
            *y.at(i0 + done + i, j0 + j) = narrow<T>(sums[i][j]);
          sums[i][j] = i + UP <= kAhead ? sums[(i + UP) % (kAhead + 1)][j] : (A)0;
        }
    }
  };
  each_patch<T>(q, (oh + top + kStrip - 1) / kStrip, (ow + left + S - 1) / S, strip);
}

template <class T> NG_DEVICE void upfirdn2d_any(const UpFirDn& q) {
  typedef typename Arithmetic<T>::type A;
  auto pixel = [&](const Plane<const T>& x, const Plane<T>& y, int i, int j) {
    const int top = i * q.down - (int)q.y0, left = j * q.down - (int)q.x0;
    A sum = 0;
#pragma unroll 1
    for (int a = first_tap(top, q.up); a < q.kh; a += q.up) {
      const int r = (top + a) / q.up;  // exact
      if (r < 0 || r >= q.h) continue;
#pragma unroll 1
      for (int b = first_tap(left, q.up); b < q.kw; b += q.up) {
        const int s = (left + b) / q.up;
        if (s >= 0 && s < q.w) sum += tap<A>(q, a, b) * (A)widen(*x.at(r, s));
      }
    }
    *y.at(i, j) = narrow<T>(sum * (A)q.gain);
  };
  each_patch<T>(q, (u32)q.oh, (u32)q.ow, pixel);
}

template <class T> NG_DEVICE void upfirdn2d(const UpFirDn& q) {
  const bool four_taps = q.kh == kTaps && q.kw == kTaps;
  if (four_taps && q.up == 2 && q.down == 1)
    upfirdn2d_four_taps<T, 2, 1>(q);
  else if (four_taps && q.up == 1 && q.down == 2)
    upfirdn2d_four_taps<T, 1, 2>(q);
  else if (four_taps && q.up == 1 && q.down == 1)
    upfirdn2d_four_taps<T, 1, 1>(q);
  else
    upfirdn2d_any<T>(q);
}

}  // namespace noisegan
