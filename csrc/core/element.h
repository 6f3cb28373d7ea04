// One element of a step: the transfer significance, the inner optimizer's proposal (Adam or SGD), and the pull.
//
// Adam and AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019) and SGD with momentum, dampening and Nesterov's
// look-ahead follow torch's order of operations and rounding. The pull is the weighted quadratic of docs/kernels.md.
#pragma once

#include "host_device.h"

namespace srft {

// ---------------------------------------------------------------- Adam

// The transfer significance, T <- beta T + (1 - beta) g^2. It is rounded as torch rounds Adam's second moment (the last
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

// Updates the moments in place and decays `weight` (AdamW). Returns the number whose root is the step's denominator.
template <bool kDecoupledWeightDecay, bool kMaximum, class Real>
SRFT_CORE Real adam_moments(Real& weight, Real gradient, Real& first, Real& second, Real& largest_second,
                            const AdamConstants<Real>& c) {
  if (kDecoupledWeightDecay) {
    weight = weight * c.decay;
  } else {
    gradient = c.decay != Real(0) ? gradient + weight * c.decay : gradient;
  }
  // torch's lerp changes its base point at a coefficient of one half. 1 - beta1 is below that for every beta1 > 0.5.
  first = c.one_minus_beta1 < Real(0.5) ? fused_multiply_add(c.one_minus_beta1, gradient - first, first)
                                        : fused_multiply_add(c.one_minus_beta1 - Real(1), gradient - first, gradient);
  second = accumulate_square(second, gradient, c.beta2, c.one_minus_beta2);
  if (!kMaximum) return second;
  largest_second = largest_second > second ? largest_second : second;
  return largest_second;
}

// Updates the moments in place. Returns what the optimizer alone would make of `weight`.
template <bool kDecoupledWeightDecay, bool kMaximum, class Real>
SRFT_CORE Real adam(Real weight, Real gradient, Real& first, Real& second, Real& largest_second,
                    const AdamConstants<Real>& c) {
  const Real square = adam_moments<kDecoupledWeightDecay, kMaximum>(weight, gradient, first, second, largest_second, c);
  const Real denominator = square_root(square) / c.correction2_root + c.epsilon;
  return weight + c.negative_step_size * first / denominator;
}

// The same proposal as start + numerator / denominator, for a pull that divides anyway. Both numbers are torch's times
// the root of the second bias correction, which saves that division and costs one ulp. If the average has overflowed,
// torch divides by infinity and the weight stays; here the numerator is zero then.
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

// ---------------------------------------------------------------- SGD

template <class Real>
struct SgdConstants {
  Real negative_lr;
  Real weight_decay;
  Real momentum;
  Real one_minus_dampening;  // 1 in a tensor's first step, which torch does not dampen
};

template <bool kMomentum, bool kLookAhead, class Real>
SRFT_CORE Real sgd(Real weight, Real gradient, Real& buffer, const SgdConstants<Real>& c) {
  // An infinite weight times a decay of zero would be NaN, so the product is taken only if there is a decay. Then the
  // weight stays infinite, as in torch.
  gradient = c.weight_decay != Real(0) ? fused_multiply_add(weight, c.weight_decay, gradient) : gradient;
  if (kMomentum) {
    buffer = fused_multiply_add(c.momentum, buffer, c.one_minus_dampening * gradient);
    gradient = kLookAhead ? fused_multiply_add(c.momentum, buffer, gradient) : buffer;
  }
  return fused_multiply_add(c.negative_lr, gradient, weight);
}

// ---------------------------------------------------------------- the pull

// The pull goes toward the anchor with weight w_p, and toward the element's present value with weight w_t.

// A weight so large that the blend below is its target to the last bit. Larger weights would soon give infinity over
// infinity.
template <class Real>
SRFT_CORE Real bounded_weight(Real weight) {
  return weight < Real(1e18) ? weight : Real(1e18);
}

// Returns the exact minimizer of (x - proposed)^2/2 + w_p (x - anchor)^2/2 + w_t (x - current)^2/2. It is written as a
// step from `proposed`, so that weights of zero change no bit.
template <class Real>
SRFT_CORE Real proximal(Real proposed, Real current, Real anchor, Real anchor_weight, Real current_weight) {
  const Real pull = anchor_weight * (anchor - proposed) + current_weight * (current - proposed);
  return proposed + pull / (Real(1) + anchor_weight + current_weight);
}

// The same for a proposal that is start + numerator / denominator, with one division for both. The proposal is inserted
// into the minimizer above, and the whole is written as a step from `start`. Weights of zero give the proposal, to the
// bit. The weights are bounded here, at 1e9 for float, so that no product overflows. Beyond that bound the blend would
// differ from its target by a billionth of the way.
template <class Real>
SRFT_CORE Real proximal_quotient(Real start, Real numerator, Real denominator, Real current, Real anchor,
                                 Real anchor_weight, Real current_weight) {
  const Real largest = Limits<Real>::weight;
  anchor_weight = anchor_weight < largest ? anchor_weight : largest;
  current_weight = current_weight < largest ? current_weight : largest;
  const Real pull = anchor_weight * (anchor - start) + current_weight * (current - start);
  return start + (numerator + denominator * pull) / (denominator * (Real(1) + anchor_weight + current_weight));
}

// Returns the first order of that minimizer, in the way in which AdamW decouples weight decay.
template <class Real>
SRFT_CORE Real decoupled(Real proposed, Real current, Real anchor, Real anchor_weight, Real current_weight) {
  return proposed + (anchor_weight * (anchor - proposed) + current_weight * (current - proposed));
}

// Returns the gradient of the classical penalty (EWC, L2-SP), for optimizers that do not rescale.
template <class Real>
SRFT_CORE Real coupled(Real gradient, Real current, Real anchor, Real anchor_weight) {
  return gradient + anchor_weight * (current - anchor);
}

}  // namespace srft
