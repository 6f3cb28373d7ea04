// The boundary between the operators, compiled once, and the loops, compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../core/constants.h"
#include "../core/contract.h"
#include "../core/dtype.h"
#include "../core/probe.h"

namespace srft::cpu {

// The elements of one task. Partial sums are taken per chunk and added in the order of chunks, so that neither the
// number of threads nor their speed changes a bit of them.
constexpr int64_t kChunk = 32768;

// One tensor of a step. Null pointers mean "not used". State is in the compute type: double for float64, else float.
struct Tensor : TensorConstants {
  int64_t size;
  DType dtype;         // of param, grad, previous, plus and minus
  DType anchor_dtype;  // dtype, or the compute type
  void* param;
  void* grad;      // null in the half after the inner step of an unfused one; written only in the half before it
  void* previous;  // weights before an unfused inner step, which the half before it writes; null: param itself
  void* first_moment;
  void* second_moment;
  void* max_second_moment;
  const void* anchor;
  const void* prior;
  void* transfer;     // null: the second moment
  void* curvature;    // H; |H| is a significance beside P
  const void* plus;   // what a fold adds to H; null: no fold
  const void* minus;  // what is subtracted from that; null: nothing, or the gradient (kFoldGradient)
  void* path;         // the path integral of synaptic intelligence
  double* statistics;
  float* taken;           // steps
  const double* scales;   // kScales numbers
  float low, density;     // this step's histogram
  float table[kBins];     // this step's weight per bin
  double table64[kBins];  // the same for float64 parameters

  double prior_scale() const { return scales[kPriorScale]; }
  double curvature_scale() const { return scales[kCurvatureScale]; }
  uint32_t number() const { return uint32_t(scales[kProbeNumber]); }  // keys the tensor's signs
};

struct Options : Flags {
  double settings[kSettings];
  Phase phase;
  bool damping_active;  // kappa < 1 and a damping chosen
  bool pull_active;     // strength > 0
  bool scale_gradient;
  Draw draw;  // the draw of the product that is folded
};

struct ChunkSums {
  double prior;      // sum of P^ (theta - a)^2, before the step
  double to_anchor;  // sum of T (theta - a)^2, likewise
  double transfer;   // sum of w_t (new theta - theta)^2
  double sum;        // of T
  double curvature;  // sum of |H|, after a fold
  int64_t finite;
  int64_t nonfinite;
};

struct SampledKeys {
  int32_t histogram[kBins + 1];  // the last bin takes elements that do not count
  float smallest, largest;
};

using ChunkFunction = void (*)(const Options&, const Tensor&, int64_t begin, int64_t end, ChunkSums&, SampledKeys&);

struct PenaltyTensor;  // penalty.h
struct ProbeTensor;    // probe.h

// The loops of one instruction set. They add to `sums` and `keys`.
struct Loops {
  const char* name;
  ChunkFunction fused_adam;  // adam_loops.cpp
  ChunkFunction any_step;    // loops.cpp: every other fused step, or the half of an unfused one after the inner step
  ChunkFunction prepare;     // loops.cpp: the half before it
  double (*penalty_value)(const PenaltyTensor&, int64_t begin, int64_t end);  // sum of P (theta - a)^2
  void (*penalty_gradient)(const PenaltyTensor&, int64_t begin, int64_t end, double factor);
  void (*probe_fill)(const ProbeTensor&, const Draw&, int64_t begin, int64_t end);
  void (*probe_perturb)(const ProbeTensor&, const Draw&, int64_t begin, int64_t end, double scale);
  void (*probe_fold)(const ProbeTensor&, const Draw&, int64_t begin, int64_t end, double decay, double weight);
};

namespace baseline {
extern const Loops loops;
}
#if defined(SRFT_X86)
namespace avx2 {
extern const Loops loops;
}
namespace avx512 {
extern const Loops loops;
}
#endif

// Returns the loops of the widest instruction set that this machine has, or those that SRFT_CPU_CAPABILITY (baseline,
// avx2, avx512) names.
__attribute__((visibility("default"))) const Loops& loops();

}  // namespace srft::cpu
