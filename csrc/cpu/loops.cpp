// The step over one chunk of one tensor. It is compiled once per instruction set, into a namespace of that name
// (SRFT_ISA).
//
// A chunk is processed in blocks that stay in the first-level cache. Each stage below is a short loop over the block
// that a compiler vectorizes. It reads from memory only what no earlier stage has read, so a step reads and writes
// every tensor once. Products and sums are never contracted except where core/ says so, so every instruction set gives
// the same bits.
#include "../core/element.h"
#include "../core/rank.h"
#include "block.h"
#include "chunk.h"
#include "probe_signs.h"
#include "rank_block.h"

namespace srft::cpu::SRFT_ISA {
namespace {

template <class Real>
struct Block {
  alignas(64) Real weight[kBlock];
  alignas(64) Real gradient[kBlock];
  alignas(64) Real effective[kBlock];  // the gradient that the inner optimizer sees
  alignas(64) Real anchor[kBlock];
  alignas(64) Real significance[kBlock];  // P^
  alignas(64) Real plus[kBlock];
  alignas(64) Real minus[kBlock];
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

// Returns the sum of T over the elements with a finite gradient, or over all if `gradient` is null. Elements are chosen
// first and then summed, because g++ 12 for AVX2 applies the mask of the first half of the lanes to both halves if a
// sum's term has a condition in it.
template <class Real>
double finite_sum(int n, const Real* transfer, const Real* gradient) {
  alignas(64) Real chosen[kBlock];
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) chosen[i] = !gradient || is_finite(gradient[i]) ? transfer[i] : Real(0);
  LaneSum<Real> sum;
  sum.add(chosen, n);
  return sum.total();
}

template <bool kDecoupledWeightDecay, bool kMaximum, bool kHold, class Real>
void adam_block(int n, const Real* weight, const Real* gradient, Real* first, Real* second, Real* maximum,
                const AdamConstants<Real>& constants, Real* proposed) {
  SRFT_VECTORIZE
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
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) {
    const Real g = gradient[i];
    Real b = kMomentum ? buffer[i] : Real(0);
    const Real x = sgd<kMomentum, kLookAhead>(weight[i], g, b, constants);
    const bool ok = !kHold || is_finite(g);
    if (kMomentum) buffer[i] = ok ? b : buffer[i];
    proposed[i] = ok ? x : weight[i];
  }
}

// Runs the inner optimizer over a block. It updates the moments in place and writes its proposal into `proposed`.
template <bool kHold, class Real>
void inner_step(const Options& o, const Tensor& t, int64_t offset, int n, const Real* weight, const Real* gradient,
                Real* proposed) {
  if (o.inner() == kAdam) {
    Real* first = at<Real>(t.first_moment, offset);
    Real* second = at<Real>(t.second_moment, offset);
    Real* maximum = at<Real>(t.max_second_moment, offset);
    const AdamConstants<Real> c = adam_constants<Real>(o, o.settings, t);
    if (o.has(kDecoupledDecay)) {
      if (o.has(kAmsgrad)) adam_block<true, true, kHold>(n, weight, gradient, first, second, maximum, c, proposed);
      else adam_block<true, false, kHold>(n, weight, gradient, first, second, maximum, c, proposed);
    } else {
      if (o.has(kAmsgrad)) adam_block<false, true, kHold>(n, weight, gradient, first, second, maximum, c, proposed);
      else adam_block<false, false, kHold>(n, weight, gradient, first, second, maximum, c, proposed);
    }
    return;
  }
  const SgdConstants<Real> c = sgd_constants<Real>(o.settings, t);
  Real* buffer = at<Real>(t.first_moment, offset);
  if (!buffer) sgd_block<false, false, kHold>(n, weight, gradient, buffer, c, proposed);
  else if (o.has(kNesterov)) sgd_block<true, true, kHold>(n, weight, gradient, buffer, c, proposed);
  else sgd_block<true, false, kHold>(n, weight, gradient, buffer, c, proposed);
}

// Updates the running mean of squared gradients of a block, if it is a state of its own.
template <class Real>
void update_transfer(const Options& o, const Tensor& t, int64_t offset, int n, const Real* gradient, bool hold) {
  Real* average = static_cast<Real*>(t.transfer) + offset;
  const Real beta = Real(o.settings[kTransferBeta]);
  const Real one_minus_beta = Real(1 - o.settings[kTransferBeta]);
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) {
    const Real next = accumulate_square(average[i], gradient[i], beta, one_minus_beta);
    average[i] = !hold || is_finite(gradient[i]) ? next : average[i];
  }
}

