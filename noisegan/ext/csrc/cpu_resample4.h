// Separable filters of four taps that double, halve or keep the resolution: the network's own.
// Per row of the result: the rows of x that reach it are summed into one row (vertical taps), from which the columns
// follow (horizontal taps). Tiles of columns keep that row in the first-level cache; x comes from memory once.
// A few rows are summed before the columns of any: a load that straddles two recent stores waits for every store before
// them, and those of results wait for memory. Meanwhile the lines of the results are fetched.
#pragma once
#include "cpu_filter_rows.h"

template <class T> void resample4(const UpFirDn& p, i64 planes, i64 inner) {
  typedef ArithmeticOf<T> A;
  const FourTaps<A> taps(p);
  const Stores<T> put(planes * p.oh * p.ow * inner);
  const bool doubled = p.up == 2, at_once = stored_at_once<T>(p, inner);
  // A job is a band of rows, a tile wide, of one plane, or of several if they are small.
  const i64 tile = std::min(2 * ceil_div(p.ow, 2), 2 * std::max<i64>(8, 2048 / inner)), tiles = ceil_div(p.ow, tile);
  const i64 band = std::min(p.oh, std::max<i64>(8, 2 * kGrain / (tile * inner))), bands = ceil_div(p.oh, band);
  const i64 group = std::max<i64>(1, kGrain / (band * tile * inner)), groups = ceil_div(planes, group);
  const i64 reach = doubled ? tile / 2 + 2 : p.down * (tile - 1) + 4;  // columns of x that a tile needs
  const i64 pitch = ceil_div(reach * inner, 16) * 16;  // of the sums, whose rows begin where cache lines do
  const i64 batch = std::clamp<i64>(1024 / pitch, 1, band);
  const std::vector<T> zeros((size_t)(std::min(reach, p.w) * inner), narrow<T>((A)0));

  for_each_job(groups * bands * tiles, planes * p.oh * p.ow * inner, p.threads, [&](i64 job) {
    const i64 first_plane = job / tiles / bands * group, last_plane = std::min(planes, first_plane + group);
    const i64 first_row = job / tiles % bands * band, last_row = std::min(p.oh, first_row + band);
    const i64 j = job % tiles * tile, width = std::min(tile, p.ow - j);
    const i64 start = doubled ? j / 2 + taps.columns.shift[0] : j * p.down - p.x0;
    const i64 left = std::clamp<i64>(start, 0, p.w), right = std::clamp<i64>(start + reach, left, p.w);
    const i64 margin = (right > left ? left - start : 0) * inner;
    std::vector<A> buffer((size_t)(batch * pitch + 32 + (at_once ? 0 : batch * width * inner)));
    A* sums = align_row(buffer.data() + margin) - margin;  // columns outside of x stay 0
    A* wide = align_row(sums + batch * pitch);
    for (i64 plane = first_plane; plane < last_plane; ++plane) {
      const auto row_of_x = [&](i64 r) {
        return r < 0 || r >= p.h ? zeros.data() : (const T*)p.x + ((plane * p.h + r) * p.w + left) * inner;
      };
      for (i64 i0 = first_row; i0 < last_row; i0 += batch) {
        const i64 count = std::min(batch, last_row - i0);
        T* y = (T*)p.y + ((plane * p.oh + i0) * p.ow + j) * inner;
        for (i64 k = 0; k < count; ++k) {
          const i64 i = i0 + k;
          A* inside = sums + k * pitch + margin;
          // Measured: in 16 bits, which take longer to compute, the lines come too early.
          if (std::is_same_v<T, A> && !put.past()) reserve_row(y + k * p.ow * inner, width * inner);
          if (doubled) {
            const i64 q = i % 2, r = i / 2 + taps.rows.shift[q];
            sum_of_2_rows(row_of_x(r), row_of_x(r + 1), taps.down_phase[q], (right - left) * inner, inside);
          } else {
            const i64 r = i * p.down - p.y0;
            const T* const from[4] = {row_of_x(r), row_of_x(r + 1), row_of_x(r + 2), row_of_x(r + 3)};
            sum_of_4_rows(from, taps.down, (right - left) * inner, inside);
          }
        }
        const auto combine = [&](auto* to, i64 to_pitch, auto stores) {
          const Rows<std::remove_pointer_t<decltype(to)>, A> rows = {sums, to, count, pitch, to_pitch, width, stores};
          if (doubled) {
            taps.doubled(rows, inner);
          } else if (p.down == 2) {
            taps.halved(rows, inner);
          } else {
            taps.kept(rows, inner);
          }
        };
        if (at_once) {
          combine(y, p.ow * inner, put);
        } else {
          combine(wide, width * inner, Stores<A>(0));
          const i64 part = tiles == 1 ? count : 1;  // rows that lie one behind the other
          for (i64 k = 0; k < count; k += part)
            narrow_row(wide + k * width * inner, part * width * inner, y + k * p.ow * inner);
        }
      }
    }
  });
}
