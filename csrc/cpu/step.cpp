#include "step.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>

#include "../core/rank.h"

namespace srft::cpu {
namespace {

struct Task {
  int32_t tensor;
  int64_t begin, end;
};

// What one tensor's chunks found together. The keys are there where the step counts them.
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

// Counts of one worker, added to its tensor's when the worker goes on to another: integers, so the order does not
// matter.
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

// Runs `function` over every chunk of the chosen tensors, on torch's threads.
Gathered run(const Options& options, const std::vector<Tensor>& tensors, const std::vector<int32_t>& chosen,
             ChunkFunction function) {
  const std::vector<Task> tasks = tasks_of(tensors, chosen);
  std::vector<ChunkSums> sums(tasks.size());
  const bool counts = options.statistics_active && options.damping() == kRank && !options.has(kTransferToAnchor);
  Gathered gathered{std::vector<Keys>(counts ? tensors.size() : 0), std::vector<ChunkSums>(tensors.size())};
  std::mutex mutex;
  std::atomic<size_t> next{0};
  const auto work = [&](int64_t, int64_t) {
    KeyCollector keys(gathered.keys, mutex);
    for (size_t i = next++; i < tasks.size(); i = next++) {
      const Task& task = tasks[i];
      function(options, tensors[task.tensor], task.begin, task.end, sums[i], keys.of(task.tensor));
    }
  };
  // Many small tensors are not worth waking a thread for.
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

bool has_statistics(const Tensor& tensor, bool rank) {
  const double* s = tensor.statistics;
  if (!rank) return s[kCount] > 0;
  return std::any_of(s + kHistogram, s + kStatistics, [](double count) { return count > 0; });
}

void use_range(Tensor& tensor) {
  tensor.low = float(tensor.statistics[kLow]);
  tensor.density = float(tensor.statistics[kDensity]);
}

// Statistics for the tensors that have none: of T as this step will leave it. First the extent, then a histogram over
// it, then one over its middle 99 %.
void preview(const Options& options, std::vector<Tensor>& tensors, const Loops& loops, bool rank) {
  std::vector<int32_t> fresh;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].size > 0 && !has_statistics(tensors[i], rank)) fresh.push_back(int32_t(i));
  }
  if (fresh.empty()) return;
  if (rank) {
    for (int32_t i : fresh) set_range(tensors[i].statistics, 0.0, 256.0), use_range(tensors[i]);
    const Gathered extent = run(options, tensors, fresh, loops.preview);
    for (int32_t i : fresh) {
      double* s = tensors[i].statistics;
      keep(extent, i, rank, s);
      set_range(s, s[kSmallest], s[kLargest] + kNarrowestBin);
      use_range(tensors[i]);
    }
    const Gathered coarse = run(options, tensors, fresh, loops.preview);
    for (int32_t i : fresh) {
      double* s = tensors[i].statistics;
      keep(coarse, i, rank, s);
      double below[kBins + 1], next[2];
      cumulate(s, below);
      next_range(s, below, next);
      s[kLow] = next[kLow];
      s[kDensity] = next[kDensity];
      use_range(tensors[i]);
    }
  }
  const Gathered found = run(options, tensors, fresh, loops.preview);
  for (int32_t i : fresh) keep(found, i, rank, tensors[i].statistics);
}

// What a tensor's elements share in this step.
void set_constants(const Options& options, Tensor& t, Phase phase) {
  const double* s = options.settings;
  const bool coupled = options.mode() == kCoupled;
  if (phase != Phase::kAfter) *t.taken += 1.0f;
  const double time = double(*t.taken);
  if (options.inner() == kAdam) {
    t.negative_step_size = -s[kLearningRate] / (1 - std::pow(s[kBeta1], time));
    t.correction2_root = std::sqrt(1 - std::pow(s[kBeta2], time));
  }
  t.one_minus_dampening = time <= 1 ? 1.0 : 1 - s[kBeta2];
  t.transfer_correction = 1 / (1 - std::pow(s[t.transfer ? kTransferBeta : kBeta2], time));

  // DESIGN section 2: w_p = lr lambda kappa P^ / rho; coupled: lambda kappa P^.
  const double unit = coupled ? s[kStrength] : s[kLearningRate] * s[kStrength] * t.inverse_rms;
  t.prior_weight_per_unit = unit;
  t.prior_weight = unit * s[kKappa];
  t.prior_penalty = s[kStrength] * s[kKappa] * (coupled ? 1.0 : t.inverse_rms);
  t.transfer_penalty = coupled ? 1.0 : (s[kLearningRate] > 0 ? 1 / s[kLearningRate] : 0.0);
  t.mean_damping = t.transfer_to_anchor = 0;
}

}  // namespace

