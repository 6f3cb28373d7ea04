// One step over all tensors of a parameter group.
#pragma once

#include <vector>

#include "chunk.h"

namespace srft::cpu {

// Takes the step and adds to `report` (kReport float64 values). The caller sets everything from `size` to `scales` in
// the tensors, and the flags, the settings and the phase in the options.
void step(Options options, std::vector<Tensor>& tensors, double* report);

}  // namespace srft::cpu
