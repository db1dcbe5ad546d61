// As cpu_resample4.h, for small planes of one channel: rows of a few pixels cost more in calls than in arithmetic. So a
// plane is copied into a frame with its margin of zeros, on which every pass is one loop over all rows at once; what it
// makes of the seams between rows is not copied out.
#pragma once
#include "cpu_filter_rows.h"

// Measured: with longer rows the copies cost more than the calls they save. Halving needs a call per row in any case.
template <class T> bool is_small(const UpFirDn& p) {
  const i64 longest = p.up == 2 && std::is_same_v<T, bf16> ? 12 : 20;
  return p.down == 1 && p.w <= longest && p.h <= 40 && p.ow <= 40 && p.oh <= 80;
}

template <class A>
NG_ROW void copy_rows(const A* from, i64 from_pitch, i64 rows, i64 width, A* to, i64 to_pitch) {
  for (i64 r = 0; r < rows; ++r)
    for (i64 k = 0; k < width; ++k) to[r * to_pitch + k] = from[r * from_pitch + k];
}

template <class T> void resample4_small(const UpFirDn& p, i64 planes) {
  typedef ArithmeticOf<T> A;
  const FourTaps<A> taps(p);
  const bool doubled = p.up == 2;
  // The frame: from the first row and column that reach the first result on.
  const i64 top = doubled ? taps.rows.shift[0] : -p.y0, left = doubled ? taps.columns.shift[0] : -p.x0;
  const i64 pairs = ceil_div(p.oh, 2), height = doubled ? pairs + 2 : p.oh + 3;
  const i64 pitch = doubled ? ceil_div(p.ow, 2) + 2 : p.ow + 3;
  const i64 r0 = std::clamp<i64>(top, 0, p.h), r1 = std::clamp<i64>(top + height, r0, p.h);
  const i64 c0 = std::clamp<i64>(left, 0, p.w), c1 = std::clamp<i64>(left + pitch, c0, p.w);
  const i64 inset = r1 > r0 && c1 > c0 ? (r0 - top) * pitch + c0 - left : 0;
  const i64 summed_rows = doubled ? pairs : p.oh, summed = summed_rows * pitch;
  const i64 group = std::max<i64>(1, kGrain / (p.oh * p.ow));

  for_each_job(ceil_div(planes, group), planes * p.oh * p.ow, p.threads, [&](i64 job) {
    std::vector<A> buffer((size_t)(height * pitch + summed + 4 + 2 * summed + p.h * p.w + p.oh * p.ow), (A)0);
    A *frame = buffer.data(), *sums = frame + height * pitch, *wide_out = sums + summed + 4;
    A *wide_x = wide_out + 2 * summed, *wide_y = wide_x + p.h * p.w;
    for (i64 plane = job * group; plane < std::min(planes, (job + 1) * group); ++plane) {
      const A* x = widen_row((const T*)p.x + plane * p.h * p.w, p.h * p.w, wide_x);
      T* y = (T*)p.y + plane * p.oh * p.ow;
      A* out = target_row(y, wide_y);
      reserve_row(out, p.oh * p.ow);
      copy_rows(x + r0 * p.w + c0, p.w, r1 - r0, c1 - c0, frame + inset, pitch);
      if (doubled) {
        for (i64 q = 0; q < 2; ++q) {
          const A* first = frame + (taps.rows.shift[q] - taps.rows.shift[0]) * pitch;
          sum_of_2_rows(first, first + pitch, taps.down_phase[q], summed, sums);
          taps.doubled(Rows<A, A>{sums, wide_out, 1, 0, 0, 2 * summed, Stores<A>(0)}, 1);
          copy_rows(wide_out, 2 * pitch, (p.oh + 1 - q) / 2, p.ow, out + q * p.ow, 2 * p.ow);
        }
      } else {
        const A* const rows[4] = {frame, frame + pitch, frame + 2 * pitch, frame + 3 * pitch};
        sum_of_4_rows(rows, taps.down, summed, sums);
        taps.kept(Rows<A, A>{sums, wide_out, 1, 0, 0, summed, Stores<A>(0)}, 1);
        copy_rows(wide_out, pitch, p.oh, p.ow, out, p.ow);
      }
      finish_row(out, p.oh * p.ow, y);
    }
  });
}
