// noisegan's kernels in the emulator: the text that nvcc and NVRTC compile.
#include "emulator.h"

#include "kernels.cu"

#ifdef FLOAT32_ONLY  // a third of the time to compile; the others take the same paths
#define EMULATED_TYPES(KERNEL, PARAMS) EMULATED(noisegan_##KERNEL##_float32, PARAMS)
#else
#define EMULATED_TYPES(KERNEL, PARAMS)                                                            \
  EMULATED(noisegan_##KERNEL##_float32, PARAMS), EMULATED(noisegan_##KERNEL##_float64, PARAMS),   \
      EMULATED(noisegan_##KERNEL##_bfloat16, PARAMS), EMULATED(noisegan_##KERNEL##_float16, PARAMS)
#endif

const std::vector<emulator::Entry> emulator::entries = {
    EMULATED_TYPES(bias_act, BiasAct),       EMULATED_TYPES(bias_act_grad, BiasActGrad),
    EMULATED_TYPES(channel_sum, ChannelSum), EMULATED_TYPES(upfirdn2d, UpFirDn),
    EMULATED(noisegan_philox, Philox),
};
