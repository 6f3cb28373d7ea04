// What was built, and the numbers that C++ and Python must agree on, for srft_kernels.ops.native and the tests.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "core/contract.h"
#include "core/flags.h"
#include "core/rank.h"
#include "cpu/chunk.h"

namespace py = pybind11;

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
      {"PROBE_SEED_LOW", kProbeSeedLow},
      {"PROBE_SEED_HIGH", kProbeSeedHigh},
      {"PROBE_STEP", kProbeStep},
      {"FOLD_DECAY", kFoldDecay},
      {"FOLD_WEIGHT", kFoldWeight},
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
      {"RESET_PENALTIES", kResetPenalties},
      {"COUNT_SKIPPED", kCountSkipped},
      {"FOLD", kFold},
      {"FOLD_GRADIENT", kFoldGradient},
      {"PRIOR_SCALE", kPriorScale},
      {"INVERSE_RMS", kInverseRms},
      {"CURVATURE_SCALE", kCurvatureScale},
      {"PROBE_NUMBER", kProbeNumber},
      {"SCALES", kScales},
      {"LOW", kLow},
      {"DENSITY", kDensity},
      {"SMALLEST", kSmallest},
      {"LARGEST", kLargest},
      {"SUM", kSum},
      {"COUNT", kCount},
      {"CURVATURE_SUM", kCurvatureSum},
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

// Returns everything that follows from a step's flags, for the test that compares it with srft_kernels/ops/flags.py.
std::map<std::string, bool> rules(int flags, int phase) {
  const srft::Flags f{flags};
  const auto p = static_cast<srft::Phase>(phase);
  return {{"coupled", f.coupled()},
          {"damps", f.damps()},
          {"weighs_transfer", f.weighs_transfer()},
          {"ranks", f.ranks()},
          {"means_globally", f.means_globally()},
          {"damps_in", f.damps_in(p)},
          {"gathers_in", f.gathers_in(p)},
          {"folds_in", f.folds_in(p)}};
}

// Returns which objects an optimizer's state holds: the addresses of every parameter's dictionary, and of its keys and
// values.
py::bytes identities(const py::dict& state) {
  std::string all;
  const auto add = [&](PyObject* object) { all.append(reinterpret_cast<const char*>(&object), sizeof object); };
  PyObject *param = nullptr, *own = nullptr, *name = nullptr, *value = nullptr;
  Py_ssize_t outer = 0;
  while (PyDict_Next(state.ptr(), &outer, &param, &own)) {
    add(own);
    if (!PyDict_Check(own)) continue;
    Py_ssize_t inner = 0;
    while (PyDict_Next(own, &inner, &name, &value)) add(name), add(value);
  }
  return py::bytes(all);
}

}  // namespace

PYBIND11_MODULE(_build, m) {
  m.doc() = "How srft_kernels' native library was built.";
  m.attr("version") = SRFT_VERSION;
  m.attr("torch") = SRFT_TORCH;
  m.attr("compiler") = SRFT_COMPILER;
  m.attr("without_cuda") = SRFT_WITHOUT_CUDA;
  m.attr("instruction_sets") = instruction_sets();
  m.attr("contract") = contract();
  m.def(
      "capability", [] { return std::string(srft::cpu::loops().name); },
      "The instruction set that the CPU kernels use here; SRFT_CPU_CAPABILITY overrides it.");
  m.def("identities", &identities, py::arg("state"), "Which objects an optimizer's state holds, to compare.");
  m.def("rules", &rules, py::arg("flags"), py::arg("phase"), "What follows from a step's flags, by name.");
}
