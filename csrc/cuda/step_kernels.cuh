// The kernels of a step: the walk of a block over its segments, and the elements of a segment. There are three kinds:
// AdamW with the proximal pull, which most people run and which is held to few registers; every other fused step and
// the half after an unfused inner step; and the half before it.
#pragma once

#include "../core/element.h"
#include "launch.h"
#include "segment.cuh"
#include "step.h"

namespace srft::cuda {

// Walks a block over its segments. Pass::elements(header, view, shared, sums) takes the elements of one.
template <class Pass>
__device__ __forceinline__ void walk(const StepArguments& a) {
  using Stored = typename Pass::Stored;
  using Real = typename ArithmeticOf<Stored>::Real;
  const StepHeader& h = a.header;
  // What all threads share lies here and is read where it is needed, including addresses and the loop's variable.
  // Registers are left for the elements.
  __shared__ Shared<Real> shared;
  __shared__ View<Stored> view;
  if (threadIdx.x < kSettings) {
    shared.settings[threadIdx.x] = (h.device_settings ? h.device_settings : h.settings)[threadIdx.x];
  }
  if (threadIdx.x == 0) {
    shared.skipped = h.found_inf && *h.found_inf != 0.0f;
    shared.begin = h.partition.begin(blockIdx.x);
    shared.end = h.partition.begin(blockIdx.x + 1);
    shared.tensor = tensor_of(a, shared.begin);
    shared.report = {};
  }
  __syncthreads();
  if (shared.skipped && !h.flags.has(kCountSkipped)) return;  // all blocks return
  if (threadIdx.x == 0) {                                     // the first segment's barrier makes it visible to all
    const double* s = shared.settings;
    shared.draw = {uint64_t(s[kProbeSeedHigh]) << 32 | uint64_t(s[kProbeSeedLow]), uint32_t(s[kProbeStep])};
  }

  while (a.start(shared.tensor) < shared.end) {
    begin_segment(a, shared, view);
    if (shared.skipped) {
      count_nonfinite(view.grad, shared.size, shared);
    } else {
      Sums sums;
      Pass::elements(h, view, shared, sums);
      end_segment(a, shared.tensor, sums, shared);
    }
    __syncthreads();  // the segment no longer needs what is shared
    if (threadIdx.x == 0) ++shared.tensor;
    __syncthreads();
  }
  end_block(h, shared);
}

// AdamW with the proximal pull, with the second moment as T, and with damping by rank or none. csrc/cpu/adam_pass.h is
// the same on the CPU.
template <class Stored_, bool kRanked>
struct FusedAdam {
  using Stored = Stored_;
  using Real = typename ArithmeticOf<Stored>::Real;
  static constexpr int kCount = kPerThread<Stored>;

  template <bool kPull>
  static __device__ __forceinline__ void segment(const View<Stored>& view, Shared<Real>& shared, Sums& sums) {
    const SegmentConstants<Real>& c = shared.constants;
    const int size = shared.size;
    const Real scale = view.prior ? c.prior_scale : c.curvature_scale;
    over_turns<kCount>(view, size, [&](const auto turn) {
      const int at = turn.at, n = turn.n();
      Real weight[kCount], gradient[kCount], first[kCount], second[kCount], anchor[kCount], significance[kCount];
      load(view.param + at, n, turn.whole(kParam), weight);
      load(view.grad + at, n, turn.whole(kGrad), gradient);
      load(view.first + at, n, turn.whole(kFirst), first);
      load(view.second + at, n, turn.whole(kSecond), second);
      if constexpr (kPull) {
        view.load_anchor(at, n, turn.whole(kAnchor), anchor);
        load((view.prior ? view.prior : view.curvature) + at, n, turn.whole(view.prior ? kPrior : kCurvature),
             significance);
      }
      [[maybe_unused]] const bool sampled = kRanked && is_sampled(shared, at);
      Real prior_term = 0, transfer_term = 0;
      int nonfinite = 0;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const Real current = weight[i], g = gradient[i] * c.gradient_factor;
        const bool usable = is_finite(g), moves = usable || !c.hold;
        nonfinite += usable ? 0 : 1;

        Real m = first[i], v = second[i], x;
        [[maybe_unused]] AdamQuotient<Real> step = {};
        if constexpr (kPull || kRanked) {
          step = adam_quotient<true>(current, g, m, v, c.adam);
        } else {
          Real unused = 0;
          x = adam<true, false>(current, g, m, v, unused, c.adam);
        }
        first[i] = moves ? m : first[i];
        second[i] = v = moves ? v : second[i];

        [[maybe_unused]] Real a = 0, anchor_weight = 0, current_weight = 0;
        if constexpr (kPull) {
          a = anchor[i];
          const Real distance = current - a;
          const Real p = scale * absolute(significance[i]);
          prior_term += p * distance * distance;
          anchor_weight = bounded_weight(c.prior_weight * p);
        }
        if constexpr (kRanked) {
          const Real transfer = v * c.correction;
          const int32_t bin = rank_bin(float(transfer), c.low, c.density);
          current_weight = shared.table[bin];
          if (sampled && moves && i < n) count_key(transfer, bin, shared, sums);
        }
        if constexpr (kPull || kRanked) {
          x = proximal_quotient(step.start, step.numerator, step.denominator, current, a, anchor_weight,
                                current_weight);
        }
        x = moves ? x : current;
        weight[i] = x;
        if constexpr (kRanked) {
          const Real moved = x - current;
          transfer_term += i < n ? current_weight * moved * moved : Real(0);
        }
      }
      store(weight, view.param + at, n, turn.whole(kParam));
      store(first, view.first + at, n, turn.whole(kFirst));
      store(second, view.second + at, n, turn.whole(kSecond));
      sums.prior += double(prior_term);
      sums.transfer += double(transfer_term);
      sums.nonfinite += nonfinite;
    });
  }

