// The CPU library: the kernels of params.h under C names. No header of torch: it builds in seconds and suits any torch.
// Resampling and convolutions, slower to compile, are in files of their own.
#include "cpu_bias_act.h"
#include "cpu_channel_sum.h"
#include "cpu_types.h"

extern "C" {

void noisegan_bias_act(const BiasAct* p, int dtype) {
  with_type(dtype, [=](auto zero) { bias_act<decltype(zero)>(*p); });
}

void noisegan_bias_act_grad(const BiasActGrad* p, int dtype) {
  with_type(dtype, [=](auto zero) { bias_act_grad<decltype(zero)>(*p); });
}

void noisegan_channel_sum(const ChannelSum* p, int dtype) {
  with_type(dtype, [=](auto zero) { channel_sum<decltype(zero)>(*p); });
}

void noisegan_philox(const Philox* p, int) { philox(*p); }

// The size of the struct of kernel number `kernel`, for the loader to compare with its own; 0 past the last.
long long noisegan_sizeof(int kernel) {
  const size_t sizes[] = {sizeof(BiasAct), sizeof(BiasActGrad), sizeof(ChannelSum),    sizeof(UpFirDn),
                          sizeof(Philox),  sizeof(Winograd),    sizeof(WinogradWeight)};
  return kernel >= 0 && kernel < 7 ? (long long)sizes[kernel] : 0;
}
}
