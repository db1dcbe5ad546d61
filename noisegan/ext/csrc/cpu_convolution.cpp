// Convolutions under their C names, of maps of float and bfloat16; of others they do nothing.
#include "cpu_winograd.h"

extern "C" {

void noisegan_winograd(const Winograd* p, int dtype) {
  if (dtype == 0) winograd<float>(*p);
  if (dtype == 2) winograd<bf16>(*p);
}

void noisegan_winograd_weight(const WinogradWeight* p, int dtype) {
  if (dtype == 0) winograd_weight<float>(*p);
  if (dtype == 2) winograd_weight<bf16>(*p);
}
}
