// The step over one chunk of one tensor. Compiled once per instruction set, into a namespace of that name (SRFT_ISA).
//
// A chunk goes by in blocks that stay in the first-level cache: each stage below is a short loop over the block that a
// compiler vectorises, and reads memory only where a stage before it has not. So a step reads and writes every tensor
// once. Products and sums are never contracted except where core/ says so: every instruction set gives the same bits.
#include "../core/adam.h"
#include "../core/penalty.h"
#include "../core/rank.h"
#include "../core/sgd.h"
#include "block.h"
#include "chunk.h"

namespace srft::cpu::SRFT_ISA {
namespace {

template <class Real>
struct Block {
  alignas(64) Real weight[kBlock];
  alignas(64) Real gradient[kBlock];
  alignas(64) Real effective[kBlock];  // the gradient that the inner optimizer sees
  alignas(64) Real anchor[kBlock];
  alignas(64) Real proposed[kBlock];
  alignas(64) Real result[kBlock];
  alignas(64) Real transfer[kBlock];
  alignas(64) Real damping[kBlock];
  alignas(64) int32_t bin[kBlock];
};

template <class Real>
Real* at(void* pointer, int64_t offset) {
  return pointer ? static_cast<Real*>(pointer) + offset : nullptr;
}

template <class Real>
SRFT_CORE int64_t count_finite(const Real* x, int n) {
  int32_t finite = 0;
  for (int i = 0; i < n; ++i) finite += is_finite(x[i]) ? 1 : 0;
  return finite;
}

// Sum of T over the elements with a finite gradient; over all where `gradient` is null.
template <class Real>
double finite_sum(int n, const Real* transfer, const Real* gradient) {
  if (!gradient) return block_sum<Real>(n, [&](int i) { return transfer[i]; });
  return block_sum<Real>(n, [&](int i) { return is_finite(gradient[i]) ? transfer[i] : Real(0); });
}

template <bool kDecoupledWeightDecay, bool kMaximum, bool kHold, class Real>
void adam_block(int n, const Real* weight, const Real* gradient, Real* first, Real* second, Real* maximum,
                const AdamConstants<Real>& constants, Real* proposed) {
  SRFT_VECTORISE
  for (int i = 0; i < n; ++i) {
    const Real g = gradient[i];
    Real m = first[i], v = second[i], top = kMaximum ? maximum[i] : Real(0);
    const Real x = adam<kDecoupledWeightDecay, kMaximum>(weight[i], g, m, v, top, constants);
    const bool ok = !kHold || is_finite(g);
    first[i] = ok ? m : first[i];
    second[i] = ok ? v : second[i];
    if (kMaximum) maximum[i] = ok ? top : maximum[i];
    proposed[i] = ok ? x : weight[i];
  }
}

template <bool kMomentum, bool kLookAhead, bool kHold, class Real>
void sgd_block(int n, const Real* weight, const Real* gradient, Real* buffer, const SgdConstants<Real>& constants,
               Real* proposed) {
  SRFT_VECTORISE
  for (int i = 0; i < n; ++i) {
    const Real g = gradient[i];
    Real b = kMomentum ? buffer[i] : Real(0);
    const Real x = sgd<kMomentum, kLookAhead>(weight[i], g, b, constants);
    const bool ok = !kHold || is_finite(g);
    if (kMomentum) buffer[i] = ok ? b : buffer[i];
    proposed[i] = ok ? x : weight[i];
  }
}

template <class Real>
AdamConstants<Real> adam_constants(const Options& o, const Tensor& t) {
  const double* s = o.settings;
  AdamConstants<Real> c;
  c.beta2 = Real(s[kBeta2]);
  c.one_minus_beta1 = Real(1 - s[kBeta1]);
  c.one_minus_beta2 = Real(1 - s[kBeta2]);
  c.epsilon = Real(s[kEpsilon]);
  c.decay = o.has(kDecoupledDecay) ? Real(1 - s[kLearningRate] * s[kWeightDecay]) : Real(s[kWeightDecay]);
  c.negative_step_size = Real(t.negative_step_size);
  c.correction2_root = Real(t.correction2_root);
  return c;
}

// The inner optimizer over a block: moments in place, its proposal into `proposed`.
template <bool kHold, class Real>
void inner_step(const Options& o, const Tensor& t, int64_t offset, int n, const Real* weight, const Real* gradient,
                Real* proposed) {
  if (o.inner() == kAdam) {
    Real* first = at<Real>(t.first_moment, offset);
    Real* second = at<Real>(t.second_moment, offset);
    Real* maximum = at<Real>(t.max_second_moment, offset);
    const AdamConstants<Real> c = adam_constants<Real>(o, t);
    if (o.has(kDecoupledDecay)) {
      if (o.has(kAmsgrad)) adam_block<true, true, kHold>(n, weight, gradient, first, second, maximum, c, proposed);
      else adam_block<true, false, kHold>(n, weight, gradient, first, second, maximum, c, proposed);
    } else {
      if (o.has(kAmsgrad)) adam_block<false, true, kHold>(n, weight, gradient, first, second, maximum, c, proposed);
      else adam_block<false, false, kHold>(n, weight, gradient, first, second, maximum, c, proposed);
    }
    return;
  }
  SgdConstants<Real> c;
  c.negative_lr = Real(-o.settings[kLearningRate]);
  c.weight_decay = Real(o.settings[kWeightDecay]);
  c.momentum = Real(o.settings[kBeta1]);
  c.one_minus_dampening = Real(t.one_minus_dampening);
  Real* buffer = at<Real>(t.first_moment, offset);
  if (!buffer) sgd_block<false, false, kHold>(n, weight, gradient, buffer, c, proposed);
  else if (o.has(kNesterov)) sgd_block<true, true, kHold>(n, weight, gradient, buffer, c, proposed);
  else sgd_block<true, false, kHold>(n, weight, gradient, buffer, c, proposed);
}

// T of a block with its bias corrected, as a float64 step sees it in double and every other in float.
template <class Real>
SRFT_CORE void corrected_transfer(int n, const Real* raw, Real correction, Real* out) {
  SRFT_VECTORISE
  for (int i = 0; i < n; ++i) out[i] = raw[i] * correction;
}

// Adds the sampled elements of a block to the histogram, those with a gradient that is not finite left out. `element`
// is the block's place in its tensor; `gradient` is null where the caller knows all to be finite.
template <class Real>
void sample(const Tensor& t, int64_t element, int n, const Real* transfer, const Real* gradient, const int32_t* bin,
            SampledKeys& keys) {
  for (int start = 0; start < n; start += kSampleBlock) {
    if (t.size > kSampleAll) {
      const int64_t first = element + start;
      if ((first / kSampleBlock) % (kSampleGroup / kSampleBlock) != sampled_block(first / kSampleGroup)) continue;
    }
    const int stop = start + kSampleBlock < n ? start + kSampleBlock : n;
    for (int i = start; i < stop; ++i) {
      if (gradient && !is_finite(gradient[i])) continue;
      ++keys.histogram[bin[i]];
      if (bin[i] != 0) {
        const float key = rank_key(float(transfer[i]));
        keys.smallest = key < keys.smallest ? key : keys.smallest;
        keys.largest = key > keys.largest ? key : keys.largest;
      }
    }
  }
}

template <class Real>
const Real* damping_of(const Tensor& t);
template <>
const float* damping_of<float>(const Tensor& t) {
  return t.table;
}
template <>
const double* damping_of<double>(const Tensor& t) {
  return t.table64;
}

template <class Real>
void bins_of(const Tensor& t, int n, const Real* transfer, int32_t* bin) {
  const float low = t.low, density = t.density;
  SRFT_VECTORISE
  for (int i = 0; i < n; ++i) bin[i] = rank_bin(float(transfer[i]), low, density);
}

// The same from the average that T is, with bins found for the sampled elements only.
template <class Real>
void sample_block(const Tensor& t, int64_t element, int n, const Real* average, Real correction, const Real* gradient,
                  SampledKeys& keys) {
  Real transfer[kSampleBlock];
  int32_t bin[kSampleBlock];
  for (int start = 0; start < n; start += kSampleBlock) {
    const int64_t first = element + start;
    const bool counted = (first / kSampleBlock) % (kSampleGroup / kSampleBlock) == sampled_block(first / kSampleGroup);
    if (t.size > kSampleAll && !counted) continue;
    const int size = start + kSampleBlock < n ? kSampleBlock : n - start;
    corrected_transfer(size, average + start, correction, transfer);
    bins_of(t, size, transfer, bin);
    sample(t, first, size, transfer, gradient ? gradient + start : nullptr, bin, keys);
  }
}

// The running mean of squared gradients of a block, where it is a state of its own.
template <class Real>
void update_transfer(const Options& o, const Tensor& t, int64_t offset, int n, const Real* gradient, bool hold) {
  Real* average = static_cast<Real*>(t.transfer) + offset;
  const Real beta = Real(o.settings[kTransferBeta]);
  const Real one_minus_beta = Real(1 - o.settings[kTransferBeta]);
  SRFT_VECTORISE
  for (int i = 0; i < n; ++i) {
    const Real next = accumulate_square(average[i], gradient[i], beta, one_minus_beta);
    average[i] = !hold || is_finite(gradient[i]) ? next : average[i];
  }
}

// Sum of significance (theta - a)^2 over a block.
template <class Real>
double weighted_square(int n, const Real* significance, Real factor, const Real* weight, const Real* anchor) {
  return block_sum<Real>(n, [&](int i) {
    const Real d = weight[i] - anchor[i];
    return significance[i] * factor * d * d;
  });
}

// The task gradient of a block: converted, unscaled.
template <class Real>
const Real* task_gradient(const Options& o, const Tensor& t, int64_t offset, int n, Real* buffer) {
  const Real* gradient = load<Real>(t.grad, t.dtype, offset, n, buffer);
  if (!o.scale_gradient) return gradient;
  const Real factor = Real(o.settings[kGradientFactor]);
  SRFT_VECTORISE
  for (int i = 0; i < n; ++i) buffer[i] = gradient[i] * factor;
  return buffer;
}

// What the pull needs to know of a tensor in this step.
struct Pull {
  bool active;     // toward the anchor at all
  bool to_anchor;  // by T as well
  Pull(const Options& o, const Tensor& t)
      : active(o.pull_active && t.anchor && (t.prior || o.has(kTransferToAnchor))),
        to_anchor(active && o.has(kTransferToAnchor) && t.transfer_to_anchor != 0) {}
};

// The values of the penalty at the weights before the step (T of its own: this step's), and in coupled mode its
// gradient.
template <class Real>
const Real* penalise(const Options& o, const Tensor& t, const Pull& pull, int64_t offset, int n, const Real* weight,
                     const Real* anchor, const Real* gradient, Real* effective, ChunkSums& sums) {
  const Real* prior = t.prior ? static_cast<const Real*>(t.prior) + offset : nullptr;
  const Real* average = pull.to_anchor && t.transfer ? static_cast<const Real*>(t.transfer) + offset : nullptr;
  const Real correction = Real(t.transfer_correction);
  if (prior) sums.prior += weighted_square(n, prior, Real(1), weight, anchor);
  if (average) sums.to_anchor += weighted_square(n, average, correction, weight, anchor);
  if (o.mode() != kCoupled) return gradient;
  const Real prior_weight = Real(t.prior_weight);
  const Real to_anchor_weight = Real(t.transfer_to_anchor);
  SRFT_VECTORISE
  for (int i = 0; i < n; ++i) {
    Real w = prior ? prior_weight * prior[i] : Real(0);
    if (average) w += to_anchor_weight * (average[i] * correction);
    effective[i] = coupled(gradient[i], weight[i], anchor[i], bounded_weight(w));
  }
  return effective;
}

// The weights of a block's pulls.
template <class Real>
struct Blend {
  const Real* prior;     // P, or null
  const Real* transfer;  // T where it pulls to the anchor, or null
  const Real* damping;   // w_t
  Real prior_weight, transfer_weight;
};

// The pull over a block; elements whose gradient is not finite stay where they were. `gradient` is null where none is
// to be looked at.
template <bool kPull, bool kDamp, bool kExact, class Real>
void blend_block(int n, const Real* proposed, const Real* weight, const Real* anchor, const Real* gradient,
                 const Blend<Real>& w, Real* result) {
  const auto element = [&](int i, Real anchor_weight) {
    const Real current_weight = kDamp ? w.damping[i] : Real(0);
    const Real a = kPull ? anchor[i] : Real(0);
    anchor_weight = kPull ? bounded_weight(anchor_weight) : Real(0);
    const Real x = kExact ? proximal(proposed[i], weight[i], a, anchor_weight, current_weight)
                          : decoupled(proposed[i], weight[i], a, anchor_weight, current_weight);
    result[i] = !gradient || is_finite(gradient[i]) ? x : weight[i];
  };
  if (kPull && w.prior && w.transfer) {
    SRFT_VECTORISE
    for (int i = 0; i < n; ++i) element(i, w.prior_weight * w.prior[i] + w.transfer_weight * w.transfer[i]);
  } else if (kPull && w.transfer) {
    SRFT_VECTORISE
    for (int i = 0; i < n; ++i) element(i, w.transfer_weight * w.transfer[i]);
  } else if (kPull) {
    SRFT_VECTORISE
    for (int i = 0; i < n; ++i) element(i, w.prior_weight * w.prior[i]);
  } else {
    SRFT_VECTORISE
    for (int i = 0; i < n; ++i) element(i, Real(0));
  }
}

// How the damping of an element follows from its T.
enum class Hold { kNone, kByRank, kByMean };

// What one_pass reads of a tensor in this step.
template <class Real>
struct OnePass {
  AdamConstants<Real> adam;
  Real prior_weight, correction, mean_damping;
  const Real* table;
  float low, density;
};

// Adam's step, the pull and the damping by its second moment in one loop: the configurations that most people run.
// `prior_term` and `transfer_term` are what the element adds to the sums of the penalty. Returns how many gradients
// were finite.
template <bool kDecoupledWeightDecay, bool kPull, Hold kDamping, bool kExact, class Real>
int one_pass(int n, const Real* weight, const Real* gradient, const Real* anchor, const Real* prior,
             const OnePass<Real>& pass, bool hold, Real* first, Real* second, Real* out, Real* prior_term,
             Real* transfer_term) {
  const OnePass<Real> c = pass;
  int32_t finite = 0;
  SRFT_VECTORISE
  for (int i = 0; i < n; ++i) {
    const Real g = gradient[i], current = weight[i];
    const bool usable = is_finite(g);
    const bool moves = usable || !hold;
    finite += usable ? 1 : 0;
    Real m = first[i], v = second[i], unused = Real(0);
    Real x = adam<kDecoupledWeightDecay, false>(current, g, m, v, unused, c.adam);
    first[i] = m = moves ? m : first[i];
    second[i] = v = moves ? v : second[i];
    const Real a = kPull ? anchor[i] : Real(0);
    Real anchor_weight = 0, current_weight = 0;
    if (kPull) {
      const Real distance = current - a;
      prior_term[i] = prior[i] * distance * distance;
      anchor_weight = bounded_weight(c.prior_weight * prior[i]);
    }
    const Real transfer = v * c.correction;
    if (kDamping == Hold::kByRank) current_weight = c.table[rank_bin(float(transfer), c.low, c.density)];
    if (kDamping == Hold::kByMean) current_weight = bounded_weight(c.mean_damping * transfer);
    if (kPull || kDamping != Hold::kNone) {
      x = kExact ? proximal(x, current, a, anchor_weight, current_weight)
                 : decoupled(x, current, a, anchor_weight, current_weight);
    }
    x = moves ? x : current;
    out[i] = x;
    if (kDamping != Hold::kNone) {
      const Real moved = x - current;
      transfer_term[i] = current_weight * moved * moved;
    }
  }
  return finite;
}

template <bool kDecoupledWeightDecay, bool kPull, class Real, class... Arguments>
int one_pass_of(Hold damping, bool exact, Arguments... arguments) {
  switch (damping) {
    case Hold::kNone:
      return exact ? one_pass<kDecoupledWeightDecay, kPull, Hold::kNone, true, Real>(arguments...)
                   : one_pass<kDecoupledWeightDecay, kPull, Hold::kNone, false, Real>(arguments...);
    case Hold::kByRank:
      return exact ? one_pass<kDecoupledWeightDecay, kPull, Hold::kByRank, true, Real>(arguments...)
                   : one_pass<kDecoupledWeightDecay, kPull, Hold::kByRank, false, Real>(arguments...);
    case Hold::kByMean:
      return exact ? one_pass<kDecoupledWeightDecay, kPull, Hold::kByMean, true, Real>(arguments...)
                   : one_pass<kDecoupledWeightDecay, kPull, Hold::kByMean, false, Real>(arguments...);
  }
  return 0;
}

// A fused step (an inner optimizer named), or the half of an unfused one that comes after the inner step (no gradient).
template <class Real>
void process(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys& keys) {
  Block<Real> b;
  const bool fused = o.inner() != kNone;
  const bool hold = !o.has(kPropagateNonfinite);
  const Pull pulling(o, t);
  const bool is_coupled = o.mode() == kCoupled;
  const bool pull = pulling.active && (fused || !is_coupled);
  const bool to_anchor = pulling.to_anchor;
  const bool in_place = t.dtype == Native<Real>::dtype;
  const bool damped = o.damping_active && !is_coupled && !o.has(kTransferToAnchor);
  const bool simple =
      o.inner() == kAdam && !o.has(kAmsgrad) && !is_coupled && !to_anchor && !t.transfer && (!pull || t.prior);
  const Hold holding = !damped ? Hold::kNone : (o.damping() == kRank ? Hold::kByRank : Hold::kByMean);
  const OnePass<Real> constants = {adam_constants<Real>(o, t),
                                   Real(t.prior_weight),
                                   Real(t.transfer_correction),
                                   Real(t.mean_damping),
                                   damping_of<Real>(t),
                                   t.low,
                                   t.density};

  for (int64_t offset = begin; offset < end; offset += kBlock) {
    const int n = int(end - offset < kBlock ? end - offset : kBlock);

    const Real* weight = load<Real>(t.previous ? t.previous : t.param, t.dtype, offset, n, b.weight);
    const Real* gradient = fused ? task_gradient<Real>(o, t, offset, n, b.gradient) : nullptr;
    const Real* anchor = pull ? load<Real>(t.anchor, t.anchor_dtype, offset, n, b.anchor) : nullptr;
    const Real* prior = pull && t.prior ? static_cast<const Real*>(t.prior) + offset : nullptr;
    Real* out = in_place ? static_cast<Real*>(t.param) + offset : b.result;

    if (simple) {
      Real* first = at<Real>(t.first_moment, offset);
      Real* second = at<Real>(t.second_moment, offset);
      const auto run = [&](auto... arguments) {
        return o.has(kDecoupledDecay)
                   ? (pull ? one_pass_of<true, true, Real>(arguments...) : one_pass_of<true, false, Real>(arguments...))
                   : (pull ? one_pass_of<false, true, Real>(arguments...)
                           : one_pass_of<false, false, Real>(arguments...));
      };
      const int usable = run(holding, o.mode() == kProximal, n, weight, gradient, anchor, prior, constants, hold, first,
                             second, out, b.proposed, b.damping);
      sums.finite += usable;
      sums.nonfinite += n - usable;
      if (pull) sums.prior += block_sum<Real>(n, [&](int i) { return b.proposed[i]; });
      if (damped) sums.transfer += block_sum<Real>(n, [&](int i) { return b.damping[i]; });
      if (holding == Hold::kByRank)
        sample_block(t, offset, n, second, constants.correction, hold ? gradient : nullptr, keys);
      if (holding == Hold::kByMean) {
        corrected_transfer(n, second, constants.correction, b.transfer);
        sums.sum += finite_sum(n, b.transfer, hold ? gradient : nullptr);
      }
      if (!in_place) store(b.result, t.param, t.dtype, offset, n);
      continue;
    }

    const int64_t finite = gradient ? count_finite(gradient, n) : n;
    sums.finite += finite;
    sums.nonfinite += n - finite;

    const Real* effective = gradient;
    if (fused && t.transfer) update_transfer(o, t, offset, n, gradient, hold);
    if (fused && pull) effective = penalise(o, t, pulling, offset, n, weight, anchor, gradient, b.effective, sums);

    // The inner optimizer.
    const Real* proposed = b.proposed;
    if (fused) {
      if (hold) inner_step<true>(o, t, offset, n, weight, effective, b.proposed);
      else inner_step<false>(o, t, offset, n, weight, effective, b.proposed);
    } else {
      proposed = load<Real>(t.param, t.dtype, offset, n, b.proposed);
    }

    // T, its statistics for the next step, and the damping that the last step's statistics give it.
    const Real* average = t.transfer
                              ? static_cast<const Real*>(t.transfer) + offset
                              : (t.second_moment && o.inner() == kAdam ? at<Real>(t.second_moment, offset) : nullptr);
    const bool transfer_used = average && (damped || to_anchor || o.statistics_active);
    if (transfer_used) corrected_transfer(n, average, Real(t.transfer_correction), b.transfer);
    if (transfer_used && o.statistics_active) {
      if (o.damping() == kRank && !o.has(kTransferToAnchor)) {
        bins_of(t, n, b.transfer, b.bin);
        sample(t, offset, n, b.transfer, hold ? gradient : nullptr, b.bin, keys);
      } else {
        sums.sum += finite_sum(n, b.transfer, hold ? gradient : nullptr);
      }
    }
    if (fused && to_anchor && !t.transfer) sums.to_anchor += weighted_square(n, b.transfer, Real(1), weight, anchor);
    if (damped && transfer_used) {
      if (o.damping() == kRank) {
        const Real* table = damping_of<Real>(t);
        for (int i = 0; i < n; ++i) b.damping[i] = table[b.bin[i]];
      } else {
        const Real factor = Real(t.mean_damping);
        SRFT_VECTORISE
        for (int i = 0; i < n; ++i) b.damping[i] = bounded_weight(factor * b.transfer[i]);
      }
    }
    const bool damp = damped && transfer_used;

    // The pull, and the store.
    if ((!pull && !damp) || is_coupled) {
      if (!fused) continue;  // nothing to add to what the inner optimizer stored
      for (int i = 0; i < n; ++i) out[i] = proposed[i];
    } else {
      Blend<Real> w;
      w.prior = prior;
      w.transfer = to_anchor ? b.transfer : nullptr;
      w.damping = b.damping;
      w.prior_weight = Real(t.prior_weight);
      w.transfer_weight = Real(t.transfer_to_anchor);
      const Real* held = hold ? gradient : nullptr;
      if (o.mode() == kProximal) {
        if (pull && damp) blend_block<true, true, true>(n, proposed, weight, anchor, held, w, b.result);
        else if (pull) blend_block<true, false, true>(n, proposed, weight, anchor, held, w, b.result);
        else blend_block<false, true, true>(n, proposed, weight, anchor, held, w, b.result);
      } else {
        if (pull && damp) blend_block<true, true, false>(n, proposed, weight, anchor, held, w, b.result);
        else if (pull) blend_block<true, false, false>(n, proposed, weight, anchor, held, w, b.result);
        else blend_block<false, true, false>(n, proposed, weight, anchor, held, w, b.result);
      }
      if (damp) {
        sums.transfer += block_sum<Real>(n, [&](int i) {
          const Real d = b.result[i] - weight[i];
          return b.damping[i] * d * d;
        });
      }
      if (in_place) {
        for (int i = 0; i < n; ++i) out[i] = b.result[i];
      }
    }
    if (!in_place) store(b.result, t.param, t.dtype, offset, n);
  }
}

// The half of an unfused step that comes before the inner one: T, the penalty and its gradient, gradients that are not
// finite shown to the inner optimizer as zero, and a copy of the weights where the damping will need it.
template <class Real>
void prepare(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys&) {
  Block<Real> b;
  const bool hold = !o.has(kPropagateNonfinite);
  const Pull pull(o, t);
  const bool in_place = t.dtype == Native<Real>::dtype;
  for (int64_t offset = begin; offset < end; offset += kBlock) {
    const int n = int(end - offset < kBlock ? end - offset : kBlock);
    const Real* weight = load<Real>(t.param, t.dtype, offset, n, b.weight);
    const Real* gradient = task_gradient<Real>(o, t, offset, n, b.gradient);
    const int64_t finite = count_finite(gradient, n);
    sums.finite += finite;
    sums.nonfinite += n - finite;
    if (t.transfer) update_transfer(o, t, offset, n, gradient, hold);
    const Real* effective = gradient;
    if (pull.active) {
      const Real* anchor = load<Real>(t.anchor, t.anchor_dtype, offset, n, b.anchor);
      effective = penalise(o, t, pull, offset, n, weight, anchor, gradient, b.effective, sums);
    }
    if (t.previous) {
      const size_t bytes = t.dtype == DType::kFloat64 ? 8 : (t.dtype == DType::kFloat32 ? 4 : 2);
      memcpy(static_cast<char*>(const_cast<void*>(t.previous)) + offset * bytes,
             static_cast<const char*>(t.param) + offset * bytes, n * bytes);
    }
    const bool changed = effective != gradient || (hold && finite != n);
    if (!changed) continue;
    Real* out = in_place ? static_cast<Real*>(const_cast<void*>(t.grad)) + offset : b.result;
    const Real unscale = o.scale_gradient ? Real(1 / o.settings[kGradientFactor]) : Real(1);
    for (int i = 0; i < n; ++i) out[i] = !hold || is_finite(effective[i]) ? effective[i] * unscale : Real(0);
    if (!in_place) store(b.result, const_cast<void*>(t.grad), t.dtype, offset, n);
  }
}

// T after this step, without taking the step: what fills the statistics of a tensor's first step.
template <class Real>
void preview(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys& keys) {
  Block<Real> b;
  const bool own = t.transfer != nullptr;
  const Real beta = Real(o.settings[own ? kTransferBeta : kBeta2]);
  const Real one_minus_beta = Real(1 - o.settings[own ? kTransferBeta : kBeta2]);
  const Real* state = static_cast<const Real*>(own ? t.transfer : t.second_moment);
  const bool hold = !o.has(kPropagateNonfinite);
  for (int64_t offset = begin; offset < end; offset += kBlock) {
    const int n = int(end - offset < kBlock ? end - offset : kBlock);
    const Real* average = state + offset;
    const Real correction = Real(t.transfer_correction);
    const bool gradient = t.grad != nullptr;
    if (gradient) {
      const Real* g = task_gradient<Real>(o, t, offset, n, b.effective);
      for (int i = 0; i < n; ++i) {
        b.effective[i] = g[i];
        b.transfer[i] = accumulate_square(average[i], g[i], beta, one_minus_beta) * correction;
      }
    } else {
      corrected_transfer(n, average, correction, b.transfer);
    }
    if (o.damping() == kRank && !o.has(kTransferToAnchor)) {
      bins_of(t, n, b.transfer, b.bin);
      sample(t, offset, n, b.transfer, hold && gradient ? b.effective : nullptr, b.bin, keys);
    } else {
      sums.sum += finite_sum(n, b.transfer, hold && gradient ? b.effective : nullptr);
      sums.finite += gradient ? count_finite(b.effective, n) : n;
    }
  }
}

void process_any(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys& keys) {
  t.dtype == DType::kFloat64 ? process<double>(o, t, begin, end, sums, keys)
                             : process<float>(o, t, begin, end, sums, keys);
}
void preview_any(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys& keys) {
  t.dtype == DType::kFloat64 ? preview<double>(o, t, begin, end, sums, keys)
                             : preview<float>(o, t, begin, end, sums, keys);
}

void prepare_any(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys& keys) {
  t.dtype == DType::kFloat64 ? prepare<double>(o, t, begin, end, sums, keys)
                             : prepare<float>(o, t, begin, end, sums, keys);
}

#define SRFT_STRING(x) #x
#define SRFT_NAME(x) SRFT_STRING(x)

}  // namespace

double penalty_value_chunk(const PenaltyTensor&, int64_t begin, int64_t end);
void penalty_gradient_chunk(const PenaltyTensor&, int64_t begin, int64_t end, double factor);

const Loops loops = {SRFT_NAME(SRFT_ISA), process_any,         prepare_any,
                     preview_any,         penalty_value_chunk, penalty_gradient_chunk};

}  // namespace srft::cpu::SRFT_ISA
