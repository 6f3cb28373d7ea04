// What a step weighs, gathers and ranks: everything that follows from a parameter group's flags.
// srft_kernels/ops/flags.py states the same rules, and a test compares the two for every combination.
#pragma once

#include "contract.h"
#include "host_device.h"

namespace srft {

struct Flags {
  int32_t bits;

  SRFT_MEMBER bool has(int flag) const { return (bits & flag) != 0; }
  SRFT_MEMBER int inner() const { return (bits >> kInnerShift) & 3; }
  SRFT_MEMBER int mode() const { return (bits >> kModeShift) & 3; }
  SRFT_MEMBER int damping() const { return (bits >> kDampingShift) & 3; }
  SRFT_MEMBER int normalize() const { return (bits >> kNormalizeShift) & 3; }
  SRFT_MEMBER bool coupled() const { return mode() == kCoupled; }
  SRFT_MEMBER bool transfer_to_anchor() const { return has(kTransferToAnchor); }
  SRFT_MEMBER bool hold() const { return !has(kPropagateNonfinite); }

  // Whether T damps an element's move away from its present value. Coupled mode has no damping, because the damping
  // term has no gradient at the present value. T does not damp either if it pulls to the anchor.
  SRFT_MEMBER bool damps() const { return damping() != kUndamped && !transfer_to_anchor() && !coupled(); }
  // Whether a step reads T at any kappa, so that statistics of T are kept.
  SRFT_MEMBER bool weighs_transfer() const { return damps() || transfer_to_anchor(); }
  // Whether the statistics of T are histograms, from which ranks follow. Else they are sums, from which means follow.
  SRFT_MEMBER bool ranks() const { return damps() && damping() == kRank; }
  SRFT_MEMBER bool means_globally() const { return weighs_transfer() && !ranks() && normalize() == kGlobal; }

  // The same for a part of a step. The half before the inner step does not damp, because nothing has moved yet. It
  // leaves statistics only if T is in the gradient that this half makes.
  SRFT_MEMBER bool damps_in(Phase phase) const { return damps() && phase != Phase::kBefore; }
  SRFT_MEMBER bool ranks_in(Phase phase) const { return ranks() && phase != Phase::kBefore; }
  SRFT_MEMBER bool gathers_in(Phase phase) const {
    return weighs_transfer() && (phase != Phase::kBefore || (transfer_to_anchor() && coupled()));
  }
  SRFT_MEMBER bool sums_in(Phase phase) const { return gathers_in(phase) && !ranks(); }
  SRFT_MEMBER bool folds_in(Phase phase) const { return has(kFold) && phase == Phase::kFused; }
};

}  // namespace srft