// Folds a block of the product z (plus - minus) into H. Returns the sum of |H|.
template <class Real>
double fold_block(const Options& o, const Tensor& t, int64_t offset, int n, const Real* gradient, Block<Real>& b) {
  using Bits = typename SignOf<Real>::Bits;
  const Real factor = Real(o.settings[kGradientFactor]);
  const Real decay = Real(o.settings[kFoldDecay]), weight = Real(o.settings[kFoldWeight]);
  const Real* plus = load<Real>(t.plus, t.dtype, offset, n, b.plus);
  const Real* minus = t.minus ? load<Real>(t.minus, t.dtype, offset, n, b.minus) : nullptr;
  const bool from_gradient = o.has(kFoldGradient);
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) {
    const Real less = minus ? factor * minus[i] : (from_gradient ? gradient[i] : Real(0));
    b.plus[i] = factor * plus[i] - less;
  }
  Real* curvature = static_cast<Real*>(t.curvature) + offset;
  alignas(64) uint32_t words[kBlock / 32];
  draw_signs(o.draw, t.number(), offset, words);
  over_signs<Bits>(words, n, [&](int i, Bits sign) {
    curvature[i] = folded_if_finite(curvature[i], b.plus[i], decay, weight, sign);
  });
  return block_sum<Real>(n, [&](int i) { return absolute(curvature[i]); });
}

// Returns P^ of a block, from P and H.
template <class Real>
const Real* significance_of(const Tensor& t, int64_t offset, int n, Real* out) {
  const Real* prior = t.prior ? static_cast<const Real*>(t.prior) + offset : nullptr;
  const Real* curvature = t.curvature ? static_cast<const Real*>(t.curvature) + offset : nullptr;
  const Real prior_scale = bounded_constant<Real>(t.prior_scale());
  const Real curvature_scale = bounded_constant<Real>(t.curvature_scale());
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) {
    const Real of_prior = prior ? prior_scale * prior[i] : Real(0);
    out[i] = of_prior + (curvature ? curvature_scale * absolute(curvature[i]) : Real(0));
  }
  return out;
}

// Adds to the path the product of a block's gradients and moves (Zenke, Poole and Ganguli 2017, equation 3).
template <class Real>
void follow_path(const Tensor& t, int64_t offset, int n, const Real* gradient, const Real* before, const Real* after) {
  Real* path = static_cast<Real*>(t.path) + offset;
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) {
    const Real fall = gradient[i] * (before[i] - after[i]);
    path[i] += is_finite(fall) ? fall : Real(0);
  }
}

// Returns the sum of significance (theta - a)^2 over a block.
template <class Real>
double weighted_square(int n, const Real* significance, const Real* weight, const Real* anchor) {
  return block_sum<Real>(n, [&](int i) {
    const Real d = weight[i] - anchor[i];
    return significance[i] * d * d;
  });
}

// What the pull needs to know about a tensor in this step.
struct Pull {
  bool to_anchor;  // T pulls to the anchor
  bool by_prior;   // P or H pulls to it
  bool active;     // anything does
  Pull(const Options& o, const Tensor& t)
      : to_anchor(o.pull_active && t.anchor && o.has(kTransferToAnchor) && t.transfer_to_anchor != 0),
        by_prior(o.pull_active && t.anchor && (t.prior || t.curvature)),
        active(by_prior || to_anchor) {}
};

// Returns the values of the penalty at the weights before the step, with this step's T if it is a state of its own. In
// coupled mode it also adds the penalty's gradient.
template <class Real>
const Real* penalize(const Options& o, const Tensor& t, const Pull& pull, int64_t offset, int n, const Real* weight,
                     const Real* anchor, const Real* prior, const Real* gradient, Real* effective, ChunkSums& sums) {
  const Real* average = pull.to_anchor && t.transfer ? static_cast<const Real*>(t.transfer) + offset : nullptr;
  const Real correction = Real(t.transfer_correction);
  if (prior) sums.prior += weighted_square(n, prior, weight, anchor);
  if (average) {
    sums.to_anchor += block_sum<Real>(n, [&](int i) {
      const Real d = weight[i] - anchor[i];
      return sized_transfer(average[i], correction) * d * d;
    });
  }
  if (o.mode() != kCoupled) return gradient;
  const Real prior_weight = bounded_constant<Real>(t.prior_weight);
  const Real to_anchor_weight = bounded_constant<Real>(t.transfer_to_anchor);
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) {
    Real w = prior ? prior_weight * prior[i] : Real(0);
    if (average) w += to_anchor_weight * sized_transfer(average[i], correction);
    effective[i] = coupled(gradient[i], weight[i], anchor[i], bounded_weight(w));
  }
  return effective;
}

