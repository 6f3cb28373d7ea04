// Probes over lists of tensors: the boundary between their operators and their loops.
#pragma once

#include <vector>

#include "../core/probe.h"
#include "chunk.h"

namespace srft::cpu {

// One dense tensor, and what is read for it. Unused pointers are null.
struct ProbeTensor {
  int64_t size;
  uint32_t number;  // the one that its signs are drawn with
  DType dtype;      // of `target`
  DType from_dtype;
  DType minus_dtype;
  void* target;
  const void* from;   // originals of `perturb`, `plus` of `fold`
  const void* minus;  // null: zero
};

// target = z
void fill_probes(const std::vector<ProbeTensor>& tensors, const Draw& draw);

// target = from + scale z, in the arithmetic of the target
void perturb(const std::vector<ProbeTensor>& tensors, const Draw& draw, double scale);

// target = decay target + weight z (from - minus); targets are float32 or float64
void fold_probes(const std::vector<ProbeTensor>& tensors, const Draw& draw, double decay, double weight);

}  // namespace srft::cpu
