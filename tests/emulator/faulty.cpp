// Kernels with planted mistakes, to show that the emulator finds them. Each reverses or sums 64 numbers with one block.
#include "emulator.h"

struct Numbers {
  float* values;
};

static void reverse(Numbers q, bool with_barrier) {
  __shared__ float copy[64];
  copy[threadIdx.x] = q.values[threadIdx.x];
  if (with_barrier) __syncthreads();
  q.values[threadIdx.x] = copy[63 - threadIdx.x];
}
static void sound(Numbers q) { reverse(q, true); }
static void missing_barrier(Numbers q) { reverse(q, false); }

static void divergent_barrier(Numbers q) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  q.values[0] = 0;
}

static void barrier_after_return(Numbers q) {
  if (threadIdx.x == 63) return;
  __syncthreads();
  q.values[0] = 0;
}

static void half_a_warp_shuffles(Numbers q) {
  if (threadIdx.x % 32 < 16) q.values[threadIdx.x] += __shfl_xor_sync(~0u, q.values[threadIdx.x], 8);
}

static void warps_sum(Numbers q) {
  float sum = q.values[threadIdx.x];
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_down_sync(~0u, sum, lanes);
  q.values[threadIdx.x] = sum;
}

static void reads_behind_the_end(Numbers q) { q.values[threadIdx.x] = q.values[threadIdx.x + 1]; }

const std::vector<emulator::Entry> emulator::entries = {
    EMULATED(sound, Numbers),
    EMULATED(missing_barrier, Numbers),
    EMULATED(divergent_barrier, Numbers),
    EMULATED(barrier_after_return, Numbers),
    EMULATED(half_a_warp_shuffles, Numbers),
    EMULATED(warps_sum, Numbers),
    EMULATED(reads_behind_the_end, Numbers),
};
