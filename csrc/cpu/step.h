// One step over all tensors of a parameter group.
#pragma once

#include <vector>

#include "chunk.h"

namespace srft::cpu {

// Takes the step and adds to `report` (kReport float64 values). Of the tensors everything from `size` to `scales` is to
// be set, of the options the flags, the settings and the phase.
void step(Options options, std::vector<Tensor>& tensors, double* report);

}  // namespace srft::cpu
