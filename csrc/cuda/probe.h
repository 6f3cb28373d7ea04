// Probes over any number of tensors, which are written out, added to weights or folded into an estimate.
#pragma once

#include <vector>

#include "../core/probe.h"
#include "arguments.h"

namespace srft::cuda {

// One dense tensor, and what is read for it. Addresses are on the device, 0 if nothing is read.
struct ProbeTensor {
  int64_t size;
  uint32_t number;  // the one that its signs are drawn with
  DType dtype, from_dtype;
  uintptr_t target;
  uintptr_t from;   // originals of `perturb`, `plus` of `fold`
  uintptr_t minus;  // of from's dtype; 0: zero
};

// target = z
void fill_probes(const std::vector<ProbeTensor>& tensors, const Draw& draw, int device, cudaStream_t stream);

// target = from + scale z; `from` has the dtype of the target or of its arithmetic
void perturb(const std::vector<ProbeTensor>& tensors, const Draw& draw, double scale, int device, cudaStream_t stream);

// target = decay target + weight z (from - minus); the target has the dtype of from's arithmetic
void fold_probes(const std::vector<ProbeTensor>& tensors, const Draw& draw, double decay, double weight, int device,
                 cudaStream_t stream);

}  // namespace srft::cuda
