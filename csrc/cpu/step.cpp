// The CPU step, and its only entry: the operator srft::step_group_ has everything that comes with a step checked
// (held_group.h), works out what each tensor's elements share, and gives their chunks to torch's threads.
#include "step.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>

#include "../core/rank.h"
#include "held_group.h"
#include "layouts.h"
#include "numbered.h"

namespace srft::cpu {
namespace {

struct Task {
  int32_t tensor;
  int64_t begin, end;
};

// What one tensor's chunks found together. The keys are present if the step counts them.
struct Keys {
  int64_t histogram[kBins] = {};
  float smallest = std::numeric_limits<float>::infinity();
  float largest = -std::numeric_limits<float>::infinity();
};
struct Gathered {
  std::vector<Keys> keys;
  std::vector<ChunkSums> sums;
};

std::vector<Task> tasks_of(const std::vector<Tensor>& tensors, const std::vector<int32_t>& chosen) {
  std::vector<Task> tasks;
  for (int32_t i : chosen) {
    for (int64_t begin = 0; begin < tensors[i].size; begin += kChunk) {
      tasks.push_back({i, begin, std::min(begin + kChunk, tensors[i].size)});
    }
  }
  return tasks;
}

// The counts of one worker. They are added to its tensor's when the worker goes on to another one. They are integers,
// so the order does not matter.
class KeyCollector {
 public:
  KeyCollector(std::vector<Keys>& found, std::mutex& mutex) : found_(found), mutex_(mutex) { clear(); }
  ~KeyCollector() { flush(); }
  SampledKeys& of(int32_t tensor) {
    if (tensor != tensor_) {
      flush();
      tensor_ = tensor;
    }
    return keys_;
  }

 private:
  void clear() {
    keys_ = {};
    keys_.smallest = std::numeric_limits<float>::infinity();
    keys_.largest = -std::numeric_limits<float>::infinity();
  }
  void flush() {
    if (tensor_ < 0 || found_.empty()) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    Keys& to = found_[tensor_];
    for (int i = 0; i < kBins; ++i) to.histogram[i] += keys_.histogram[i];
    to.smallest = std::min(to.smallest, keys_.smallest);
    to.largest = std::max(to.largest, keys_.largest);
    clear();
  }
  std::vector<Keys>& found_;
  std::mutex& mutex_;
  int32_t tensor_ = -1;
  SampledKeys keys_;
};

// Returns whether a tensor's step can run in the loop of Adam alone, which reads one significance and changes none.
bool is_fused_adam(const Options& o, const Tensor& t) {
  return o.inner() == kAdam && !o.has(kAmsgrad) && o.mode() != kCoupled && !o.has(kTransferToAnchor) && !t.transfer &&
         !t.plus && !t.path && !(t.prior && t.curvature);
}

// Runs the loops over every chunk of the chosen tensors, on torch's threads.
Gathered run(const Loops& kernel, const Options& options, const std::vector<Tensor>& tensors,
             const std::vector<int32_t>& chosen) {
  const std::vector<Task> tasks = tasks_of(tensors, chosen);
  std::vector<ChunkSums> sums(tasks.size());
  const bool counts = options.ranks_in(options.phase);
  Gathered gathered{std::vector<Keys>(counts ? tensors.size() : 0), std::vector<ChunkSums>(tensors.size())};
  std::mutex mutex;
  std::atomic<size_t> next{0};
  const auto work = [&](int64_t, int64_t) {
    KeyCollector keys(gathered.keys, mutex);
    for (size_t i = next++; i < tasks.size(); i = next++) {
      const Task& task = tasks[i];
      const Tensor& tensor = tensors[task.tensor];
      const ChunkFunction over_chunk = options.phase == Phase::kBefore  ? kernel.prepare
                                       : is_fused_adam(options, tensor) ? kernel.fused_adam
                                                                        : kernel.any_step;
      over_chunk(options, tensor, task.begin, task.end, sums[i], keys.of(task.tensor));
    }
  };
  // Waking a thread costs more than the work on many small tensors.
  int64_t elements = 0;
  for (const Task& task : tasks) elements += task.end - task.begin;
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), elements / (kChunk / 2));
  if (threads > 1) {
    torch::stable::parallel_for(0, threads, 1, work);
  } else {
    work(0, 1);
  }
  for (size_t i = 0; i < tasks.size(); ++i) {
    ChunkSums& to = gathered.sums[tasks[i].tensor];
    to.prior += sums[i].prior;
    to.to_anchor += sums[i].to_anchor;
    to.transfer += sums[i].transfer;
    to.sum += sums[i].sum;
    to.curvature += sums[i].curvature;
    to.finite += sums[i].finite;
    to.nonfinite += sums[i].nonfinite;
  }
  return gathered;
}

