// Probes on the CPU: the operators' lists of tensors as plain pointers, after a check that they belong together.
#include <torch/csrc/stable/library.h>

#include "checked_lists.h"
#include "over_chunks.h"
#include "probe.h"

namespace srft::cpu {

void fill_probes(const std::vector<ProbeTensor>& tensors, const Draw& draw) {
  const Loops& kernel = loops();
  over_chunks(tensors, Chunks(tensors), [&](int64_t, const ProbeTensor& t, int64_t begin, int64_t end) {
    kernel.probe_fill(t, draw, begin, end);
  });
}

void perturb(const std::vector<ProbeTensor>& tensors, const Draw& draw, double scale) {
  const Loops& kernel = loops();
  over_chunks(tensors, Chunks(tensors), [&](int64_t, const ProbeTensor& t, int64_t begin, int64_t end) {
    kernel.probe_perturb(t, draw, begin, end, scale);
  });
}

void fold_probes(const std::vector<ProbeTensor>& tensors, const Draw& draw, double decay, double weight) {
  const Loops& kernel = loops();
  over_chunks(tensors, Chunks(tensors), [&](int64_t, const ProbeTensor& t, int64_t begin, int64_t end) {
    kernel.probe_fold(t, draw, begin, end, decay, weight);
  });
}

}  // namespace srft::cpu

namespace {

using namespace srft::ops;

constexpr DeviceType kHere = DeviceType::CPU;

void fill_probes(TensorList out, int64_t seed, int64_t step, std::vector<int64_t> tensors) {
  const ProbeLists lists(kHere, "fill_probes_", {{"out", out}}, seed, step, tensors);
  srft::cpu::fill_probes(lists.tensors, lists.draw);
}

void perturb(TensorList params, TensorList originals, double scale, int64_t seed, int64_t step,
             std::vector<int64_t> tensors) {
  const ProbeLists lists(kHere, "perturb_", {{"params", params}, {"originals", originals}}, seed, step, tensors);
  srft::cpu::perturb(lists.tensors, lists.draw, scale);
}

void fold_probes(TensorList estimates, TensorList plus, TensorList minus, double decay, double weight, int64_t seed,
                 int64_t step, std::vector<int64_t> tensors) {
  const char* what = "fold_probes_";
  const ProbeLists lists = fold_lists(kHere, what, estimates, plus, minus, seed, step, tensors);
  for (size_t i = 0; i < lists.tensors.size(); ++i) {
    const bool wide = lists.tensors[i].from_dtype == srft::DType::kFloat64;
    STD_TORCH_CHECK(lists.tensors[i].dtype == (wide ? srft::DType::kFloat64 : srft::DType::kFloat32), what,
                    " needs estimates of float64 for a float64 plus and of float32 for every other, at position ", i);
  }
  srft::cpu::fold_probes(lists.tensors, lists.draw, decay, weight);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(srft, CPU, m) {
  m.impl("fill_probes_", TORCH_BOX(&fill_probes));
  m.impl("perturb_", TORCH_BOX(&perturb));
  m.impl("fold_probes_", TORCH_BOX(&fold_probes));
}