  static __device__ __forceinline__ void elements(const StepHeader&, const View<Stored>& view, Shared<Real>& shared,
                                                  Sums& sums) {
    const bool pull = view.anchor && (view.prior || view.curvature) && shared.settings[kStrength] > 0;
    if (pull) segment<true>(view, shared, sums);
    else segment<false>(view, shared, sums);
  }
};

// Returns P^ of a thread's elements, from P and H.
template <class Stored, class Real, bool kWhole, int kCount>
__device__ __forceinline__ void load_significance(const View<Stored>& view, const SegmentConstants<Real>& c,
                                                  const Turn<kWhole, kCount>& turn, Real (&significance)[kCount]) {
  const int at = turn.at, n = turn.n();
  Real curvature[kCount] = {};
  if (view.prior) load(view.prior + at, n, turn.whole(kPrior), significance);
  if (view.curvature) load(view.curvature + at, n, turn.whole(kCurvature), curvature);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    significance[i] = c.prior_scale * significance[i] + c.curvature_scale * absolute(curvature[i]);
  }
}

// Folds the product z (plus - minus) of a thread's elements into H. Returns the sum of |H|.
template <class Stored, class Real, bool kWhole, int kCount>
__device__ __forceinline__ double fold(const StepHeader& h, const View<Stored>& view, const Shared<Real>& shared,
                                       const Turn<kWhole, kCount>& turn, const Real (&gradient)[kCount], Real factor) {
  const int at = turn.at, n = turn.n();
  using Bits = typename SignOf<Real>::Bits;
  const SegmentConstants<Real>& c = shared.constants;
  Real curvature[kCount], plus[kCount], minus[kCount] = {};
  load(view.curvature + at, n, turn.whole(kCurvature), curvature);
  load(view.plus + at, n, turn.whole(kPlus), plus);
  if (view.minus) load(view.minus + at, n, turn.whole(kMinus), minus);
  const bool from_gradient = !view.minus && h.flags.has(kFoldGradient);
  // A turn lies within a word of 32 signs, so one call of Philox serves it. The other threads of those 128 elements
  // make the same call. Next to everything that a turn reads, that costs less than passing the result on.
  const int64_t element = shared.from + at;
  uint32_t words[4];
  probe_words(shared.draw, shared.number, uint64_t(element) / kSigns, words);
  const int which = int(element % kSigns) / 32;
  const uint32_t lower = which % 2 ? words[1] : words[0], upper = which % 2 ? words[3] : words[2];
  const uint32_t signs = (which < 2 ? lower : upper) >> (element % 32);
  Real sum = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const Real less = from_gradient ? factor * gradient[i] : factor * minus[i];
    const Bits sign = Bits(Bits(signs >> i & 1u) << kSignShift<Bits>);
    curvature[i] = folded_if_finite(curvature[i], factor * plus[i] - less, c.fold_decay, c.fold_weight, sign);
    sum += i < n ? absolute(curvature[i]) : Real(0);
  }
  store(curvature, view.curvature + at, n, turn.whole(kCurvature));
  return double(sum);
}

