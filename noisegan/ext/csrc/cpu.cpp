// The CPU library: the kernels of params.h under C names. No header of torch: it builds in seconds and suits any torch.
#include "cpu_bias_act.h"
#include "cpu_channel_sum.h"
#include "cpu_upfirdn2d.h"

// body(T{}) for the type of number `dtype`, as in noisegan/ext/params.py
template <class Body> static void with_type(int dtype, Body body) {
  switch (dtype) {
    case 0: return body(float{});
    case 1: return body(double{});
    case 2: return body(bf16{});
    case 3: return body(f16{});
  }
}

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

void noisegan_upfirdn2d(const UpFirDn* p, int dtype) {
  with_type(dtype, [=](auto zero) { upfirdn2d<decltype(zero)>(*p); });
}

void noisegan_philox(const Philox* p, int) { philox(*p); }

// The size of the struct of kernel number `kernel`, for the loader to compare with its own; 0 past the last.
long long noisegan_sizeof(int kernel) {
  const size_t sizes[] = {sizeof(BiasAct), sizeof(BiasActGrad), sizeof(ChannelSum), sizeof(UpFirDn), sizeof(Philox)};
  return kernel >= 0 && kernel < 5 ? (long long)sizes[kernel] : 0;
}
}
