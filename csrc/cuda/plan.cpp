// A step on a GPU and its only entry. The operator srft_cuda::step_group_ has everything that comes with a step
// checked, as the CPU's does and by the same code (../cpu/held_group.h). A plan decides which tensors go into which
// launch, with which kernel and which arguments.
#include "plan.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <optional>

#include "../cpu/held_group.h"
#include "../cpu/layouts.h"
#include "../cpu/numbered.h"
#include "launch.h"
#include "torch_device.h"

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

std::vector<std::vector<uint32_t>> StepPlan::cut(const std::vector<int64_t>& sizes, const std::vector<DType>& dtypes,
                                                 int columns) {
  const size_t most = capacity(columns);
  std::vector<std::vector<uint32_t>> launches;
  for (DType dtype : kDTypes) {
    uint64_t units = 0;
    bool open = false;
    for (uint32_t i = 0; i < sizes.size(); ++i) {
      if (dtypes[i] != dtype) continue;
      if (!open || launches.back().size() == most) {
        launches.emplace_back();
        units = 0;
        open = true;
      }
      launches.back().push_back(i);
      units += units_of(uint64_t(sizes[i]));
      if (units >= uint64_t(1) << 32) throw std::invalid_argument("srft: a group has more than 8e12 elements");
    }
  }
  return launches;
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
  for (std::vector<uint32_t>& members : cut(tensors.sizes, tensors.dtypes, columns)) {
    const DType dtype = tensors.dtypes[members.front()];
    launches_.push_back({dtype, std::move(members), 0, std::make_unique<StepArguments>()});
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
  set_half(a.words + a.header.starts, n, uint32_t(launch.units));
}

void StepPlan::point(Launch& launch, const Moving& moving) const {
  StepArguments& a = *launch.arguments;
  const std::vector<const void*>* lists[] = {&moving.params, &moving.grads, &moving.plus, &moving.minus};
  uint64_t* size = a.words + a.header.sizes;
  for (size_t k = 0; k < launch.members.size(); ++k) {
    const uint32_t i = launch.members[k];
    for (int c = kParam; c <= kMinus; ++c) {
      if (a.header.column[c] == kNoColumn) continue;
      const uintptr_t address = lists[c]->empty() ? 0 : reinterpret_cast<uintptr_t>((*lists[c])[i]);
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

}  // namespace srft::cuda

// ---------------------------------------------------------------- the operators

namespace {

using namespace srft;
using namespace srft::ops;
using cuda::current_stream;
using cuda::device_of;
using cuda::kHere;
using MaybeTensor = std::optional<Tensor>;

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

}  // namespace

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
}
SRFT_LIBRARY_IMPL(SRFT_CUDA_OPERATORS, CompositeExplicitAutograd, m) {
  m.impl("hold_group", TORCH_BOX(&hold_group));
  m.impl("drop_group", TORCH_BOX(&drop_group));
  m.impl("launches_of_group", TORCH_BOX(&launches_of_group));
  m.impl("step_group_", TORCH_BOX(&step_group));
}
