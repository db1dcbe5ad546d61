// Resampling under its C name.
#include "cpu_types.h"
#include "cpu_upfirdn2d.h"

extern "C" void noisegan_upfirdn2d(const UpFirDn* p, int dtype) {
  with_type(dtype, [=](auto zero) { upfirdn2d<decltype(zero)>(*p); });
}
