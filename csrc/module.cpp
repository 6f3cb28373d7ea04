// What was built, and the numbers that C++ and Python must agree on, for srft_kernels.ops.native and the tests.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "core/contract.h"
#include "core/rank.h"
#include "cpu/chunk.h"

namespace {

std::vector<std::string> instruction_sets() {
#if defined(SRFT_X86)
  return {"baseline", "avx2", "avx512"};
#else
  return {"baseline"};
#endif
}

std::map<std::string, long> contract() {
  using namespace srft;
  return {
      {"LEARNING_RATE", kLearningRate},
      {"BETA1", kBeta1},
      {"BETA2", kBeta2},
      {"EPSILON", kEpsilon},
      {"WEIGHT_DECAY", kWeightDecay},
      {"GRADIENT_FACTOR", kGradientFactor},
      {"STRENGTH", kStrength},
      {"KAPPA", kKappa},
      {"MU_MIN", kMuMin},
      {"MU_MAX", kMuMax},
      {"TAU", kTau},
      {"TRANSFER_BETA", kTransferBeta},
      {"SETTINGS", kSettings},
      {"NONE", kNone},
      {"ADAM", kAdam},
      {"SGD", kSgd},
      {"PROXIMAL", kProximal},
      {"DECOUPLED", kDecoupled},
      {"COUPLED", kCoupled},
      {"UNDAMPED", kUndamped},
      {"RANK", kRank},
      {"MEAN", kMean},
      {"PER_TENSOR", kTensor},
      {"GLOBAL", kGlobal},
      {"ABSOLUTE", kAbsolute},
      {"INNER_SHIFT", kInnerShift},
      {"MODE_SHIFT", kModeShift},
      {"DAMPING_SHIFT", kDampingShift},
      {"NORMALIZE_SHIFT", kNormalizeShift},
      {"DECOUPLED_DECAY", kDecoupledDecay},
      {"AMSGRAD", kAmsgrad},
      {"NESTEROV", kNesterov},
      {"TRANSFER_TO_ANCHOR", kTransferToAnchor},
      {"PROPAGATE_NONFINITE", kPropagateNonfinite},
      {"LOW", kLow},
      {"DENSITY", kDensity},
      {"SMALLEST", kSmallest},
      {"LARGEST", kLargest},
      {"SUM", kSum},
      {"COUNT", kCount},
      {"BINS", kBins},
      {"HISTOGRAM", kHistogram},
      {"STATISTICS", kStatistics},
      {"PRIOR_PENALTY", kPriorPenalty},
      {"TRANSFER_PENALTY", kTransferPenalty},
      {"NONFINITE", kNonfinite},
      {"REPORT", kReport},
      {"SAMPLE_ALL", kSampleAll},
      {"SAMPLE_BLOCK", kSampleBlock},
      {"SAMPLE_GROUP", kSampleGroup},
  };
}

}  // namespace

PYBIND11_MODULE(_build, m) {
  m.doc() = "How srft_kernels' native library was built.";
  m.attr("version") = SRFT_VERSION;
  m.attr("torch") = SRFT_TORCH;
  m.attr("compiler") = SRFT_COMPILER;
  m.attr("instruction_sets") = instruction_sets();
  m.attr("contract") = contract();
  m.def(
      "capability", [] { return std::string(srft::cpu::loops().name); },
      "The instruction set that the CPU kernels use here; SRFT_CPU_CAPABILITY overrides it.");
}
