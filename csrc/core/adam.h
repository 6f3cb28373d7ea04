// One element of Adam and AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019), in torch's order of operations and
// rounding.
#pragma once

#include "host_device.h"

namespace srft {

// Transfer significance, T <- beta T + (1 - beta) g^2, in torch's own rounding of Adam's second moment (the last
// multiply-add is fused), so that T can be that state.
template <class Real>
SRFT_CORE Real accumulate_square(Real average, Real gradient, Real beta, Real one_minus_beta) {
  return fused_multiply_add(one_minus_beta * gradient, gradient, beta * average);
}

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

// Moments in place. Decays `weight` (AdamW), and returns what the step's denominator is the root of.
template <bool kDecoupledWeightDecay, bool kMaximum, class Real>
SRFT_CORE Real adam_moments(Real& weight, Real gradient, Real& first, Real& second, Real& largest_second,
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
  if (!kMaximum) return second;
  largest_second = largest_second > second ? largest_second : second;
  return largest_second;
}

// Moments in place; returns what the optimizer alone would make of `weight`.
template <bool kDecoupledWeightDecay, bool kMaximum, class Real>
SRFT_CORE Real adam(Real weight, Real gradient, Real& first, Real& second, Real& largest_second,
                    const AdamConstants<Real>& c) {
  const Real square = adam_moments<kDecoupledWeightDecay, kMaximum>(weight, gradient, first, second, largest_second, c);
  const Real denominator = square_root(square) / c.correction2_root + c.epsilon;
  return weight + c.negative_step_size * first / denominator;
}

// The same as start + numerator / denominator, for a pull that divides anyway: numerator and denominator are both
// torch's times the root of the second bias correction, which saves that division and costs an ulp. Where the average
// has overflowed, torch divides by infinity and the weight stays; here the numerator is zero then.
template <class Real>
struct AdamQuotient {
  Real start, numerator, denominator;
};

template <bool kDecoupledWeightDecay, class Real>
SRFT_CORE AdamQuotient<Real> adam_quotient(Real weight, Real gradient, Real& first, Real& second,
                                           const AdamConstants<Real>& c) {
  Real unused = 0;
  const Real square = adam_moments<kDecoupledWeightDecay, false>(weight, gradient, first, second, unused, c);
  const bool overflowed = square > Limits<Real>::largest;
  const Real step = overflowed ? Real(0) : c.negative_step_size * c.correction2_root;
  const Real denominator = overflowed ? Real(1) : square_root(square) + c.epsilon * c.correction2_root;
  return {weight, step * first, denominator};
}

}  // namespace srft
