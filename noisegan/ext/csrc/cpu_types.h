// From the number of a type, as in noisegan/ext/params.py, to the type.
#pragma once
#include "element.h"

// body(T{}) for the type of number `dtype`, as in noisegan/ext/params.py
template <class Body> static void with_type(int dtype, Body body) {
  switch (dtype) {
    case 0: return body(float{});
    case 1: return body(double{});
    case 2: return body(bf16{});
    case 3: return body(f16{});
  }
}
