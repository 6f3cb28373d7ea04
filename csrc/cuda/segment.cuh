// What a block of a step does before and after the elements of a segment: constants and the table of damping before
// them, sums and counts after them. step_kernels.cuh has the walk over segments and the elements themselves.
#pragma once

#include "../core/constants.h"
#include "../core/probe.h"
#include "../core/rank.h"
#include "access.cuh"
#include "block.cuh"

namespace srft::cuda {

static_assert(kThreads == kBins, "a thread works out one bin");

// What the elements of a tensor share in this step.
template <class Real>
struct SegmentConstants {
  AdamConstants<Real> adam;
  SgdConstants<Real> sgd;
  Real gradient_factor;
  Real transfer_beta, one_minus_transfer_beta;
  Real correction;       // 1 / (1 - beta^t), which corrects the bias of T
  Real prior_scale;      // factor of P in P^
  Real curvature_scale;  // factor of |H| in P^
  Real prior_weight;     // P^ times this is the anchor's weight (coupled: the gradient's)
  Real to_anchor;        // T times this is the same, for transfer_anchor="initial"
  Real mean_damping;     // T times this is the weight toward the current value, for damping="mean"
  float low, density;
  bool hold;  // an element whose gradient is not finite stays as it is
  Real fold_decay, fold_weight;
  double prior_penalty;   // factor of sum P^ (theta - a)^2
  double anchor_penalty;  // factor of sum T (theta - a)^2
};

template <class Real>
struct Shared {
  double settings[kSettings];
  double statistics[kStatistics];
  double below[kBins + 1];
  double next[2];  // the histogram's range in this step
  double time, corrections[3];
  double room[kWarps * 7];
  Draw draw;        // the draw of the product that is folded
  uint32_t number;  // keys the tensor's signs
  int64_t from;     // elements of the tensor before the segment
  SegmentConstants<Real> constants;
  Real table[kBins];  // w_t by bin
  unsigned histogram[kBins];
  unsigned highest, lowest;
  uint64_t begin, end;  // this block's units
  uint32_t tensor;      // whose segment it is at
  int size;             // of the segment
  int64_t group;        // that the segment begins with: so many times kSampleGroup elements lie before it
  bool every;           // the histogram counts every element, and not a sample
  bool skipped;         // the step is
  BlockReport report;   // of its segments so far
  bool last;
};

// The addresses of a segment's elements, null for what its tensor does not have.
template <class Stored>
struct View {
  using Real = typename ArithmeticOf<Stored>::Real;
  uint32_t aligned;  // one bit for each column
  bool wide_anchor;
  Stored *param, *grad, *plus, *minus, *previous;
  const void* anchor;
  const Real* prior;
  Real *first, *second, *maximum, *transfer, *curvature, *path;

  // Sets the addresses of the tensor's elements from `from` on.
  __device__ void set(const StepArguments& a, uint32_t tensor, int64_t from) {
    const auto point = [&](auto*& to, Column column) {
      to = reinterpret_cast<decltype(to + 0)>(a.address(column, tensor));
      if (to) to += from;
    };
    aligned = uint32_t(a.bits(tensor) >> kAlignedShift) & kAllAligned;
    wide_anchor = (a.bits(tensor) & kWideAnchor) != 0;
    point(param, kParam), point(grad, kGrad), point(plus, kPlus), point(minus, kMinus), point(previous, kPrevious);
    point(prior, kPrior), point(first, kFirst), point(second, kSecond), point(maximum, kMaximum);
    point(transfer, kTransfer), point(curvature, kCurvature), point(path, kPath);
    const auto* start = reinterpret_cast<const char*>(a.address(kAnchor, tensor));
    anchor = start ? start + from * int64_t(wide_anchor ? sizeof(Real) : sizeof(Stored)) : nullptr;
  }

  __device__ __forceinline__ bool all_aligned() const { return aligned == kAllAligned; }

