// One element of the significance penalty R = strength/2 sum P (theta - a)^2 as an operator (EWC, arXiv 1612.00796,
// equation 3), in the order of operations of srft_kernels/ops/penalty.py.
#pragma once

#include "host_device.h"

namespace srft {

template <class Real>
SRFT_CORE Real quadratic_value(Real weight, Real anchor, Real significance) {
  const Real distance = weight - anchor;
  return significance * distance * distance;
}

// Returns one element of the penalty's gradient. `factor` is the incoming gradient times the strength.
template <class Real>
SRFT_CORE Real quadratic_gradient(Real weight, Real anchor, Real significance, Real factor) {
  return factor * significance * (weight - anchor);
}

}  // namespace srft
