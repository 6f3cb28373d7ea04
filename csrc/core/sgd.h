// One element of SGD with momentum, dampening and Nesterov's look-ahead, as torch defines them.
#pragma once

#include "host_device.h"

namespace srft {

template <class Real>
struct SgdConstants {
  Real negative_lr;
  Real weight_decay;
  Real momentum;
  Real one_minus_dampening;  // 1 in a tensor's first step, which torch does not dampen
};

template <bool kMomentum, bool kLookAhead, class Real>
SRFT_CORE Real sgd(Real weight, Real gradient, Real& buffer, const SgdConstants<Real>& c) {
  // Not a product with zero: an infinite weight stays infinite, as in torch.
  gradient = c.weight_decay != Real(0) ? fused_multiply_add(weight, c.weight_decay, gradient) : gradient;
  if (kMomentum) {
    buffer = fused_multiply_add(c.momentum, buffer, c.one_minus_dampening * gradient);
    gradient = kLookAhead ? fused_multiply_add(c.momentum, buffer, gradient) : buffer;
  }
  return fused_multiply_add(c.negative_lr, gradient, weight);
}

}  // namespace srft