// Adds to the path the product of a thread's gradients and moves, from weight to weight as they are stored (Zenke,
// Poole and Ganguli 2017, equation 3).
template <class Stored, class Real, bool kWhole, int kCount>
__device__ __forceinline__ void follow_path(const View<Stored>& view, const Turn<kWhole, kCount>& turn,
                                            const Real (&gradient)[kCount], Real factor, const Real (&before)[kCount],
                                            const Real (&after)[kCount]) {
  const int at = turn.at, n = turn.n();
  Real path[kCount];
  load(view.path + at, n, turn.whole(kPath), path);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    Stored stored;
    encode(after[i], stored);
    const Real fall = factor * gradient[i] * (before[i] - Real(decode(stored)));
    path[i] += is_finite(fall) ? fall : Real(0);
  }
  store(path, view.path + at, n, turn.whole(kPath));
}

// What T does to an element besides being kept.
struct Transfer {
  bool known;    // there is a T: a state of its own, or Adam's second moment
  bool damps;    // pulls toward the element's present value
  bool anchors;  // toward the anchor
};

// Every fused step, and the half after the inner step of an unfused one, like `process` in csrc/cpu/loops.cpp.
template <class Stored_>
struct AnyStep {
  using Stored = Stored_;
  using Real = typename ArithmeticOf<Stored>::Real;
  static constexpr int kCount = kPerThread<Stored>;

  static __device__ __forceinline__ Real proposal(const StepHeader& h, const View<Stored>& view,
                                                  const SegmentConstants<Real>& c, Real weight, Real gradient,
                                                  Real& first, Real& second, Real& maximum) {
    if (h.flags.inner() == kAdam) {
      if (h.flags.has(kDecoupledDecay)) {
        return view.maximum ? adam<true, true>(weight, gradient, first, second, maximum, c.adam)
                            : adam<true, false>(weight, gradient, first, second, maximum, c.adam);
      }
      return view.maximum ? adam<false, true>(weight, gradient, first, second, maximum, c.adam)
                          : adam<false, false>(weight, gradient, first, second, maximum, c.adam);
    }
    if (!view.first) return sgd<false, false>(weight, gradient, first, c.sgd);
    return h.flags.has(kNesterov) ? sgd<true, true>(weight, gradient, first, c.sgd)
                                  : sgd<true, false>(weight, gradient, first, c.sgd);
  }

