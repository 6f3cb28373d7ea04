// One step over all tensors of a parameter group.
#pragma once

#include <vector>

#include "chunk.h"

namespace srft::cpu {

enum class Phase {
  kFused,
  kBefore,
  kAfter
};  // a fused step; the halves of an unfused one around the inner optimizer's

// Takes the step and adds to `report` (kReport float64 values). Tensors need everything set but low, density, table,
// mean_damping and transfer_to_anchor, which follow from the statistics.
void step(Options options, std::vector<Tensor>& tensors, Phase phase, double* report);

}  // namespace srft::cpu
