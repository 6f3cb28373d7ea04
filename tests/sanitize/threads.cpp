// The threaded loops of csrc/cpu under ThreadSanitizer: steps of every kind of statistics, the penalty and the probes
// over tensors of several chunks, by one thread and by four, which have to end on the same bits.
#include <torch/csrc/stable/ops.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/cpu/penalty.h"
#include "../../csrc/cpu/probe.h"
#include "../../csrc/cpu/step.h"

namespace {

using namespace srft;
using Numbers = std::vector<float>;

constexpr int64_t kSizes[] = {5, 40'000, 0, 150'000, 33'000};  // the fourth is sampled

// One set of tensors of those sizes.
struct Lists {
  std::vector<Numbers> lists[8];
  explicit Lists(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> draw(0.0f, 0.1f);
    for (auto& list : lists) {
      for (const int64_t size : kSizes) {
        list.emplace_back(size_t(size));
        for (float& x : list.back()) x = draw(random);
      }
    }
    for (int k : {3, 5, 6}) {  // second moments, priors and transfers are not negative
      for (Numbers& numbers : lists[k]) {
        for (float& x : numbers) x = x * x;
      }
    }
  }
};

struct Result {
  std::vector<Numbers> numbers;
  std::vector<double> sums;
};

// Three steps with these flags. The penalty and the probes follow.
Result run(int flags, uint32_t threads) {
  torch::stable::thread_count = threads;
  Lists data(7);
  const size_t count = std::size(kSizes);
  std::vector<double> statistics(count * kStatistics), scales(count * kScales), report(kReport);
  std::vector<float> taken(count);
  std::vector<cpu::Tensor> tensors(count);
  for (size_t i = 0; i < count; ++i) {
    cpu::Tensor& t = tensors[i];
    t = {};
    t.size = kSizes[i];
    t.dtype = t.anchor_dtype = DType::kFloat32;
    const auto at = [&](int k) -> void* { return data.lists[k][i].empty() ? nullptr : data.lists[k][i].data(); };
    t.param = at(0);
    t.grad = at(1);
    t.first_moment = at(2);
    t.second_moment = at(3);
    t.anchor = at(4);
    t.prior = at(5);
    if ((flags & kTransferToAnchor) != 0) t.transfer = at(6);
    if ((flags & kFold) != 0) {
      t.curvature = at(6);
      t.plus = at(7);
    }
    t.statistics = &statistics[i * kStatistics];
    t.taken = &taken[i];
    t.scales = &scales[i * kScales];
    scales[i * kScales + kPriorScale] = scales[i * kScales + kCurvatureScale] = 1;
    scales[i * kScales + kInverseRms] = 10;
  }
  cpu::Options options{};
  options.bits = flags;
  const double settings[kSettings] = {1e-2, 0.9, 0.99, 1e-8, 0.1, 1, 1, 0.5, 0.25, 0.65, 1, 0.9, 1, 2, 3, 0.9, 0.1};
  std::memcpy(options.settings, settings, sizeof settings);
  options.phase = Phase::kFused;
  for (int step = 0; step < 3; ++step) cpu::step(options, tensors, report.data());

  std::vector<cpu::PenaltyTensor> penalties;
  std::vector<cpu::ProbeTensor> probes;
  for (size_t i = 0; i < count; ++i) {
    const auto at = [&](int k) { return data.lists[k][i].data(); };
    penalties.push_back({kSizes[i], DType::kFloat32, DType::kFloat32, DType::kFloat32, at(0), at(4), at(5), at(1)});
    cpu::ProbeTensor probe{};
    probe.size = kSizes[i];
    probe.number = uint32_t(i);
    probe.target = at(2);
    probe.from = at(0);
    probes.push_back(probe);
  }
  report.push_back(cpu::penalty_sum(penalties));
  cpu::penalty_gradient(penalties, 0.5);
  cpu::fold_probes(probes, {5, 6}, 0.9, 0.1);
  cpu::perturb(probes, {5, 6}, 0.1);
  Result result;
  for (auto& list : data.lists) {
    for (Numbers& numbers : list) result.numbers.push_back(numbers);
  }
  for (const auto* sums : {&statistics, &report}) result.sums.insert(result.sums.end(), sums->begin(), sums->end());
  return result;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace

int main() {
  const int adamw = kAdam << kInnerShift | kDecoupledDecay;
  const int kinds[] = {adamw | kRank << kDampingShift, adamw | kMean << kDampingShift,
                       adamw | kTransferToAnchor | kGlobal << kNormalizeShift,
                       adamw | kRank << kDampingShift | kFold | kFoldGradient,
                       kSgd << kInnerShift | kCoupled << kModeShift};
  for (const int flags : kinds) {
    const Result one = run(flags, 1), four = run(flags, 4);
    bool same = same_bits(one.sums, four.sums) && one.numbers.size() == four.numbers.size();
    for (size_t i = 0; same && i < one.numbers.size(); ++i) same = same_bits(one.numbers[i], four.numbers[i]);
    if (!same) {
      std::fprintf(stderr, "flags %x: four threads end on other bits than one\n", unsigned(flags));
      return 1;
    }
  }
  std::printf("%zu kinds of step, the penalty and the probes by four threads: no race, the same bits\n",
              std::size(kinds));
  return 0;
}
