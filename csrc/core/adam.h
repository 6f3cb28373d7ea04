// One element of Adam and AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019), in torch's order of operations and
// rounding.
#pragma once

#include "host_device.h"
#include "significance.h"

namespace srft {

template <class Real>
struct AdamConstants {
  Real beta2;
  Real one_minus_beta1;
  Real one_minus_beta2;
  Real epsilon;
  Real decay;               // AdamW: 1 - lr * weight_decay; Adam: weight_decay
  Real negative_step_size;  // -lr / (1 - beta1^t)
  Real correction2_root;    // sqrt(1 - beta2^t)
};

// Moments in place; returns what the optimizer alone would make of `weight`.
template <bool kDecoupledWeightDecay, bool kMaximum, class Real>
SRFT_CORE Real adam(Real weight, Real gradient, Real& first, Real& second, Real& largest_second,
                    const AdamConstants<Real>& c) {
  if (kDecoupledWeightDecay) {
    weight = weight * c.decay;
  } else {
    gradient = c.decay != Real(0) ? gradient + weight * c.decay : gradient;
  }
  // torch's lerp changes its base point at a coefficient of one half; 1 - beta1 is below it for every beta1 > 0.5.
  first = c.one_minus_beta1 < Real(0.5) ? fused_multiply_add(c.one_minus_beta1, gradient - first, first)
                                        : fused_multiply_add(c.one_minus_beta1 - Real(1), gradient - first, gradient);
  second = accumulate_square(second, gradient, c.beta2, c.one_minus_beta2);
  Real denominator = second;
  if (kMaximum) {
    largest_second = largest_second > second ? largest_second : second;
    denominator = largest_second;
  }
  denominator = square_root(denominator) / c.correction2_root + c.epsilon;
  return weight + c.negative_step_size * first / denominator;
}

}  // namespace srft
