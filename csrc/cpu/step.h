// One step over all tensors of a parameter group.
#pragma once

#include <vector>

#include "chunk.h"

namespace srft::cpu {

// Takes the step and adds to `report` (kReport float64 values). Of the tensors everything above the constants of a step
// is to be set, of the options the flags and the settings.
__attribute__((visibility("default"))) void step(Options options, std::vector<Tensor>& tensors, Phase phase,
                                                 double* report);

}  // namespace srft::cpu
