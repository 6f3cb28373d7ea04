// One step over all tensors of a parameter group.
#pragma once

#include <vector>

#include "chunk.h"

namespace srft::cpu {

// A tensor's row of `scales`.
inline void set_scales(Tensor& t, const double* scales) {
  t.prior_scale = scales[kPriorScale];
  t.inverse_rms = scales[kInverseRms];
  t.curvature_scale = scales[kCurvatureScale];
  t.number = uint32_t(scales[kProbeNumber]);
}

// Takes the step and adds to `report` (kReport float64 values). Of the tensors everything above the constants of a step
// is to be set, of the options the flags and the settings.
__attribute__((visibility("default"))) void step(Options options, std::vector<Tensor>& tensors, Phase phase,
                                                 double* report);

}  // namespace srft::cpu
