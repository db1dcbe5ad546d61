// Separable filters of four taps that double, halve or keep the resolution: the network's own.
// Per row of the result: the rows of x that reach it are summed into one row (vertical taps), from which the columns
// follow (horizontal taps). Tiles of columns keep that row in the first-level cache; x comes from memory once.
#pragma once
#include "cpu_filter_rows.h"

template <class T> void resample4(const UpFirDn& p, i64 planes, i64 inner) {
  typedef ArithmeticOf<T> A;
  const FourTaps<A> taps(p, inner);
  const bool doubled = p.up == 2;
  // A job is a band of rows, a tile wide, of one plane, or of several if they are small.
  const i64 tile = std::min(2 * ceil_div(p.ow, 2), 2 * std::max<i64>(8, 2048 / inner)), tiles = ceil_div(p.ow, tile);
  const i64 band = std::min(p.oh, std::max<i64>(8, 2 * kGrain / (tile * inner))), bands = ceil_div(p.oh, band);
  const i64 group = std::max<i64>(1, kGrain / (band * tile * inner)), groups = ceil_div(planes, group);
  const i64 reach = doubled ? tile / 2 + 2 : p.down * (tile - 1) + 4;  // columns of x that a tile needs
  const std::vector<T> zeros((size_t)(std::min(reach, p.w) * inner), narrow<T>((A)0));

  for_each_job(groups * bands * tiles, planes * p.oh * p.ow * inner, p.threads, [&](i64 job) {
    const i64 first_plane = job / tiles / bands * group, last_plane = std::min(planes, first_plane + group);
    const i64 first_row = job / tiles % bands * band, last_row = std::min(p.oh, first_row + band);
    const i64 j = job % tiles * tile, width = std::min(tile, p.ow - j);
    const i64 start = doubled ? j / 2 + taps.columns.shift[0] : j * p.down - p.x0;
    const i64 left = std::clamp<i64>(start, 0, p.w), right = std::clamp<i64>(start + reach, left, p.w);
    std::vector<A> buffer((size_t)((reach + tile) * inner), (A)0);  // columns outside of x stay 0
    A *v = buffer.data(), *inside = v + (right > left ? left - start : 0) * inner, *wide = v + reach * inner;
    for (i64 plane = first_plane; plane < last_plane; ++plane) {
      const auto row_of_x = [&](i64 r) {
        return r < 0 || r >= p.h ? zeros.data() : (const T*)p.x + ((plane * p.h + r) * p.w + left) * inner;
      };
      for (i64 i = first_row; i < last_row; ++i) {
        T* y = (T*)p.y + ((plane * p.oh + i) * p.ow + j) * inner;
        A* out = target_row(y, wide);
        if (doubled) {
          const i64 q = i % 2, r = i / 2 + taps.rows.shift[q];
          sum_of_2_rows(row_of_x(r), row_of_x(r + 1), taps.down_phase[q], (right - left) * inner, inside);
          taps.doubled(v, width, inner, out);
        } else {
          const i64 r = i * p.down - p.y0;
          const T* const from[4] = {row_of_x(r), row_of_x(r + 1), row_of_x(r + 2), row_of_x(r + 3)};
          sum_of_4_rows(from, taps.down, (right - left) * inner, inside);
          if (p.down == 2) {
            taps.halved(v, width, inner, out);
          } else {
            taps.kept(v, width, inner, out);
          }
        }
        finish_row(out, width * inner, y);
      }
    }
  });
}
