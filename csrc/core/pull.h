// The weighted quadratic pull of docs/kernels.md: toward the anchor by w_p, toward where the element just was by w_t.
#pragma once

#include "host_device.h"

namespace srft {

// A weight so large that the blend below is its target to the last bit; beyond it, infinity over infinity would be
// near.
template <class Real>
SRFT_CORE Real bounded_weight(Real weight) {
  return weight < Real(1e18) ? weight : Real(1e18);
}

// The exact minimizer of (x - proposed)^2/2 + w_p (x - anchor)^2/2 + w_t (x - current)^2/2, written as a step from
// `proposed` so that no weight means no change, to the bit.
template <class Real>
SRFT_CORE Real proximal(Real proposed, Real current, Real anchor, Real anchor_weight, Real current_weight) {
  const Real pull = anchor_weight * (anchor - proposed) + current_weight * (current - proposed);
  return proposed + pull / (Real(1) + anchor_weight + current_weight);
}

// The same for a proposal that is start + numerator / denominator, with one division for both: the proposal put into
// the minimizer above and the whole written as a step from `start`. No weight means the proposal, to the bit. The
// weights are bounded here, at 1e9 for float, so that no product overflows; beyond it the blend is its target but for a
// billionth of the way.
template <class Real>
SRFT_CORE Real proximal_quotient(Real start, Real numerator, Real denominator, Real current, Real anchor,
                                 Real anchor_weight, Real current_weight) {
  const Real largest = Limits<Real>::weight;
  anchor_weight = anchor_weight < largest ? anchor_weight : largest;
  current_weight = current_weight < largest ? current_weight : largest;
  const Real pull = anchor_weight * (anchor - start) + current_weight * (current - start);
  return start + (numerator + denominator * pull) / (denominator * (Real(1) + anchor_weight + current_weight));
}

// Its first order, as AdamW decouples weight decay.
template <class Real>
SRFT_CORE Real decoupled(Real proposed, Real current, Real anchor, Real anchor_weight, Real current_weight) {
  return proposed + (anchor_weight * (anchor - proposed) + current_weight * (current - proposed));
}

// The classical penalty's gradient (EWC, L2-SP), for optimizers that do not rescale.
template <class Real>
SRFT_CORE Real coupled(Real gradient, Real current, Real anchor, Real anchor_weight) {
  return gradient + anchor_weight * (current - anchor);
}

}  // namespace srft
