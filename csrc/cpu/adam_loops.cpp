// A fused step of Adam or AdamW over one chunk of one tensor, with the pull and the damping by its second moment in one
// loop. Most people run these configurations. The file is compiled once per instruction set, like loops.cpp.
//
// loops.cpp has this step and all others in stages over a block. One loop keeps the divider, the table lookups and the
// memory busy at the same time.
#include "../core/element.h"
#include "block.h"
#include "chunk.h"
#include "rank_block.h"

namespace srft::cpu::SRFT_ISA {
namespace {

// How the damping of an element follows from its T.
enum class DampingKind { kNone, kByRank, kByMean };

// The numbers that stay the same over a chunk.
template <class Real>
struct PassConstants {
  AdamConstants<Real> adam;
  Real prior_weight, correction, mean_damping;
  const Real* table;
  float low, density;
  bool hold;  // an element whose gradient is not finite stays as it is
};

// One block of every tensor that a pass reads and writes. `prior_term` and `transfer_term` are what each element adds
// to the sums of the penalty.
template <class Real>
struct PassBlock {
  const Real *weight, *gradient, *anchor, *prior;
  Real *first, *second, *out, *prior_term, *transfer_term;
};

// The memory that a chunk is read from, and the distance between its elements.
struct Stream {
  const char* base;
  int bytes;
};
constexpr int kStreams = 6;  // parameter, gradient, two moments; then anchor and prior if there is a pull

// The hardware prefetches within a page of 4 KB. This many elements ahead, software fetches the next page's translation
// and first lines, which saves a tenth of the step.
constexpr int kStrip = 32;
constexpr int kAhead = 512;

SRFT_CORE void prefetch(const Stream* streams, int count, int64_t element) {
  for (int k = 0; k < count; ++k) {
    const char* from = streams[k].base + (element + kAhead) * streams[k].bytes;
    for (int line = 0; line < kStrip * streams[k].bytes; line += 64) __builtin_prefetch(from + line, 0, 3);
  }
}

// Takes the step over a block. Returns how many of its gradients were finite.
template <bool kDecoupledWeightDecay, bool kPull, DampingKind kDamping, bool kExact, class Real>
int adam_pass(int n, const PassBlock<Real>& block, const PassConstants<Real>& constants, const Stream* streams,
              int64_t offset) {
  constexpr bool kDamp = kDamping != DampingKind::kNone;
  const PassBlock<Real> s = block;
  const PassConstants<Real> c = constants;
  const int32_t propagate = constants.hold ? 0 : 1;  // not a bool, because g++ finds no vector mask for a captured one
  int32_t finite = 0;
  const auto element = [&](int i) __attribute__((always_inline)) {
    const Real g = s.gradient[i], current = s.weight[i];
    const bool usable = is_finite(g);
    const bool moves = usable || propagate != 0;
    finite += usable ? 1 : 0;

    Real m = s.first[i], v = s.second[i], unused = Real(0), x = current;
    AdamQuotient<Real> step = {current, Real(0), Real(1)};
    if ((kPull || kDamp) && kExact) step = adam_quotient<kDecoupledWeightDecay>(current, g, m, v, c.adam);
    else x = adam<kDecoupledWeightDecay, false>(current, g, m, v, unused, c.adam);
    s.first[i] = m = moves ? m : s.first[i];
    s.second[i] = v = moves ? v : s.second[i];

    const Real a = kPull ? s.anchor[i] : Real(0);
    Real anchor_weight = 0, current_weight = 0;
    if (kPull) {
      const Real distance = current - a;
      const Real significance = absolute(s.prior[i]);  // the absolute value matters if H is the prior
      s.prior_term[i] = significance * distance * distance;
      anchor_weight = bounded_weight(c.prior_weight * significance);
    }
    if (kDamping == DampingKind::kByRank) current_weight = c.table[rank_bin(float(v * c.correction), c.low, c.density)];
    if (kDamping == DampingKind::kByMean)
      current_weight = bounded_weight(c.mean_damping * sized_transfer(v, c.correction));
    if (kPull || kDamp) {
      x = kExact ? proximal_quotient(step.start, step.numerator, step.denominator, current, a, anchor_weight,
                                     current_weight)
                 : decoupled(x, current, a, anchor_weight, current_weight);
    }
    x = moves ? x : current;
    s.out[i] = x;
    if (kDamp) {
      const Real moved = x - current;
      s.transfer_term[i] = current_weight * moved * moved;
    }
  };
  const int whole = n - n % kStrip;
  for (int start = 0; start < whole; start += kStrip) {
    prefetch(streams, kPull ? kStreams : kStreams - 2, offset + start);
    SRFT_VECTORIZE
    for (int i = 0; i < kStrip; ++i) element(start + i);
  }
  SRFT_VECTORIZE
  for (int i = whole; i < n; ++i) element(i);
  return finite;
}

template <class Real>
using AdamPass = int (*)(int, const PassBlock<Real>&, const PassConstants<Real>&, const Stream*, int64_t);

template <bool kDecoupledWeightDecay, bool kPull, DampingKind kDamping, class Real>
AdamPass<Real> chosen_pass(bool exact) {
  return exact ? adam_pass<kDecoupledWeightDecay, kPull, kDamping, true, Real>
               : adam_pass<kDecoupledWeightDecay, kPull, kDamping, false, Real>;
}

template <bool kDecoupledWeightDecay, bool kPull, class Real>
AdamPass<Real> chosen_pass(DampingKind damping, bool exact) {
  if (damping == DampingKind::kByRank)
    return chosen_pass<kDecoupledWeightDecay, kPull, DampingKind::kByRank, Real>(exact);
  if (damping == DampingKind::kByMean)
    return chosen_pass<kDecoupledWeightDecay, kPull, DampingKind::kByMean, Real>(exact);
  return chosen_pass<kDecoupledWeightDecay, kPull, DampingKind::kNone, Real>(exact);
}

template <class Real>
AdamPass<Real> chosen_pass(bool decoupled_decay, bool pull, DampingKind damping, bool exact) {
  if (decoupled_decay) {
    return pull ? chosen_pass<true, true, Real>(damping, exact) : chosen_pass<true, false, Real>(damping, exact);
  }
  return pull ? chosen_pass<false, true, Real>(damping, exact) : chosen_pass<false, false, Real>(damping, exact);
}

// Buffers for the conversion of what is not stored as Real, and for the terms of the sums.
template <class Real>
struct PassBuffers {
  alignas(64) Real weight[kBlock];
  alignas(64) Real gradient[kBlock];
  alignas(64) Real anchor[kBlock];
  alignas(64) Real result[kBlock];
  alignas(64) Real prior_term[kBlock];
  alignas(64) Real transfer_term[kBlock];
};

template <class Real>
void fused_adam(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums, SampledKeys& keys) {
  PassBuffers<Real> b;
  const bool in_place = t.dtype == Native<Real>::dtype;
  const void* significance = t.prior ? t.prior : t.curvature;
  const double scale = t.prior ? t.prior_scale() : t.curvature_scale();
  const bool pull = o.pull_active && t.anchor && significance;
  const DampingKind damping =
      !o.damping_active ? DampingKind::kNone : (o.damping() == kRank ? DampingKind::kByRank : DampingKind::kByMean);
  const PassConstants<Real> constants = {adam_constants<Real>(o, o.settings, t),
                                         bounded_constant<Real>(t.prior_weight * scale),
                                         Real(t.transfer_correction),
                                         bounded_constant<Real>(t.mean_damping),
                                         damping_of<Real>(t),
                                         t.low,
                                         t.density,
                                         !o.has(kPropagateNonfinite)};
  const AdamPass<Real> pass = chosen_pass<Real>(o.has(kDecoupledDecay), pull, damping, o.mode() == kProximal);
  const int width = bytes_of(t.dtype), state = int(sizeof(Real));
  const Stream streams[kStreams] = {{static_cast<const char*>(t.param), width},
                                    {static_cast<const char*>(t.grad), width},
                                    {static_cast<const char*>(t.first_moment), state},
                                    {static_cast<const char*>(t.second_moment), state},
                                    {static_cast<const char*>(t.anchor), bytes_of(t.anchor_dtype)},
                                    {static_cast<const char*>(significance), state}};
  LaneSum<double> prior_sum, transfer_sum, mean_sum;

  for (int64_t offset = begin; offset < end; offset += kBlock) {
    const int n = int(end - offset < kBlock ? end - offset : kBlock);
    PassBlock<Real> s = {};
    s.weight = load<Real>(t.param, t.dtype, offset, n, b.weight);
    s.gradient = task_gradient<Real>(o, t, offset, n, b.gradient);
    if (pull) {
      s.anchor = load<Real>(t.anchor, t.anchor_dtype, offset, n, b.anchor);
      s.prior = static_cast<const Real*>(significance) + offset;
    }
    s.first = static_cast<Real*>(t.first_moment) + offset;
    s.second = static_cast<Real*>(t.second_moment) + offset;
    s.out = in_place ? static_cast<Real*>(t.param) + offset : b.result;
    s.prior_term = b.prior_term;
    s.transfer_term = b.transfer_term;
    const int finite = pass(n, s, constants, streams, offset);
    sums.finite += finite;
    sums.nonfinite += n - finite;
    if (pull) prior_sum.add(b.prior_term, n);
    if (damping != DampingKind::kNone) transfer_sum.add(b.transfer_term, n);
    const Real* judged = constants.hold && finite != n ? s.gradient : nullptr;
    if (o.ranks()) sample_average(t, offset, n, s.second, constants.correction, judged, keys);
    if (o.damps() && o.damping() == kMean) {
      sized_transfers(n, s.second, constants.correction, b.transfer_term);
      if (judged) {
        for (int i = 0; i < n; ++i) b.transfer_term[i] = is_finite(judged[i]) ? b.transfer_term[i] : Real(0);
      }
      mean_sum.add(b.transfer_term, n);
    }
    if (!in_place) store(b.result, t.param, t.dtype, offset, n);
  }
  sums.prior += scale * prior_sum.total();
  sums.transfer += transfer_sum.total();
  sums.sum += mean_sum.total();
}

}  // namespace

void fused_adam_chunk(const Options& o, const Tensor& t, int64_t begin, int64_t end, ChunkSums& sums,
                      SampledKeys& keys) {
  t.dtype == DType::kFloat64 ? fused_adam<double>(o, t, begin, end, sums, keys)
                             : fused_adam<float>(o, t, begin, end, sums, keys);
}

}  // namespace srft::cpu::SRFT_ISA