void keep(const Gathered& gathered, int32_t tensor, bool rank, double* statistics) {
  if (rank) {
    const Keys& keys = gathered.keys[tensor];
    for (int i = 0; i < kBins; ++i) statistics[kHistogram + i] = double(keys.histogram[i]);
    const bool any = keys.smallest <= keys.largest;
    statistics[kSmallest] = any ? keys.smallest : 0.0;
    statistics[kLargest] = any ? keys.largest : 0.0;
  } else {
    statistics[kSum] = gathered.sums[tensor].sum;
    statistics[kCount] = double(gathered.sums[tensor].finite);
  }
}

// This step's range of the histogram and its weight per bin, from what the last step counted.
void set_table(const Options& options, Tensor& t) {
  const double* s = options.settings;
  double below[kBins + 1], next[2];
  cumulate(t.statistics, below);
  next_range(t.statistics, below, next);
  for (int bin = 0; bin < kBins; ++bin) {
    const double rank = bin_rank(t.statistics, below, next, bin);
    t.table64[bin] = rank_damping(rank, released(s[kKappa]), s[kMuMin], s[kMuMax]);
    t.table[bin] = float(t.table64[bin]);
  }
  t.statistics[kLow] = next[kLow];
  t.statistics[kDensity] = next[kDensity];
  t.low = float(next[kLow]);
  t.density = float(next[kDensity]);
}

// What a tensor's elements share in this step. `sum` and `count` are of T over all tensors.
void set_constants(const Options& options, Tensor& t, double sum, double count) {
  const double* s = options.settings;
  const double time = double(*t.taken);
  BiasCorrections corrections = {1, 1, 1};
  if (options.inner() == kAdam) corrections = {1 - std::pow(s[kBeta1], time), 1 - std::pow(s[kBeta2], time), 1};
  if (t.transfer) corrections.transfer = 1 - std::pow(s[kTransferBeta], time);
  const bool global = options.normalize() == kGlobal;
  static_cast<TensorConstants&>(t) =
      tensor_constants(options, s, t.scales, time, corrections, t.transfer != nullptr,
                       global ? sum : t.statistics[kSum], global ? count : t.statistics[kCount]);
}

}  // namespace