  template <int kCount>
  __device__ __forceinline__ void load_anchor(int at, int n, bool whole, Real (&to)[kCount]) const {
    if (sizeof(Real) > sizeof(Stored) && wide_anchor) load(static_cast<const Real*>(anchor) + at, n, whole, to);
    else load(static_cast<const Stored*>(anchor) + at, n, whole, to);
  }
};

// The elements of one turn of a thread: `n` of them from the segment's `at` on. With kWhole, which the compiler knows,
// all loads of a turn are issued before the first is waited for. Without it each column is moved in the way its
// alignment allows.
template <bool kWhole, int kCount>
struct Turn {
  int at, count;
  bool full;
  uint32_t aligned;
  __device__ __forceinline__ Turn(int at_, int left, uint32_t aligned_)
      : at(at_), count(left < kCount ? left : kCount), full(left >= kCount), aligned(aligned_) {}
  __device__ __forceinline__ int n() const { return kWhole ? kCount : count; }
  __device__ __forceinline__ bool whole(Column column) const {
    return kWhole || (full && (aligned >> column & 1u) != 0);
  }
};

// Calls function(turn) for this thread's turns of a segment.
template <int kCount, class Stored, class Function>
__device__ __forceinline__ void over_turns(const View<Stored>& view, int size, const Function& function) {
  const uint32_t aligned = view.aligned;
  const bool all = view.all_aligned();
  for (int at = int(threadIdx.x) * kCount; at < size; at += kThreads * kCount) {
    const int left = size - at;
    if (all && left >= kCount) function(Turn<true, kCount>(at, left, aligned));
    else function(Turn<false, kCount>(at, left, aligned));
  }
}

// What a thread adds up over a segment.
struct Sums {
  double prior = 0;      // P^ (theta - a)^2, before the step
  double to_anchor = 0;  // T (theta - a)^2, likewise
  double transfer = 0;   // w_t (new theta - theta)^2
  double sum = 0;        // T of the elements that count
  double curvature = 0;  // |H| after a fold
  int counted = 0;       // how many they are
  int nonfinite = 0;     // gradients
  unsigned highest = 0, lowest = 0;
};

// The bits of a positive float grow with it. `highest` and `lowest` are maxima of such bits, and 0 stands for none.
__device__ __forceinline__ unsigned from_above(unsigned bits) { return 0x80000000u - bits; }

// Returns whether the histogram counts the element `at` of a segment, and with it the others of its 64. Segments begin
// with a group.
template <class Real>
__device__ __forceinline__ bool is_sampled(const Shared<Real>& shared, int at) {
  return shared.every || at % kSampleGroup / kSampleBlock == sampled_block(shared.group + at / kSampleGroup);
}

template <class Real>
__device__ __forceinline__ void count_key(Real transfer, int32_t bin, Shared<Real>& shared, Sums& sums) {
  atomicAdd(&shared.histogram[bin], 1u);
  if (bin == 0) return;
  const unsigned bits = float_bits(float(transfer));
  sums.highest = bits > sums.highest ? bits : sums.highest;
  sums.lowest = from_above(bits) > sums.lowest ? from_above(bits) : sums.lowest;
}

// 1 - beta^t for each average's beta, t counting the step that is being taken. By the first threads of a block.
template <class Real>
__device__ void set_corrections(const StepArguments& a, uint32_t tensor, Shared<Real>& shared) {
  if (threadIdx.x >= 3) return;
  const double time = double(a.header.steps[a.row(tensor)]) + (a.header.phase == Phase::kAfter ? 0.0 : 1.0);
  const int beta = threadIdx.x == 0 ? kBeta1 : (threadIdx.x == 1 ? kBeta2 : kTransferBeta);
  shared.corrections[threadIdx.x] = 1 - pow(shared.settings[beta], time);
  if (threadIdx.x == 0) shared.time = time;
}

template <class Real>
__device__ void set_constants(const StepArguments& a, uint32_t tensor, Shared<Real>& shared) {
  const StepHeader& h = a.header;
  const double* s = shared.settings;
  const uint32_t row = a.row(tensor);
  const double* scales = h.scales + int64_t(row) * kScales;
  // The mean of T is that of the last step's statistics. The sums over all tensors come from outside.
  const double* sums = h.means ? h.means : h.statistics + int64_t(row) * kStatistics + kSum;
  const BiasCorrections corrections = {shared.corrections[0], shared.corrections[1], shared.corrections[2]};
  const TensorConstants t = tensor_constants(h.flags, s, scales, shared.time, corrections,
                                             a.address(kTransfer, tensor) != 0, sums[0], sums[1]);
  SegmentConstants<Real>& c = shared.constants;
  c.adam = adam_constants<Real>(h.flags, s, t);
  c.sgd = sgd_constants<Real>(s, t);
  c.gradient_factor = Real(s[kGradientFactor] / (h.grad_scale ? double(*h.grad_scale) : 1.0));
  c.transfer_beta = Real(s[kTransferBeta]);
  c.one_minus_transfer_beta = Real(1 - s[kTransferBeta]);
  c.correction = Real(t.transfer_correction);
  c.prior_scale = bounded_constant<Real>(scales[kPriorScale]);
  c.curvature_scale = bounded_constant<Real>(scales[kCurvatureScale]);
  c.prior_weight = bounded_constant<Real>(t.prior_weight);
  c.to_anchor = bounded_constant<Real>(t.transfer_to_anchor);
  c.mean_damping = bounded_constant<Real>(t.mean_damping);
  c.hold = h.flags.hold();
  c.fold_decay = Real(s[kFoldDecay]);
  c.fold_weight = Real(s[kFoldWeight]);
  c.prior_penalty = t.prior_penalty;
  c.anchor_penalty = t.anchor_penalty;
}

// This step's range of the histogram and its weight per bin, from what the last step counted.
template <class Real>
__device__ __forceinline__ void set_table(const StepArguments& a, uint32_t tensor, Shared<Real>& shared) {
  const int bin = threadIdx.x;
  const double* row = a.header.statistics + int64_t(a.row(tensor)) * kStatistics;
  for (int i = bin; i < kStatistics; i += kThreads) shared.statistics[i] = row[i];
  __syncthreads();
  shared.below[bin + 1] = block_inclusive_scan(shared.statistics[kHistogram + bin], shared.room);
  if (bin == 0) shared.below[0] = 0;
  __syncthreads();
  if (bin == 0) {
    next_range(shared.statistics, shared.below, shared.next);
    shared.constants.low = float(shared.next[kLow]);
    shared.constants.density = float(shared.next[kDensity]);
  }
  __syncthreads();
  const double rank = bin_rank(shared.statistics, shared.below, shared.next, bin);
  const double* s = shared.settings;
  shared.table[bin] = Real(rank_damping(rank, released(s[kKappa]), s[kMuMin], s[kMuMax]));
  __syncthreads();
}

// Sets everything that the elements of the next segment read. It is not inlined, because the compiler would compute
// what follows from the thread's number before the walk and keep it in registers.
template <class Stored, class Real>
__device__ __noinline__ void begin_segment(const StepArguments& a, Shared<Real>& shared, View<Stored>& view) {
  const uint32_t tensor = shared.tensor;
  if (threadIdx.x == 0) {
    const uint64_t first = a.start(tensor), after = a.start(tensor + 1);
    const uint64_t unit = first > shared.begin ? first : shared.begin, stop = after < shared.end ? after : shared.end;
    const int64_t from = int64_t(unit - first) * kUnit, left = int64_t(a.size(tensor)) - from;
    const int most = int(stop - unit) * kUnit;  // plan.cpp makes sure that a segment has fewer than 2^31 elements
    shared.size = left < most ? int(left) : most;
    shared.group = from / kSampleGroup;
    shared.from = from;
    shared.number = uint32_t(a.header.scales[int64_t(a.row(tensor)) * kScales + kProbeNumber]);
    shared.every = a.size(tensor) <= uint64_t(kSampleAll);
    shared.highest = shared.lowest = 0;
    view.set(a, tensor, from);
  }
  if (!shared.skipped) {
    shared.histogram[threadIdx.x] = 0;
    set_corrections(a, tensor, shared);
    __syncthreads();
    if (threadIdx.x == 0) set_constants(a, tensor, shared);
    __syncthreads();
    if (a.header.flags.ranks_in(a.header.phase)) set_table(a, tensor, shared);
  }
  __syncthreads();
}

// Adds a segment's sums to the block's report and its counts to its tensor's. The last segment of a tensor also makes
// the statistics that the next step reads, which nothing in this step reads any more, and counts the step.
template <class Real>
__device__ void end_segment(const StepArguments& a, uint32_t tensor, Sums& sums, Shared<Real>& shared) {
  const StepHeader& h = a.header;
  TensorScratch& found = h.scratch.tensors[tensor];
  const bool any = a.size(tensor) > 0, ranked = any && h.flags.ranks_in(h.phase),
             summed = any && h.flags.sums_in(h.phase);
  const bool folded = any && h.flags.folds_in(h.phase) && a.address(kCurvature, tensor) && a.address(kPlus, tensor);
  double all[7] = {sums.prior,           sums.to_anchor,         sums.transfer, sums.sum,
                   double(sums.counted), double(sums.nonfinite), sums.curvature};
  block_sum(all, shared.room);
  const SegmentConstants<Real>& c = shared.constants;
  if (threadIdx.x == 0) {
    shared.report.penalties[kPriorPenalty] += c.prior_penalty * all[0];
    shared.report.penalties[kTransferPenalty] +=
        c.anchor_penalty * all[1] + damping_penalty(all[2], shared.settings[kLearningRate]);
    shared.report.nonfinite += all[5];
  }

  if (ranked) {
    if (sums.highest) {
      atomicMax(&shared.highest, sums.highest);
      atomicMax(&shared.lowest, sums.lowest);
    }
    __syncthreads();
    const unsigned count = shared.histogram[threadIdx.x];
    if (count) atomicAdd(&found.histogram[threadIdx.x], count);
    if (threadIdx.x == 0 && shared.highest) {
      atomicMax(&found.highest, shared.highest);
      atomicMax(&found.lowest, shared.lowest);
    }
  }
  const uint32_t slot = segment_slot(blockIdx.x, tensor);
  if ((summed || folded) && threadIdx.x == 0) {
    h.scratch.sums[kSums * slot] = all[3];
    h.scratch.sums[kSums * slot + 1] = all[4];
    h.scratch.sums[kSums * slot + 2] = all[6];
  }

  const Partition& cut = h.partition;
  const uint64_t first = a.start(tensor), end = a.start(tensor + 1);
  if (!is_last(&found.arrived, cut.segments(first, end), &shared.last)) return;
  double* statistics = h.statistics + int64_t(a.row(tensor)) * kStatistics;
  if (ranked) {
    statistics[kHistogram + threadIdx.x] = double(__ldcg(&found.histogram[threadIdx.x]));
    found.histogram[threadIdx.x] = 0;
    if (threadIdx.x == 0) {
      const unsigned highest = __ldcg(&found.highest), lowest = __ldcg(&found.lowest);
      statistics[kSmallest] = highest ? double(rank_key(bits_float(from_above(lowest)))) : 0.0;
      statistics[kLargest] = highest ? double(rank_key(bits_float(highest))) : 0.0;
      statistics[kLow] = shared.next[kLow];
      statistics[kDensity] = shared.next[kDensity];
      found.highest = found.lowest = 0;
    }
  }
  if (summed || folded) {
    const uint32_t begin = segment_slot(cut.block_of(first), tensor);
    double total[kSums] = {0, 0, 0};
    for (uint32_t i = threadIdx.x; i < cut.segments(first, end); i += kThreads) {
      for (int k = 0; k < kSums; ++k) total[k] += __ldcg(&h.scratch.sums[kSums * (begin + i) + k]);
    }
    block_sum(total, shared.room);
    if (threadIdx.x == 0 && summed) statistics[kSum] = total[0], statistics[kCount] = total[1];
    if (threadIdx.x == 0 && folded) statistics[kCurvatureSum] = total[2];
  }
  if (threadIdx.x == 0 && h.phase != Phase::kAfter) h.steps[a.row(tensor)] += 1.0f;
}

// Adds the blocks' reports to the step's. The last block to finish does this. A step that was skipped reports no
// penalties.
template <class Real>
__device__ void end_block(const StepHeader& h, Shared<Real>& shared) {
  if (threadIdx.x == 0) h.scratch.reports[blockIdx.x] = shared.report;
  if (!is_last(h.scratch.arrived, gridDim.x, &shared.last)) return;
  double total[3] = {0, 0, 0};
  for (uint32_t b = threadIdx.x; b < gridDim.x; b += kThreads) {
    const BlockReport& one = h.scratch.reports[b];
    total[0] += __ldcg(&one.penalties[0]);
    total[1] += __ldcg(&one.penalties[1]);
    total[2] += __ldcg(&one.nonfinite);
  }
  block_sum(total, shared.room);
  if (threadIdx.x != 0) return;
  h.report[kNonfinite] += total[2];
  if (shared.skipped) return;
  const bool reset = h.flags.has(kResetPenalties);
  h.report[kPriorPenalty] = (reset ? 0.0 : h.report[kPriorPenalty]) + total[0];
  h.report[kTransferPenalty] = (reset ? 0.0 : h.report[kTransferPenalty]) + total[1];
}

// Counts the gradients that are not finite, which is all that a step does if `found_inf` skips it.
template <class Stored, class Real>
__device__ void count_nonfinite(const Stored* gradient, int size, Shared<Real>& shared) {
  double count[1] = {0};
  for (int at = threadIdx.x; at < size; at += kThreads) count[0] += is_finite(Real(decode(gradient[at]))) ? 0 : 1;
  block_sum(count, shared.room);
  if (threadIdx.x == 0) shared.report.nonfinite += count[0];
}

}  // namespace srft::cuda