  static __device__ __forceinline__ void elements(const StepHeader& h, const View<Stored>& where, Shared<Real>& shared,
                                                  Sums& sums) {
    const View<Stored> view = where;
    const int size = shared.size;
    const SegmentConstants<Real>& c = shared.constants;
    const bool fused = h.flags.inner() != kNone;
    const bool coupled_pull = h.flags.coupled();
    const bool pulls = shared.settings[kStrength] > 0 && view.anchor &&
                       (view.prior || view.curvature || h.flags.transfer_to_anchor()) && (fused || !coupled_pull);
    const bool has_prior = pulls && (view.prior || view.curvature);
    const bool folds = h.flags.folds_in(h.phase) && view.curvature && view.plus;
    Transfer t;
    t.known = view.transfer || (h.flags.inner() == kAdam && view.second);
    t.damps = t.known && h.flags.damps_in(h.phase);
    t.anchors = t.known && pulls && h.flags.transfer_to_anchor();
    const bool blends = (pulls || t.damps) && !coupled_pull;
    if (!fused && !blends && !h.flags.sums_in(h.phase)) return;  // the inner optimizer has stored the result already
    const Stored* current_at = view.previous ? view.previous : view.param;

    over_turns<kCount>(view, size, [&](const auto turn) {
      const int at = turn.at, n = turn.n();
      Real weight[kCount], proposed[kCount] = {}, gradient[kCount] = {}, anchor[kCount] = {}, prior[kCount] = {};
      Real first[kCount] = {}, second[kCount] = {}, maximum[kCount] = {}, average[kCount] = {};
      load(current_at + at, n, turn.whole(view.previous ? kPrevious : kParam), weight);
      if (!fused) load(view.param + at, n, turn.whole(kParam), proposed);
      if (fused) load(view.grad + at, n, turn.whole(kGrad), gradient);
      if (fused && view.first) load(view.first + at, n, turn.whole(kFirst), first);
      if (fused && view.second) load(view.second + at, n, turn.whole(kSecond), second);
      if (fused && view.maximum) load(view.maximum + at, n, turn.whole(kMaximum), maximum);
      if (view.transfer) load(view.transfer + at, n, turn.whole(kTransfer), average);
      if (pulls) view.load_anchor(at, n, turn.whole(kAnchor), anchor);
      if (folds) sums.curvature += fold(h, view, shared, turn, gradient, c.gradient_factor);
      if (has_prior) load_significance(view, c, turn, prior);
      const bool sampled = h.flags.ranks_in(h.phase) && is_sampled(shared, at);
      Real prior_term = 0, anchor_term = 0, transfer_term = 0, transfer_sum = 0;
      int nonfinite = 0, counted = 0;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i >= n) continue;
        const Real current = weight[i], g = gradient[i] * c.gradient_factor;
        const bool usable = is_finite(g), moves = usable || !c.hold;
        nonfinite += usable ? 0 : 1;
        const Real distance = current - anchor[i];
        if (fused && view.transfer && moves) {
          average[i] = accumulate_square(average[i], g, c.transfer_beta, c.one_minus_transfer_beta);
        }
        Real effective = g, anchor_weight = c.prior_weight * prior[i];
        if (has_prior) prior_term += prior[i] * distance * distance;
        if (coupled_pull && pulls) {
          if (t.anchors) anchor_weight += c.to_anchor * sized_transfer(average[i], c.correction);
          effective = coupled(g, current, anchor[i], bounded_weight(anchor_weight));
        }
        if (fused) {
          Real m = first[i], v = second[i], top = maximum[i];
          const Real x = proposal(h, view, c, current, effective, m, v, top);
          first[i] = moves ? m : first[i];
          second[i] = moves ? v : second[i];
          maximum[i] = moves ? top : maximum[i];
          proposed[i] = moves ? x : current;
        }

        const Real kept = view.transfer ? average[i] : second[i];
        const Real transfer = sized_transfer(kept, c.correction);
        Real current_weight = 0;
        if (t.known && h.flags.ranks_in(h.phase)) {
          const Real corrected = kept * c.correction;
          const int32_t bin = rank_bin(float(corrected), c.low, c.density);
          current_weight = shared.table[bin];
          if (sampled && moves) count_key(corrected, bin, shared, sums);
        } else if (t.damps) {
          current_weight = bounded_weight(c.mean_damping * transfer);
        }
        if (t.known && moves) {
          transfer_sum += transfer;
          ++counted;
        }
        if (t.anchors && fused) anchor_term += transfer * distance * distance;
        if (!blends) continue;
        if (t.anchors) anchor_weight += c.to_anchor * transfer;
        anchor_weight = pulls ? bounded_weight(anchor_weight) : Real(0);
        Real x = h.flags.mode() == kProximal
                     ? proximal(proposed[i], current, anchor[i], anchor_weight, current_weight)
                     : decoupled(proposed[i], current, anchor[i], anchor_weight, current_weight);
        x = moves ? x : current;
        proposed[i] = x;
        const Real moved = x - current;
        transfer_term += current_weight * moved * moved;
      }
      if (fused || blends) store(proposed, view.param + at, n, turn.whole(kParam));
      if (fused && view.first) store(first, view.first + at, n, turn.whole(kFirst));
      if (fused && view.second) store(second, view.second + at, n, turn.whole(kSecond));
      if (fused && view.maximum) store(maximum, view.maximum + at, n, turn.whole(kMaximum));
      if (fused && view.transfer) store(average, view.transfer + at, n, turn.whole(kTransfer));
      if (fused && view.path) follow_path(view, turn, gradient, c.gradient_factor, weight, proposed);
      sums.prior += fused ? double(prior_term) : 0.0;
      sums.to_anchor += double(anchor_term);
      sums.transfer += double(transfer_term);
      sums.sum += double(transfer_sum);
      sums.counted += counted;
      sums.nonfinite += nonfinite;
    });
  }
};

// The half of an unfused step before the inner one. It updates T, computes the penalty and in coupled mode its
// gradient, sets gradients that are not finite to zero for the inner optimizer, and copies the weights if the damping
// will need them.
template <class Stored_>
struct Prepare {
  using Stored = Stored_;
  using Real = typename ArithmeticOf<Stored>::Real;
  static constexpr int kCount = kPerThread<Stored>;