void step(Options options, std::vector<Tensor>& tensors, Phase phase, double* report) {
  const Loops& kernel = loops();
  const double* s = options.settings;
  const double release = 1 - s[kKappa];  // how much of the transfer's hold is in force
  const bool to_anchor = options.has(kTransferToAnchor);
  options.pull_active = s[kStrength] > 0;
  options.scale_gradient = s[kGradientFactor] != 1.0;
  const bool folds = options.has(kFold) && phase == Phase::kFused;
  if (folds) {
    const auto half = [&](Setting setting) { return uint64_t(s[setting]); };
    options.draw = {half(kProbeSeedHigh) << 32 | half(kProbeSeedLow), uint32_t(s[kProbeStep])};
  }
  const bool damped = options.damping() != kUndamped && !to_anchor && options.mode() != kCoupled;
  options.damping_active = damped && release > 0;
  // Whatever kappa is now: under a moving schedule the next step may need them.
  options.statistics_active = damped || to_anchor;
  const bool rank = damped && options.damping() == kRank;
  if (options.has(kResetPenalties)) report[kPriorPenalty] = report[kTransferPenalty] = 0;
  // The half before the inner step reads the last step's statistics only; those of this step belong to the half after
  // it, or, where T pulls to the anchor by a gradient, to this half.
  const bool gathers =
      options.statistics_active && (phase != Phase::kBefore || (to_anchor && options.mode() == kCoupled));

  std::vector<int32_t> all;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].size > 0) all.push_back(int32_t(i));
    if (!folds || !tensors[i].curvature) tensors[i].plus = nullptr;
    set_constants(options, tensors[i], phase);
  }
  if (options.statistics_active) {
    preview(options, tensors, kernel, rank);
    double sum = 0, count = 0;
    for (int32_t i : all) sum += tensors[i].statistics[kSum], count += tensors[i].statistics[kCount];
    for (int32_t i : all) {
      Tensor& t = tensors[i];
      if (rank && phase == Phase::kBefore) continue;  // the damping belongs to the half after the inner step
      if (rank) {
        double below[kBins + 1], next[2];
        cumulate(t.statistics, below);
        next_range(t.statistics, below, next);
        for (int bin = 0; bin < kBins; ++bin) {
          const double rank_of_bin = bin_rank(t.statistics, below, next, bin);
          t.table64[bin] = rank_damping(rank_of_bin, release, s[kMuMin], s[kMuMax]);
          t.table[bin] = float(t.table64[bin]);
        }
        t.statistics[kLow] = next[kLow];
        t.statistics[kDensity] = next[kDensity];
        use_range(t);
        continue;
      }
      const double mean = options.normalize() == kGlobal ? sum / count : t.statistics[kSum] / t.statistics[kCount];
      const double per_mean = options.normalize() == kAbsolute && to_anchor ? 1.0 : (mean > 0 ? 1 / mean : 0.0);
      t.mean_damping = release * s[kTau] * per_mean;
      t.transfer_to_anchor = to_anchor ? t.prior_weight_per_unit * release * per_mean : 0.0;
    }
  }

  const Gathered found = run(options, tensors, all, phase == Phase::kBefore ? kernel.prepare : kernel.process);
  const double lr = s[kLearningRate];
  for (int32_t i : all) {
    const Tensor& t = tensors[i];
    if (gathers) keep(found, i, rank, t.statistics);
    if (t.plus) t.statistics[kCurvatureSum] = found.sums[i].curvature;
    const ChunkSums& sums = found.sums[i];
    report[kPriorPenalty] += 0.5 * t.prior_penalty * sums.prior;
    report[kTransferPenalty] += 0.5 * t.transfer_penalty * t.transfer_to_anchor * sums.to_anchor;
    report[kTransferPenalty] += lr > 0 ? 0.5 * sums.transfer / lr : 0.0;
    report[kNonfinite] += double(sums.nonfinite);
  }
}

}  // namespace srft::cpu
