// A step on a GPU: which tensors go into which launch, with which kernel and which arguments, and the plan as Python
// has it.
#include "plan.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <string>

#include "launch.h"

namespace srft::cuda {
namespace {

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16};

size_t words_needed(size_t tensors, int columns) {
  // Each tensor has its addresses and its size. First units, of which there is one more than tensors, and rows are two
  // in a word.
  return tensors * size_t(columns) + tensors + (tensors + 2) / 2 + (tensors + 1) / 2;
}

void set_half(uint64_t* words, size_t i, uint32_t value) {
  uint64_t& word = words[i / 2];
  word = i % 2 ? (word & 0xffffffffu) | uint64_t(value) << 32 : (word & ~uint64_t(0xffffffffu)) | value;
}

bool is_aligned(uintptr_t address) { return address % 16 == 0; }

// Returns whether a launch has words for a column. Those that come with every step always have.
bool is_there(const PlanTensors& tensors, Column column) {
  if (column == kParam || column == kGrad) return true;
  return tensors.has(column == kPlus || column == kMinus ? kCurvature : column);
}

}  // namespace

size_t StepPlan::capacity(int columns) {
  size_t tensors = size_t(kWords) / size_t(columns + 2);
  while (words_needed(tensors, columns) > size_t(kWords)) --tensors;
  return tensors;
}

size_t StepPlan::scratch_bytes(size_t tensors) {
  return tensors * sizeof(TensorScratch) + kMostBlocks * sizeof(BlockReport) +
         kSums * (kMostBlocks + tensors) * sizeof(double) + sizeof(double);
}

StepPlan::StepPlan(const PlanTensors& tensors, int device, void* scratch)
    : count_(tensors.count()),
      device_(device),
      has_maximum_(tensors.has(kMaximum)),
      has_transfer_(tensors.has(kTransfer)),
      has_path_(tensors.has(kPath)),
      mixes_(false) {
  for (size_t i = 0; i < count_; ++i) mixes_ = mixes_ || (tensors.at(kPrior, i) && tensors.at(kCurvature, i));
  int columns = 0;
  for (int c = 0; c < kColumns; ++c) columns += is_there(tensors, Column(c)) ? 1 : 0;
  const size_t most = capacity(columns);
  for (DType dtype : kDTypes) {
    for (uint32_t i = 0; i < count_; ++i) {
      if (tensors.dtypes[i] != dtype) continue;
      if (launches_.empty() || launches_.back().dtype != dtype || launches_.back().members.size() == most) {
        launches_.push_back({dtype, {}, 0, std::make_unique<StepArguments>()});
      }
      launches_.back().members.push_back(i);
    }
  }
  // All launches of a step run one after the other, so they share the blocks' reports. Each has its own tensors'
  // counters.
  auto* each = static_cast<TensorScratch*>(scratch);
  auto* reports = reinterpret_cast<BlockReport*>(each + count_);
  auto* sums = reinterpret_cast<double*>(reports + kMostBlocks);
  auto* arrived = reinterpret_cast<unsigned*>(sums + kSums * (kMostBlocks + count_));
  for (Launch& launch : launches_) {
    StepHeader& h = launch.arguments->header;
    h.scratch = {each, reports, sums, arrived};
    each += launch.members.size();
    h.steps = tensors.steps;
    h.statistics = tensors.statistics;
    h.scales = tensors.scales;
    pack(tensors, launch);
  }
}

