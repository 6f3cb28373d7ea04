// The significance penalty over a list of tensors: the boundary between its operators and its loops.
#pragma once

#include <vector>

#include "chunk.h"

namespace srft::cpu {

// One tensor of the penalty, contiguous. The compute type is double if `param` is float64, else float.
struct PenaltyTensor {
  int64_t size;
  DType dtype;  // of param and gradient
  DType anchor_dtype;
  DType significance_dtype;
  const void* param;
  const void* anchor;
  const void* significance;
  void* gradient;  // written; null if only the value is computed
};

// Returns the sum of P (theta - a)^2 over all tensors. Elements are in the compute type, sums are in double and in a
// fixed order.
double penalty_sum(const std::vector<PenaltyTensor>& tensors);

// Sets gradient = factor P (theta - a).
void penalty_gradient(const std::vector<PenaltyTensor>& tensors, double factor);

}  // namespace srft::cpu
