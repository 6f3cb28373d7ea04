// The operators that are the only entry to the CUDA kernels. They check the tensors that they are given, for every
// caller, as those of the CPU do and by the same code (../cpu/held_group.h, checked_lists.h). Of torch they need only
// the stable ABI, and its CUDA library only for the stream, if it is loaded.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <dlfcn.h>

#include <array>
#include <memory>
#include <mutex>
#include <optional>

#include "../cpu/checked_lists.h"
#include "../cpu/held_group.h"
#include "../cpu/layouts.h"
#include "../cpu/numbered.h"
#include "launch.h"
#include "penalty.h"
#include "plan.h"
#include "probe.h"

namespace {

using namespace srft;
using namespace srft::ops;
using MaybeTensor = std::optional<Tensor>;

#if defined(SRFT_CUDA_ON_HOST)
constexpr DeviceType kHere = DeviceType::CPU;
cudaStream_t current_stream(int) { return nullptr; }
#else
constexpr DeviceType kHere = DeviceType::CUDA;

// Returns torch's current stream on a device. No caller passes it, because an address could not be checked.
cudaStream_t current_stream(int device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = [] {
    void* const torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return torch_cuda ? reinterpret_cast<Get>(dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(get, "srft: this torch has no CUDA streams: the CUDA kernels need a torch that was built with CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get(device, &stream));
  return static_cast<cudaStream_t>(stream);
}
#endif

int device_of(const Tensor& tensor) {
  const int32_t index = Metadata(tensor).device_index;
  return index < 0 ? 0 : index;
}

// ---------------------------------------------------------------- the step

constexpr Column kColumnOf[kStates] = {srft::kFirst, srft::kSecond,   srft::kMaximum,   srft::kPrevious, srft::kAnchor,
                                       srft::kPrior, srft::kTransfer, srft::kCurvature, srft::kPath};

class Group {
 public:
  Group(const TensorList& params, std::array<TensorList, kStates> state, Tensor steps, Tensor statistics, Tensor scales)
      : held_(params, std::move(state), steps, std::move(statistics), std::move(scales), kHere),
        device_(device_of(steps)),
        scratch_(torch::stable::new_zeros(steps, {int64_t(cuda::StepPlan::scratch_bytes(params.size()))},
                                          ScalarType::Byte)) {
    plan();
  }

  void step(const std::array<TensorList, 4>& lists, const std::vector<double>& settings,
            const MaybeTensor& device_settings, const MaybeTensor& means, const MaybeTensor& found_inf,
            const MaybeTensor& grad_scale, const Tensor& report, int64_t flags, int64_t phase) {
    const std::lock_guard<std::mutex> lock(held_.mutex);
    const cpu::Options options = held_.checked_options(settings, report, flags, phase);
    const auto numbers = [&](const MaybeTensor& t, ScalarType dtype, int64_t count, const char* what) -> const void* {
      if (!t) return nullptr;
      held_.check_numbers(*t, dtype, count, what);
      return address_of(*t);
    };
    cuda::StepCall call{};
    std::copy(settings.begin(), settings.end(), call.settings.begin());
    call.device_settings =
        static_cast<const double*>(numbers(device_settings, ScalarType::Double, kSettings, "the settings in memory"));
    call.means = static_cast<const double*>(numbers(means, ScalarType::Double, 2, "sum and count of T"));
    call.found_inf = static_cast<const float*>(numbers(found_inf, ScalarType::Float, 1, "found_inf"));
    call.grad_scale = static_cast<const float*>(numbers(grad_scale, ScalarType::Float, 1, "grad_scale"));
    STD_TORCH_CHECK((call.means != nullptr) == options.means_globally(),
                    "srft: sum and count of T over all tensors are wanted by normalize=\"global\" and by no other");
    const std::vector<cpu::Tensor>& tensors =
        held_.checked_tensors(options, lists[0], lists[1], lists[2], lists[3], report);
    if (held_.moves() != moves_) plan();
    moving_.params.clear(), moving_.grads.clear(), moving_.plus.clear(), moving_.minus.clear();
    for (const cpu::Tensor& t : tensors) {
      moving_.params.push_back(t.param);
      moving_.grads.push_back(t.grad);
      moving_.plus.push_back(t.plus);
      moving_.minus.push_back(t.minus);
    }
    call.report = static_cast<double*>(address_of(report));
    call.flags = int(flags);
    call.phase = options.phase;
    call.stream = current_stream(device_);
    plan_->step(moving_, call);
  }

  int64_t launches() const { return int64_t(plan_->launches()); }

 private:
  // Makes the plan anew from where the state lies.
  void plan() {
    PlanTensors t{};
    const size_t n = held_.count();
    for (size_t i = 0; i < n; ++i) {
      t.sizes.push_back(held_.form(i).size);
      t.dtypes.push_back(held_.form(i).kind);
      t.anchor_dtypes.push_back(held_.anchor_dtype(i));
    }
    for (int k = 0; k < kStates; ++k) {
      std::vector<void*>& column = t.columns[kColumnOf[k]];
      for (size_t i = 0; held_.has(k) && i < n; ++i) column.push_back(held_.state(k, i));
    }
    t.steps = static_cast<float*>(held_.steps());
    t.statistics = static_cast<double*>(held_.statistics());
    t.scales = static_cast<const double*>(held_.scales());
    plan_.emplace(t, device_, address_of(scratch_));
    moves_ = held_.moves();
  }

  HeldGroup held_;
  int device_;
  Tensor scratch_;
  std::optional<cuda::StepPlan> plan_;
  int64_t moves_ = -1;
  cuda::StepPlan::Moving moving_;
};

Numbered<std::shared_ptr<Group>>& groups() {
  static auto* const all = new Numbered<std::shared_ptr<Group>>;
  return *all;
}

std::shared_ptr<Group> group_of(int64_t number) {
  const auto found = groups().find(number);
  STD_TORCH_CHECK(found.has_value(), "srft: there is no group ", number, ": it was dropped, or never made");
  return *found;
}

int64_t hold_group(TensorList params, TensorList first_moments, TensorList second_moments,
                   TensorList max_second_moments, TensorList previous, TensorList anchors, TensorList priors,
                   TensorList transfers, TensorList curvatures, TensorList paths, Tensor steps, Tensor statistics,
                   Tensor scales) {
  return groups().keep(std::make_shared<Group>(
      params,
      std::array<TensorList, kStates>{std::move(first_moments), std::move(second_moments),
                                      std::move(max_second_moments), std::move(previous), std::move(anchors),
                                      std::move(priors), std::move(transfers), std::move(curvatures), std::move(paths)},
      std::move(steps), std::move(statistics), std::move(scales)));
}

void drop_group(int64_t group) { groups().take(group); }

int64_t launches_of_group(int64_t group) { return group_of(group)->launches(); }

void step_group(int64_t group, int64_t params, int64_t grads, int64_t plus, int64_t minus, std::vector<double> settings,
                MaybeTensor device_settings, MaybeTensor means, MaybeTensor found_inf, MaybeTensor grad_scale,
                Tensor report, int64_t flags, int64_t phase) {
  const std::array<TensorList, 4> lists = {taken_look(params), taken_look(grads), taken_look(plus), taken_look(minus)};
  group_of(group)->step(lists, settings, device_settings, means, found_inf, grad_scale, report, flags, phase);
}

// ---------------------------------------------------------------- the penalty

// Returns where the number lies by which a penalty is multiplied.
const double* checked_number(const Tensor& tensor, const TensorList& params, const char* what) {
  const Metadata m(tensor);
  STD_TORCH_CHECK(m.device_type == int32_t(kHere) && m.dims == 0 && m.dtype == int32_t(ScalarType::Double) &&
                      has_memory(tensor, m, 8) && (params.empty() || m.same_device(Metadata(params[0]))),
                  "significance_penalty: ", what, " must be one float64 number where the parameters are");
  return static_cast<const double*>(address_of(tensor));
}

std::vector<cuda::PenaltyTensor> on_device(const PenaltyLists& lists) {
  std::vector<cuda::PenaltyTensor> tensors;
  for (const cpu::PenaltyTensor& t : lists.tensors) {
    const auto place = [](const void* at) { return reinterpret_cast<uintptr_t>(at); };
    tensors.push_back({t.size, t.dtype, t.anchor_dtype, t.significance_dtype, place(t.param), place(t.anchor),
                       place(t.significance), place(t.gradient)});
  }
  return tensors;
}

Tensor significance_penalty(TensorList params, TensorList anchors, TensorList significance, Tensor strength) {
  const PenaltyLists lists(kHere, params, anchors, significance);
  const double* factor = checked_number(strength, params, "the strength");
  bool wide = false;
  for (const Tensor& p : params) wide = wide || p.scalar_type() == ScalarType::Double;
  Tensor value = torch::stable::new_empty(strength, {}, wide ? ScalarType::Double : ScalarType::Float);
  Tensor scratch = torch::stable::new_empty(strength, {int64_t(cuda::penalty_scratch_bytes())}, ScalarType::Byte);
  Tensor zeroed = torch::stable::narrow(scratch, 0, 0, int64_t(cuda::penalty_zeroed_bytes()));
  torch::stable::zero_(zeroed);
  const int device = device_of(strength);
  cuda::penalty_value(on_device(lists), factor, address_of(value), wide, address_of(scratch), device,
                      current_stream(device));
  return value;
}

TensorList significance_penalty_backward(TensorList params, TensorList anchors, TensorList significance,
                                         Tensor factor) {
  PenaltyLists lists(kHere, params, anchors, significance);
  const double* number = checked_number(factor, params, "the factor");
  TensorList gradients;
  for (size_t i = 0; i < params.size(); ++i) {
    gradients.push_back(torch::stable::new_empty(params[i], params[i].sizes(), lists.kept[3 * i].scalar_type()));
    lists.tensors[i].gradient = address_of(gradients.back());
  }
  const int device = device_of(factor);
  cuda::penalty_gradient(on_device(lists), number, device, current_stream(device));
  for (size_t i = 0; i < params.size(); ++i) {
    const ScalarType dtype = params[i].scalar_type();
    if (gradients[i].scalar_type() != dtype) gradients[i] = torch::stable::to(gradients[i], dtype);
  }
  return gradients;
}

// ---------------------------------------------------------------- probes

std::vector<cuda::ProbeTensor> on_device(const ProbeLists& lists, const char* what) {
  std::vector<cuda::ProbeTensor> tensors;
  for (size_t i = 0; i < lists.tensors.size(); ++i) {
    const cpu::ProbeTensor& t = lists.tensors[i];
    STD_TORCH_CHECK(!t.minus || t.minus_dtype == t.from_dtype, what, " needs plus and minus of one dtype, at position ",
                    i);
    const auto place = [](const void* at) { return reinterpret_cast<uintptr_t>(at); };
    tensors.push_back(
        {t.size, t.number, t.dtype, t.from ? t.from_dtype : t.dtype, place(t.target), place(t.from), place(t.minus)});
  }
  return tensors;
}

void fill_probes(TensorList out, int64_t seed, int64_t step, std::vector<int64_t> tensors) {
  const char* what = "fill_probes_";
  const ProbeLists lists(kHere, what, {{"out", out}}, seed, step, tensors);
  if (out.empty()) return;
  const int device = device_of(out[0]);
  cuda::fill_probes(on_device(lists, what), lists.draw, device, current_stream(device));
}

void perturb(TensorList params, TensorList originals, double scale, int64_t seed, int64_t step,
             std::vector<int64_t> tensors) {
  const char* what = "perturb_";
  const ProbeLists lists(kHere, what, {{"params", params}, {"originals", originals}}, seed, step, tensors);
  if (params.empty()) return;
  const int device = device_of(params[0]);
  cuda::perturb(on_device(lists, what), lists.draw, scale, device, current_stream(device));
}

void fold_probes(TensorList estimates, TensorList plus, TensorList minus, double decay, double weight, int64_t seed,
                 int64_t step, std::vector<int64_t> tensors) {
  const char* what = "fold_probes_";
  const ProbeLists lists =
      minus.empty()
          ? ProbeLists(kHere, what, {{"estimates", estimates}, {"plus", plus}}, seed, step, tensors)
          : ProbeLists(kHere, what, {{"estimates", estimates}, {"plus", plus}, {"minus", minus}}, seed, step, tensors);
  if (estimates.empty()) return;
  const int device = device_of(estimates[0]);
  cuda::fold_probes(on_device(lists, what), lists.draw, decay, weight, device, current_stream(device));
}

}  // namespace

// The operators' namespace is a name of this library alone, because the tests load the same code, compiled for the
// host, beside it.
#define SRFT_LIBRARY(name, m) STABLE_TORCH_LIBRARY(name, m)
#define SRFT_LIBRARY_IMPL(name, key, m) STABLE_TORCH_LIBRARY_IMPL(name, key, m)
SRFT_LIBRARY(SRFT_CUDA_OPERATORS, m) {
  m.def(
      "hold_group(Tensor[] params, Tensor[] first_moments, Tensor[] second_moments, Tensor[] max_second_moments, "
      "Tensor[] previous, Tensor[] anchors, Tensor[] priors, Tensor[] transfers, Tensor[] curvatures, Tensor[] paths, "
      "Tensor steps, Tensor statistics, Tensor scales) -> int");
  m.def("drop_group(int group) -> ()");
  m.def("launches_of_group(int group) -> int");
  m.def(
      "step_group_(int group, int params, int grads, int plus, int minus, float[] settings, Tensor? device_settings, "
      "Tensor? means, Tensor? found_inf, Tensor? grad_scale, Tensor(a!) report, int flags, int phase) -> ()");
  m.def("significance_penalty(Tensor[] params, Tensor[] anchors, Tensor[] significance, Tensor strength) -> Tensor");
  m.def(
      "significance_penalty_backward(Tensor[] params, Tensor[] anchors, Tensor[] significance, Tensor factor) -> "
      "Tensor[]");
  m.def("fill_probes_(Tensor(a!)[] out, int seed, int step, int[] tensors) -> ()");
  m.def("perturb_(Tensor(a!)[] params, Tensor[] originals, float scale, int seed, int step, int[] tensors) -> ()");
  m.def(
      "fold_probes_(Tensor(a!)[] estimates, Tensor[] plus, Tensor[] minus, float decay, float weight, int seed, "
      "int step, int[] tensors) -> ()");
}
SRFT_LIBRARY_IMPL(SRFT_CUDA_OPERATORS, CompositeExplicitAutograd, m) {
  m.impl("hold_group", TORCH_BOX(&hold_group));
  m.impl("drop_group", TORCH_BOX(&drop_group));
  m.impl("launches_of_group", TORCH_BOX(&launches_of_group));
  m.impl("step_group_", TORCH_BOX(&step_group));
  m.impl("significance_penalty", TORCH_BOX(&significance_penalty));
  m.impl("significance_penalty_backward", TORCH_BOX(&significance_penalty_backward));
  m.impl("fill_probes_", TORCH_BOX(&fill_probes));
  m.impl("perturb_", TORCH_BOX(&perturb));
  m.impl("fold_probes_", TORCH_BOX(&fold_probes));
}
