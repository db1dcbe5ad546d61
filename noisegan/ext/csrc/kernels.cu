// The entry points: noisegan_<kernel>_<type>, and noisegan_philox. Launched by ext/cuda.py on the grids of ext/grids.py.
#include "upfirdn2d.cuh"

// BLOCKS of kThreads threads find room on a multiprocessor: a limit of 65536 / (kThreads BLOCKS) registers.
#define NG_ENTRY(KERNEL, PARAMS, BLOCKS, NAME, T)                                                                 \
  extern "C" __global__ void __launch_bounds__(noisegan::kThreads, BLOCKS) noisegan_##KERNEL##_##NAME(PARAMS q) { \
    noisegan::KERNEL<T>(q);                                                                                       \
  }
#define NG_ENTRIES(KERNEL, PARAMS, BLOCKS)          \
  NG_ENTRY(KERNEL, PARAMS, BLOCKS, float32, float)  \
  NG_ENTRY(KERNEL, PARAMS, 2, float64, double)      \
  NG_ENTRY(KERNEL, PARAMS, BLOCKS, bfloat16, bf16)  \
  NG_ENTRY(KERNEL, PARAMS, BLOCKS, float16, f16)

NG_ENTRIES(bias_act, BiasAct, 4)
NG_ENTRIES(bias_act_grad, BiasActGrad, 3)
NG_ENTRIES(channel_sum, ChannelSum, 4)
NG_ENTRIES(upfirdn2d, UpFirDn, 3)

// One thread makes a block of four numbers; blocks along x, samples along y.
extern "C" __global__ void __launch_bounds__(noisegan::kThreads) noisegan_philox(Philox q) {
  using namespace noisegan;
  for (i64 n = first_y(); n < q.n; n += stride_y())
    for (i64 i = first_x() * 4; i < q.count; i += stride_x() * 4) {
      const Words w = philox_block(q.ids[n], q.first_block + (u32)(i / 4), q.key0, q.key1, (u32)*q.step);
      const u32 words[4] = {w.a, w.b, w.c, w.d};
      float numbers[4];
      for (int k = 0; k < 4; ++k) numbers[k] = philox_uniform(words[k]);
      if (q.kind == 2) {
        box_muller(w.a, w.b, numbers, numbers + 1);
        box_muller(w.c, w.d, numbers + 2, numbers + 3);
      }
      const i64 at = n * q.count + i;
      if (q.kind != 0 && q.count % 4 == 0 && aligned<float>(q.out)) {
        store((float*)q.out + at, numbers);
        continue;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (i + k >= q.count) break;
        if (q.kind == 0)
          ((i64*)q.out)[at + k] = words[k];
        else
          ((float*)q.out)[at + k] = numbers[k];
      }
    }
}