void step(Options options, std::vector<Tensor>& tensors, double* report) {
  const Loops& kernel = loops();  // which raises, if it does, before anything is written
  const double* s = options.settings;
  const Phase phase = options.phase;
  options.pull_active = s[kStrength] > 0;
  options.scale_gradient = s[kGradientFactor] != 1.0;
  options.damping_active = options.damps() && released(s[kKappa]) > 0;
  const bool folds = options.folds_in(phase);
  if (folds) {
    const auto half = [&](Setting setting) { return uint64_t(s[setting]); };
    options.draw = {half(kProbeSeedHigh) << 32 | half(kProbeSeedLow), uint32_t(s[kProbeStep])};
  }
  if (options.has(kResetPenalties)) report[kPriorPenalty] = report[kTransferPenalty] = 0;

  std::vector<int32_t> all;
  double sum = 0, count = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    Tensor& t = tensors[i];
    if (phase != Phase::kAfter) *t.taken += 1.0f;
    if (t.size == 0) continue;
    all.push_back(int32_t(i));
    sum += t.statistics[kSum];
    count += t.statistics[kCount];
  }
  for (int32_t i : all) {
    Tensor& t = tensors[size_t(i)];
    if (!folds || !t.curvature) t.plus = nullptr;
    set_constants(options, t, sum, count);
    if (options.ranks_in(phase)) set_table(options, t);
  }

  const Gathered found = run(kernel, options, tensors, all);
  for (int32_t i : all) {
    const Tensor& t = tensors[size_t(i)];
    const ChunkSums& sums = found.sums[size_t(i)];
    if (options.gathers_in(phase)) keep(found, i, options.ranks(), t.statistics);
    if (t.plus) t.statistics[kCurvatureSum] = sums.curvature;
    report[kPriorPenalty] += t.prior_penalty * sums.prior;
    report[kTransferPenalty] += t.anchor_penalty * sums.to_anchor;
    report[kTransferPenalty] += damping_penalty(sums.transfer, s[kLearningRate]);
    report[kNonfinite] += double(sums.nonfinite);
  }
}

}  // namespace srft::cpu

// ---------------------------------------------------------------- the operators

namespace {

using namespace srft::ops;

Numbered<std::shared_ptr<HeldGroup>>& groups() {
  static auto* const all = new Numbered<std::shared_ptr<HeldGroup>>;
  return *all;
}

int64_t hold_group(TensorList params, TensorList first_moments, TensorList second_moments,
                   TensorList max_second_moments, TensorList previous, TensorList anchors, TensorList priors,
                   TensorList transfers, TensorList curvatures, TensorList paths, Tensor steps, Tensor statistics,
                   Tensor scales) {
  auto group = std::make_shared<HeldGroup>(
      params,
      std::array<TensorList, kStates>{std::move(first_moments), std::move(second_moments),
                                      std::move(max_second_moments), std::move(previous), std::move(anchors),
                                      std::move(priors), std::move(transfers), std::move(curvatures), std::move(paths)},
      std::move(steps), std::move(statistics), std::move(scales), torch::headeronly::DeviceType::CPU);
  return groups().keep(std::move(group));
}

void drop_group(int64_t group) { groups().take(group); }

void step_group(int64_t group, int64_t params, int64_t grads, int64_t plus, int64_t minus, std::vector<double> settings,
                Tensor report, int64_t flags, int64_t phase) {
  const TensorList listed[] = {taken_look(params), taken_look(grads), taken_look(plus), taken_look(minus)};
  const auto held = groups().find(group);
  STD_TORCH_CHECK(held.has_value(), "srft: there is no group ", group, ": it was dropped, or never made");
  HeldGroup& one = **held;
  const std::lock_guard<std::mutex> lock(one.mutex);
  const srft::cpu::Options options = one.checked_options(settings, report, flags, phase);
  srft::cpu::step(options, one.checked_tensors(options, listed[0], listed[1], listed[2], listed[3], report),
                  static_cast<double*>(address_of(report)));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(srft, m) {
  m.def(
      "hold_group(Tensor[] params, Tensor[] first_moments, Tensor[] second_moments, Tensor[] max_second_moments, "
      "Tensor[] previous, Tensor[] anchors, Tensor[] priors, Tensor[] transfers, Tensor[] curvatures, Tensor[] paths, "
      "Tensor steps, Tensor statistics, Tensor scales) -> int");
  m.def("drop_group(int group) -> ()");
  m.def(
      "step_group_(int group, int params, int grads, int plus, int minus, float[] settings, Tensor(a!) report, "
      "int flags, int phase) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(srft, CompositeExplicitAutograd, m) {
  m.impl("hold_group", TORCH_BOX(&hold_group));
  m.impl("drop_group", TORCH_BOX(&drop_group));
  m.impl("step_group_", TORCH_BOX(&step_group));
}
