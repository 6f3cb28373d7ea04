// What was built, and the numbers that C++ and Python must agree on, for srft_kernels.ops.native and the tests.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <vector>

#include "core/contract.h"
#include "core/rank.h"
#include "cpu/step.h"
#include "plan_tensors.h"

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

// A group's tensors, kept from step to step.
class CpuPlan {
 public:
  explicit CpuPlan(const srft::PlanTensors& from) : tensors_(from.count()) {
    using namespace srft;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      cpu::Tensor& t = tensors_[i];
      t.size = from.sizes[i];
      t.dtype = from.dtypes[i];
      t.anchor_dtype = from.anchor_dtypes[i];
      t.previous = from.at(kPrevious, i);
      t.first_moment = from.at(kFirst, i);
      t.second_moment = from.at(kSecond, i);
      t.max_second_moment = from.at(kMaximum, i);
      t.anchor = from.at(kAnchor, i);
      t.prior = from.at(kPrior, i);
      t.transfer = from.at(kTransfer, i);
      t.statistics = from.statistics + i * kStatistics;
      t.taken = from.steps + i;
      t.curvature = from.at(kCurvature, i);
      t.path = from.at(kPath, i);
    }
    scales_ = from.scales;
  }

  void step(const std::vector<uintptr_t>& params, const std::vector<uintptr_t>& grads,
            const std::vector<uintptr_t>& plus, const std::vector<uintptr_t>& minus,
            const std::array<double, srft::kSettings>& settings, uintptr_t report, int flags, int phase) {
    using namespace srft;
    if (params.size() != tensors_.size()) throw wrong_number();
    for (const auto* list : {&grads, &plus, &minus}) {
      if (!list->empty() && list->size() != tensors_.size()) throw wrong_number();
    }
    const auto at = [](const std::vector<uintptr_t>& list, size_t i) {
      return reinterpret_cast<const void*>(list.empty() ? 0 : list[i]);
    };
    for (size_t i = 0; i < tensors_.size(); ++i) {
      cpu::Tensor& t = tensors_[i];
      t.param = reinterpret_cast<void*>(params[i]);
      t.grad = at(grads, i);
      t.plus = at(plus, i);
      t.minus = at(minus, i);
      if (t.size > 0 && (!t.param || (!t.grad && !grads.empty()))) throw without_memory(i);
      cpu::set_scales(t, scales_ + i * kScales);  // which may have changed since the last step
    }
    cpu::Options options{};
    options.flags = flags;
    std::copy(settings.begin(), settings.end(), options.settings);
    cpu::step(options, tensors_, static_cast<Phase>(phase), reinterpret_cast<double*>(report));
  }

 private:
  static std::invalid_argument without_memory(size_t i) {
    return std::invalid_argument("srft: parameter " + std::to_string(i) +
                                 " of the group, or its gradient, has no memory: it was freed since the step before");
  }
  std::invalid_argument wrong_number() const {
    return std::invalid_argument("srft: the plan was made for " + std::to_string(tensors_.size()) + " parameters");
  }
  std::vector<srft::cpu::Tensor> tensors_;
  const double* scales_;
};

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
  py::class_<CpuPlan>(m, "Plan",
                      "A parameter group's tensors on the CPU, kept from step to step. Addresses are integers.")
      .def(
          py::init([](std::vector<int64_t> sizes, const std::vector<int>& dtypes, const std::vector<int>& anchor_dtypes,
                      const std::map<std::string, std::vector<uintptr_t>>& columns, uintptr_t steps,
                      uintptr_t statistics, uintptr_t scales) {
            return CpuPlan({std::move(sizes), dtypes, anchor_dtypes, columns, steps, statistics, scales});
          }),
          py::kw_only(), py::arg("sizes"), py::arg("dtypes"), py::arg("anchor_dtypes"), py::arg("columns"),
          py::arg("steps"), py::arg("statistics"), py::arg("scales"))
      .def("step", &CpuPlan::step, py::arg("params"), py::arg("grads"), py::arg("plus"), py::arg("minus"),
           py::arg("settings"), py::arg("report"), py::arg("flags"), py::arg("phase"),
           py::call_guard<py::gil_scoped_release>());
}