void StepPlan::pack(const PlanTensors& tensors, Launch& launch) const {
  StepArguments& a = *launch.arguments;
  const size_t n = launch.members.size();
  a.header.tensors = uint32_t(n);
  uint16_t next = 0;
  for (int c = 0; c < kColumns; ++c) {
    a.header.column[c] = kNoColumn;
    if (!is_there(tensors, Column(c))) continue;
    a.header.column[c] = next;
    for (size_t k = 0; k < n; ++k) {
      a.words[next + k] = reinterpret_cast<uintptr_t>(tensors.at(Column(c), launch.members[k]));
    }
    next = uint16_t(next + n);
  }
  a.header.sizes = next;
  a.header.starts = uint16_t(next + n);
  a.header.rows = uint16_t(a.header.starts + (n + 2) / 2);
  launch.units = 0;
  for (size_t k = 0; k < n; ++k) {
    const uint32_t i = launch.members[k];
    const uint64_t size = uint64_t(tensors.sizes[i]);
    const bool wide = tensors.anchor_dtypes[i] != launch.dtype;
    uint64_t aligned = 0;  // a missing address counts as aligned
    for (int c = 0; c < kColumns; ++c) {
      const bool is = c < kFirst || is_aligned(reinterpret_cast<uintptr_t>(tensors.at(Column(c), i)));
      aligned |= uint64_t(is) << (kAlignedShift + c);
    }
    a.words[a.header.sizes + k] = size | aligned | (wide ? kWideAnchor : 0);
    set_half(a.words + a.header.starts, k, uint32_t(launch.units));
    set_half(a.words + a.header.rows, k, i);
    launch.units += units_of(size);
  }
  if (launch.units >= uint64_t(1) << 32) throw std::invalid_argument("srft: a group has more than 8e12 elements");
  set_half(a.words + a.header.starts, n, uint32_t(launch.units));
}

void StepPlan::point(Launch& launch, const Moving& moving) const {
  StepArguments& a = *launch.arguments;
  const Addresses* lists[] = {&moving.params, &moving.grads, &moving.plus, &moving.minus};
  uint64_t* size = a.words + a.header.sizes;
  for (size_t k = 0; k < launch.members.size(); ++k) {
    const uint32_t i = launch.members[k];
    for (int c = kParam; c <= kMinus; ++c) {
      if (a.header.column[c] == kNoColumn) continue;
      const uintptr_t address = lists[c]->count == 0 ? 0 : uintptr_t(lists[c]->first[i]);
      a.words[a.header.column[c] + k] = address;
      const uint64_t bit = uint64_t(1) << (kAlignedShift + c);
      size[k] = is_aligned(address) ? size[k] | bit : size[k] & ~bit;
    }
  }
}

uint32_t StepPlan::resident(DType dtype, StepKernel kernel) {
  uint32_t& known = resident_[int(dtype)][int(kernel)];
  if (known) return known;
  switch (dtype) {
    case DType::kFloat32: return known = resident_step_blocks<float>(kernel);
    case DType::kFloat64: return known = resident_step_blocks<double>(kernel);
    case DType::kBFloat16: return known = resident_step_blocks<BFloat16>(kernel);
    default: return known = resident_step_blocks<Half>(kernel);
  }
}

void StepPlan::step(const Moving& moving, const StepCall& call) {
  const auto fits = [&](const Addresses& list, bool may_be_empty) {
    return list.count == count_ || (list.count == 0 && may_be_empty);
  };
  if (!fits(moving.params, false) || !fits(moving.grads, call.phase == Phase::kAfter) || !fits(moving.plus, true) ||
      !fits(moving.minus, true)) {
    throw std::invalid_argument("srft: the plan was made for " + std::to_string(count_) + " parameters, got " +
                                std::to_string(moving.params.count) + ", " + std::to_string(moving.grads.count) +
                                " gradients and " + std::to_string(moving.plus.count) + " products");
  }
  const OnDevice guard(device_);
  bool reset = (call.flags & kResetPenalties) != 0;
  for (Launch& launch : launches_) {
    StepHeader& h = launch.arguments->header;
    std::copy(call.settings.begin(), call.settings.end(), h.settings);
    h.device_settings = call.device_settings;
    h.means = call.means;
    h.found_inf = call.found_inf;
    h.grad_scale = call.grad_scale;
    h.report = call.report;
    h.flags = {reset ? call.flags : call.flags & ~kResetPenalties};
    h.phase = call.phase;
    reset = false;  // the launches after the first add
    point(launch, moving);

    const Flags& f = h.flags;
    const bool adamw = f.inner() == kAdam && f.has(kDecoupledDecay) && f.mode() == kProximal &&
                       !f.transfer_to_anchor() && !has_maximum_ && !has_transfer_ && !has_path_ && !mixes_ &&
                       !f.folds_in(h.phase) && f.damping() != kMean;
    const StepKernel kernel = call.phase == Phase::kBefore ? StepKernel::kPrepare
                              : !adamw                     ? StepKernel::kAnyStep
                              : f.ranks_in(h.phase)        ? StepKernel::kFusedAdamRanked
                                                           : StepKernel::kFusedAdam;
    // A segment has fewer than 2^31 elements on any grid that a device with so much memory runs.
    h.partition = {launch.units, uint32_t(std::min<uint64_t>(launch.units, resident(launch.dtype, kernel)))};
    switch (launch.dtype) {
      case DType::kFloat32: launch_step<float>(kernel, *launch.arguments, call.stream); break;
      case DType::kFloat64: launch_step<double>(kernel, *launch.arguments, call.stream); break;
      case DType::kBFloat16: launch_step<BFloat16>(kernel, *launch.arguments, call.stream); break;
      case DType::kFloat16: launch_step<Half>(kernel, *launch.arguments, call.stream); break;
    }
  }
}

