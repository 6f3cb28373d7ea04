// The significance penalty over any number of tensors: its value, and its gradient.
#pragma once

#include <vector>

#include "arguments.h"

namespace srft::cuda {

// A tensor of the penalty; addresses are of the device. The gradient has the parameter's dtype.
struct PenaltyTensor {
  int64_t size;
  DType dtype, anchor_dtype, significance_dtype;
  uintptr_t param, anchor, significance, gradient;
};

size_t penalty_scratch_bytes();
size_t penalty_zeroed_bytes();  // of these, the first that must be zero

// *value = strength / 2 sum P (theta - a)^2, as float64 or float32. `scratch` begins with zeros.
void penalty_value(const std::vector<PenaltyTensor>& tensors, const double* strength, void* value, bool wide,
                   void* scratch, int device, cudaStream_t stream);

// gradient = *factor P (theta - a).
void penalty_gradient(const std::vector<PenaltyTensor>& tensors, const double* factor, int device, cudaStream_t stream);

}  // namespace srft::cuda
