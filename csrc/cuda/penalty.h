// The significance penalty over any number of tensors: its value and its gradient.
#pragma once

#include <vector>

#include "arguments.h"

namespace srft::cuda {

// A tensor of the penalty. Addresses are on the device. The gradient has the parameter's dtype.
struct PenaltyTensor {
  int64_t size;
  DType dtype, anchor_dtype, significance_dtype;
  uintptr_t param, anchor, significance, gradient;
};

size_t penalty_scratch_bytes();
size_t penalty_zeroed_bytes();  // how many of the first of these must be zero

// Sets *value = strength / 2 sum P (theta - a)^2, as float64 or float32. `scratch` begins with zeros.
void penalty_value(const std::vector<PenaltyTensor>& tensors, const double* strength, void* value, bool wide,
                   void* scratch, int device, cudaStream_t stream);

// Sets gradient = *factor P (theta - a).
void penalty_gradient(const std::vector<PenaltyTensor>& tensors, const double* factor, int device, cudaStream_t stream);

}  // namespace srft::cuda