  static __device__ __forceinline__ void elements(const StepHeader& h, const View<Stored>& where, Shared<Real>& shared,
                                                  Sums& sums) {
    const View<Stored> view = where;
    const int size = shared.size;
    const SegmentConstants<Real>& c = shared.constants;
    const bool pulls =
        shared.settings[kStrength] > 0 && view.anchor && (view.prior || view.curvature || h.flags.transfer_to_anchor());
    const bool has_prior = pulls && (view.prior || view.curvature);
    const bool anchors = pulls && view.transfer && h.flags.transfer_to_anchor();
    const bool adds = pulls && h.flags.coupled();
    const Real unscale = Real(1) / c.gradient_factor;
    over_turns<kCount>(view, size, [&](const auto turn) {
      const int at = turn.at, n = turn.n();
      Real weight[kCount], gradient[kCount], anchor[kCount] = {}, prior[kCount] = {}, average[kCount] = {};
      load(view.param + at, n, turn.whole(kParam), weight);
      load(view.grad + at, n, turn.whole(kGrad), gradient);
      if (pulls) view.load_anchor(at, n, turn.whole(kAnchor), anchor);
      if (has_prior) load_significance(view, c, turn, prior);
      if (view.transfer) load(view.transfer + at, n, turn.whole(kTransfer), average);
      if (view.previous) store(weight, view.previous + at, n, turn.whole(kPrevious));
      Real prior_term = 0, anchor_term = 0, transfer_sum = 0;
      int nonfinite = 0, counted = 0;
      bool changed = adds;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i >= n) continue;
        const Real g = gradient[i] * c.gradient_factor;
        const bool usable = is_finite(g), moves = usable || !c.hold;
        nonfinite += usable ? 0 : 1;
        changed = changed || !moves;
        if (view.transfer && moves) {
          average[i] = accumulate_square(average[i], g, c.transfer_beta, c.one_minus_transfer_beta);
        }
        const Real transfer = sized_transfer(average[i], c.correction), distance = weight[i] - anchor[i];
        if (moves) {
          transfer_sum += transfer;
          ++counted;
        }
        if (has_prior) prior_term += prior[i] * distance * distance;
        if (anchors) anchor_term += transfer * distance * distance;
        const Real pull = c.prior_weight * prior[i] + (anchors ? c.to_anchor * transfer : Real(0));
        Real effective = adds ? coupled(g, weight[i], anchor[i], bounded_weight(pull)) : g;
        effective = !c.hold || is_finite(effective) ? effective : Real(0);
        gradient[i] = adds || !moves ? effective * unscale : gradient[i];
      }
      if (changed) store(gradient, view.grad + at, n, turn.whole(kGrad));
      if (view.transfer) store(average, view.transfer + at, n, turn.whole(kTransfer));
      sums.prior += double(prior_term);
      sums.to_anchor += double(anchor_term);
      sums.sum += double(transfer_sum);
      sums.counted += counted;
      sums.nonfinite += nonfinite;
    });
  }
};

// The resident blocks of a multiprocessor for which registers are limited. Three blocks of 256 threads, each with six
// loads of 16 bytes under way, have 73 KB in flight, about three times latency times bandwidth of an H200. Four blocks
// compile without a spill too (64 registers) but leave less room for loads under way. Which is faster has not been
// measured.
template <class Stored, bool kRanked>
__global__ void __launch_bounds__(kThreads, sizeof(Stored) == 8 ? 2 : 3)
    fused_adam_kernel(const __grid_constant__ StepArguments arguments) {
  walk<FusedAdam<Stored, kRanked>>(arguments);
}

template <class Stored>
__global__ void __launch_bounds__(kThreads, 1) any_step_kernel(const __grid_constant__ StepArguments arguments) {
  walk<AnyStep<Stored>>(arguments);
}

template <class Stored>
__global__ void __launch_bounds__(kThreads, 1) prepare_kernel(const __grid_constant__ StepArguments arguments) {
  walk<Prepare<Stored>>(arguments);
}

// ---------------------------------------------------------------- the launch (step.h), for the files that instantiate
// it

template <class Stored>
auto kernel_of(StepKernel kernel) -> void (*)(StepArguments) {
  switch (kernel) {
    case StepKernel::kFusedAdam: return fused_adam_kernel<Stored, false>;
    case StepKernel::kFusedAdamRanked: return fused_adam_kernel<Stored, true>;
    case StepKernel::kPrepare: return prepare_kernel<Stored>;
    default: return any_step_kernel<Stored>;
  }
}

template <class Stored>
uint32_t resident_step_blocks(StepKernel kernel) {
  return resident_blocks(kernel_of<Stored>(kernel));
}

template <class Stored>
void launch_step(StepKernel kernel, const StepArguments& arguments, cudaStream_t stream) {
  launch(kernel_of<Stored>(kernel), arguments, arguments.header.partition.blocks, stream);
}

#define SRFT_INSTANTIATE_STEP(Stored)                         \
  template uint32_t resident_step_blocks<Stored>(StepKernel); \
  template void launch_step<Stored>(StepKernel, const StepArguments&, cudaStream_t)

}  // namespace srft::cuda