// The weights of a block's pulls.
template <class Real>
struct Blend {
  const Real* prior;     // P^, or null
  const Real* transfer;  // T if it pulls to the anchor, or null
  const Real* damping;   // w_t
  Real prior_weight, transfer_weight;
};

// Applies the pull to a block. Elements whose gradient is not finite keep their value. `gradient` is null if it is not
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
    SRFT_VECTORIZE
    for (int i = 0; i < n; ++i) element(i, w.prior_weight * w.prior[i] + w.transfer_weight * w.transfer[i]);
  } else if (kPull && w.transfer) {
    SRFT_VECTORIZE
    for (int i = 0; i < n; ++i) element(i, w.transfer_weight * w.transfer[i]);
  } else if (kPull) {
    SRFT_VECTORIZE
    for (int i = 0; i < n; ++i) element(i, w.prior_weight * w.prior[i]);
  } else {
    SRFT_VECTORIZE
    for (int i = 0; i < n; ++i) element(i, Real(0));
  }
}

// A fused step (with an inner optimizer), or the half of an unfused one after the inner step (without a gradient).
template <class Real>
void any_step(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys& keys) {
  Block<Real> b;
  const bool fused = o.inner() != kNone;
  const bool hold = o.hold();
  const Pull pulling(o, t);
  const bool is_coupled = o.coupled();
  const bool pull = pulling.active && (fused || !is_coupled);
  const bool to_anchor = pulling.to_anchor;
  const bool in_place = t.dtype == Native<Real>::dtype;
  const bool damped = o.damping_active;
  for (int64_t offset = begin; offset < end; offset += kBlock) {
    const int n = int(end - offset < kBlock ? end - offset : kBlock);

    const Real* weight = load<Real>(t.previous ? t.previous : t.param, t.dtype, offset, n, b.weight);
    const Real* gradient = fused ? task_gradient<Real>(o, t, offset, n, b.gradient) : nullptr;
    const Real* anchor = pull ? load<Real>(t.anchor, t.anchor_dtype, offset, n, b.anchor) : nullptr;
    Real* out = in_place ? static_cast<Real*>(t.param) + offset : b.result;

    const int64_t finite = gradient ? count_finite(gradient, n) : n;
    sums.finite += finite;
    sums.nonfinite += n - finite;

    const Real* effective = gradient;
    if (fused && t.transfer) update_transfer(o, t, offset, n, gradient, hold);
    if (fused && t.plus) sums.curvature += fold_block(o, t, offset, n, gradient, b);
    const Real* prior = pull && pulling.by_prior ? significance_of(t, offset, n, b.significance) : nullptr;
    if (fused && pull)
      effective = penalize(o, t, pulling, offset, n, weight, anchor, prior, gradient, b.effective, sums);

    // The inner optimizer.
    const Real* proposed = b.proposed;
    if (fused) {
      if (hold) inner_step<true>(o, t, offset, n, weight, effective, b.proposed);
      else inner_step<false>(o, t, offset, n, weight, effective, b.proposed);
    } else {
      proposed = load<Real>(t.param, t.dtype, offset, n, b.proposed);
    }

    // T, its statistics for the next step, and the damping that follows from the last step's statistics.
    const Real* average = t.transfer
                              ? static_cast<const Real*>(t.transfer) + offset
                              : (t.second_moment && o.inner() == kAdam ? at<Real>(t.second_moment, offset) : nullptr);
    const bool transfer_used = average && o.weighs_transfer();
    if (transfer_used) {
      const Real correction = Real(t.transfer_correction);
      if (o.ranks()) {
        corrected_transfer(n, average, correction, b.transfer);
        bins_of(t, n, b.transfer, b.bin);
        sample(t, offset, n, b.transfer, hold ? gradient : nullptr, b.bin, keys);
      } else {
        sized_transfers(n, average, correction, b.transfer);
        sums.sum += finite_sum(n, b.transfer, hold ? gradient : nullptr);
      }
    }
    if (fused && to_anchor && !t.transfer) sums.to_anchor += weighted_square(n, b.transfer, weight, anchor);
    if (damped && transfer_used) {
      if (o.damping() == kRank) {
        const Real* table = damping_of<Real>(t);
        for (int i = 0; i < n; ++i) b.damping[i] = table[b.bin[i]];
      } else {
        const Real factor = bounded_constant<Real>(t.mean_damping);
        SRFT_VECTORIZE
        for (int i = 0; i < n; ++i) b.damping[i] = bounded_weight(factor * b.transfer[i]);
      }
    }
    const bool damp = damped && transfer_used;

    // The pull, and the store.
    const Real* result = b.result;
    if ((!pull && !damp) || is_coupled) {
      if (!fused) continue;  // the inner optimizer has stored the result already
      result = proposed;
    } else {
      Blend<Real> w;
      w.prior = prior;
      w.transfer = to_anchor ? b.transfer : nullptr;
      w.damping = b.damping;
      w.prior_weight = bounded_constant<Real>(t.prior_weight);
      w.transfer_weight = bounded_constant<Real>(t.transfer_to_anchor);
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
    }
    if (in_place) {
      if (fused && t.path) follow_path(t, offset, n, gradient, weight, result);
      for (int i = 0; i < n; ++i) out[i] = result[i];
    } else {
      store(result, t.param, t.dtype, offset, n);
      if (fused && t.path) {  // from weight to weight as they are stored
        const Real* stored = load<Real>(t.param, t.dtype, offset, n, b.effective);
        follow_path(t, offset, n, gradient, weight, stored);
      }
    }
  }
}