// ---------------------------------------------------------------- the plan for Python

namespace {

namespace py = pybind11;

StepPlan make_plan(std::vector<int64_t> sizes, const std::vector<int>& dtypes, const std::vector<int>& anchor_dtypes,
                   const std::map<std::string, std::vector<uintptr_t>>& columns, uintptr_t steps, uintptr_t statistics,
                   uintptr_t scales, int device, uintptr_t scratch) {
  const PlanTensors tensors(std::move(sizes), dtypes, anchor_dtypes, columns, steps, statistics, scales);
  return StepPlan(tensors, device, pointer<void>(scratch));
}

// A list of addresses in the host's memory: where it begins, and its length.
using List = std::pair<uintptr_t, size_t>;

void step(StepPlan& plan, List params, List grads, List plus, List minus, const std::array<double, kSettings>& settings,
          uintptr_t device_settings, uintptr_t means, uintptr_t found_inf, uintptr_t grad_scale, uintptr_t report,
          int flags, int phase, uintptr_t stream) {
  const auto list = [](const List& of) { return StepPlan::Addresses{pointer<const int64_t>(of.first), of.second}; };
  plan.step({list(params), list(grads), list(plus), list(minus)},
            {settings, pointer<const double>(device_settings), pointer<const double>(means),
             pointer<const float>(found_inf), pointer<const float>(grad_scale), pointer<double>(report), flags,
             static_cast<Phase>(phase), reinterpret_cast<cudaStream_t>(stream)});
}

}  // namespace

void bind_step_plan(py::module_& m) {
  m.def("capacity", &StepPlan::capacity, py::arg("columns"),
        "Tensors that one launch takes, if each has so many addresses.");
  m.def("scratch_bytes", &StepPlan::scratch_bytes, py::arg("tensors"));
  // The class is local to this module, because the tests load the same code, compiled for the host, beside it.
  py::class_<StepPlan>(m, "Plan", py::module_local(), "A parameter group's tensors on a device, cut into launches.")
      .def(py::init(&make_plan), py::kw_only(), py::arg("sizes"), py::arg("dtypes"), py::arg("anchor_dtypes"),
           py::arg("columns"), py::arg("steps"), py::arg("statistics"), py::arg("scales"), py::arg("device"),
           py::arg("scratch"))
      .def_property_readonly("launches", &StepPlan::launches)
      .def_property_readonly("tensors_by_launch", &StepPlan::tensors_by_launch)
      .def("step", &step, py::arg("params"), py::arg("grads"), py::arg("plus"), py::arg("minus"), py::arg("settings"),
           py::arg("device_settings"), py::arg("means"), py::arg("found_inf"), py::arg("grad_scale"), py::arg("report"),
           py::arg("flags"), py::arg("phase"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace srft::cuda
