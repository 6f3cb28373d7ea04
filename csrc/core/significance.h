// Transfer significance: the running mean of squared task gradients (DESIGN: T <- beta T + (1 - beta) g^2).
#pragma once

#include "host_device.h"

namespace srft {

// torch's own rounding of Adam's second moment (the last multiply-add fused), so that T can be that state.
template <class Real>
SRFT_CORE Real accumulate_square(Real average, Real gradient, Real beta, Real one_minus_beta) {
  return fused_multiply_add(one_minus_beta * gradient, gradient, beta * average);
}

}  // namespace srft