// The half of an unfused step before the inner one. It updates T, computes the penalty and its gradient, sets gradients
// that are not finite to zero for the inner optimizer, and copies the weights if the damping will need them.
template <class Real>
void prepare(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys&) {
  Block<Real> b;
  const bool hold = o.hold();
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
      const Real* prior = pull.by_prior ? significance_of(t, offset, n, b.significance) : nullptr;
      effective = penalize(o, t, pull, offset, n, weight, anchor, prior, gradient, b.effective, sums);
    }
    if (t.previous) {
      const int bytes = bytes_of(t.dtype);
      memcpy(static_cast<char*>(t.previous) + offset * bytes, static_cast<const char*>(t.param) + offset * bytes,
             n * bytes);
    }
    const bool changed = effective != gradient || (hold && finite != n);
    if (!changed) continue;
    Real* out = in_place ? static_cast<Real*>(t.grad) + offset : b.result;
    const Real unscale = o.scale_gradient ? Real(1 / o.settings[kGradientFactor]) : Real(1);
    for (int i = 0; i < n; ++i) out[i] = !hold || is_finite(effective[i]) ? effective[i] * unscale : Real(0);
    if (!in_place) store(b.result, t.grad, t.dtype, offset, n);
  }
}

void any_step_chunk(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys& keys) {
  t.dtype == DType::kFloat64 ? any_step<double>(o, t, begin, end, sums, keys)
                             : any_step<float>(o, t, begin, end, sums, keys);
}
void prepare_chunk(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys& keys) {
  t.dtype == DType::kFloat64 ? prepare<double>(o, t, begin, end, sums, keys)
                             : prepare<float>(o, t, begin, end, sums, keys);
}

#define SRFT_STRING(x) #x
#define SRFT_NAME(x) SRFT_STRING(x)

}  // namespace

void fused_adam_chunk(const Options&, const Tensor&, int64_t begin, int64_t end, ChunkSums&, SampledKeys&);
double penalty_value_chunk(const PenaltyTensor&, int64_t begin, int64_t end);
void penalty_gradient_chunk(const PenaltyTensor&, int64_t begin, int64_t end, double factor);
void probe_fill_chunk(const ProbeTensor&, const Draw&, int64_t begin, int64_t end);
void probe_perturb_chunk(const ProbeTensor&, const Draw&, int64_t begin, int64_t end, double scale);
void probe_fold_chunk(const ProbeTensor&, const Draw&, int64_t begin, int64_t end, double decay, double weight);

const Loops loops = {SRFT_NAME(SRFT_ISA), fused_adam_chunk,    any_step_chunk,
                     prepare_chunk,       penalty_value_chunk, penalty_gradient_chunk,
                     probe_fill_chunk,    probe_perturb_chunk, probe_fold_chunk};

}  // namespace srft::cpu::SRFT_ISA
