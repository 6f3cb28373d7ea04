// The numbers that the elements of a tensor share in a step. Every device computes them in float64, once for each
// tensor.
#pragma once

#include "element.h"
#include "flags.h"

namespace srft {

struct TensorConstants {
  double negative_step_size;   // Adam: -lr / (1 - beta1^t)
  double correction2_root;     // Adam: sqrt(1 - beta2^t)
  double one_minus_dampening;  // SGD: 1 in a tensor's first step, which torch does not dampen
  double transfer_correction;  // 1 / (1 - beta^t), which corrects the bias of T
  double prior_weight;         // P^ times this is the anchor's weight (coupled: the gradient's)
  double transfer_to_anchor;   // T times this is the same, for transfer_anchor="initial"
  double mean_damping;         // T times this is the weight toward the current value, for damping="mean"
  double prior_penalty;        // factor of sum P^ (theta - a)^2
  double anchor_penalty;       // factor of sum T (theta - a)^2
};

// 1 - beta^t for each average's beta, t counting the step that is being taken.
struct BiasCorrections {
  double beta1, beta2, transfer;
};

// Returns the inverse of T's mean from its sum and count as the last step left them, or 0 if nothing was counted.
SRFT_CORE double inverse_mean(double sum, double count) {
  const double mean = sum / count;
  return mean > 0 ? 1 / mean : 0.0;
}

// Returns the weight of the transfer significance, which is 0 if kappa is 1 or above.
SRFT_CORE double released(double kappa) { return kappa < 1 ? 1 - kappa : 0.0; }

// Returns the constants of one tensor. `s` are the settings and `scales` is the tensor's row. `sum` and `count` are
// those of T, over the tensor or over all tensors if the flags say so. `own` says that T is a state of its own.
SRFT_CORE TensorConstants tensor_constants(Flags flags, const double* s, const double* scales, double time,
                                           const BiasCorrections& corrections, bool own, double sum, double count) {
  const bool coupled = flags.coupled();
  const double lr = s[kLearningRate], release = released(s[kKappa]);
  TensorConstants c;
  c.negative_step_size = -lr / corrections.beta1;
#if defined(__CUDA_ARCH__)
  c.correction2_root = sqrt(corrections.beta2);
#else
  c.correction2_root = __builtin_sqrt(corrections.beta2);
#endif
  c.one_minus_dampening = time <= 1 ? 1.0 : 1 - s[kBeta2];
  c.transfer_correction = 1 / (own ? corrections.transfer : corrections.beta2);

  // By docs/kernels.md, w_p = lr lambda kappa P^ / rho. In coupled mode it is lambda kappa P^.
  const double inverse_rms = scales[kInverseRms];
  const double unit = coupled ? s[kStrength] : lr * s[kStrength] * inverse_rms;
  c.prior_weight = unit * s[kKappa];
  // The prior's penalty is reported at lr = 0 too, though it pulls nothing then.
  c.prior_penalty = 0.5 * (s[kStrength] * s[kKappa] * (coupled ? 1.0 : inverse_rms));
  c.mean_damping = c.transfer_to_anchor = c.anchor_penalty = 0;
  if (flags.weighs_transfer() && !flags.ranks()) {
    const bool absolute = flags.normalize() == kAbsolute && flags.transfer_to_anchor();
    const double per_mean = absolute ? 1.0 : inverse_mean(sum, count);
    c.mean_damping = release * s[kTau] * per_mean;
    if (flags.transfer_to_anchor()) {
      c.transfer_to_anchor = unit * release * per_mean;
      c.anchor_penalty = 0.5 * (coupled ? 1.0 : (lr > 0 ? 1 / lr : 0.0)) * c.transfer_to_anchor;
    }
  }
  return c;
}

// Returns the penalty of the damping from sum w_t (new theta - theta)^2.
SRFT_CORE double damping_penalty(double sum, double lr) { return lr > 0 ? 0.5 * sum / lr : 0.0; }

// Returns a constant in the compute type, bounded by its range, so that zero times a constant is zero.
template <class Real>
SRFT_CORE Real bounded_constant(double x) {
  const double largest = double(Limits<Real>::largest);
  return Real(x > largest ? largest : (x < -largest ? -largest : x));
}

template <class Real>
SRFT_CORE AdamConstants<Real> adam_constants(Flags flags, const double* s, const TensorConstants& t) {
  AdamConstants<Real> c;
  c.beta2 = Real(s[kBeta2]);
  c.one_minus_beta1 = Real(1 - s[kBeta1]);
  c.one_minus_beta2 = Real(1 - s[kBeta2]);
  c.epsilon = Real(s[kEpsilon]);
  c.decay = flags.has(kDecoupledDecay) ? Real(1 - s[kLearningRate] * s[kWeightDecay]) : Real(s[kWeightDecay]);
  c.negative_step_size = Real(t.negative_step_size);
  c.correction2_root = Real(t.correction2_root);
  return c;
}

template <class Real>
SRFT_CORE SgdConstants<Real> sgd_constants(const double* s, const TensorConstants& t) {
  SgdConstants<Real> c;
  c.negative_lr = Real(-s[kLearningRate]);
  c.weight_decay = Real(s[kWeightDecay]);
  c.momentum = Real(s[kBeta1]);
  c.one_minus_dampening = Real(t.one_minus_dampening);
  return c;
}

// Returns T for uses in which its size matters and not its rank. Its bias is corrected, and it is at most a number that
// leaves room for sums, so that an average which overflowed makes neither a mean nor a weight infinite.
template <class Real>
SRFT_CORE Real sized_transfer(Real average, Real correction) {
  const Real transfer = average * correction;
  return transfer > Limits<Real>::transfer ? Limits<Real>::transfer : transfer;
}

}  // namespace srft
