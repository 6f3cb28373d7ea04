// Probes on the CPU: the operators' lists of tensors as plain pointers, after a check that they belong together.
#include <torch/csrc/stable/library.h>

#include <initializer_list>

#include "over_chunks.h"
#include "probe.h"
#include "tensors.h"

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

// The lists of a probe's operator, by name. The operator writes the first one. `tensors` are the numbers that key each
// tensor.
struct ProbeLists {
  struct Named {
    const char* name;
    const TensorList& list;
  };
  ProbeLists(const char* what, std::initializer_list<Named> lists, int64_t seed, int64_t step,
             const std::vector<int64_t>& numbers)
      : draw{uint64_t(seed), uint32_t(step)} {
    const auto& [leading, first] = *lists.begin();
    constexpr int64_t kLargest = 0xffffffff;
    STD_TORCH_CHECK(numbers.size() == first.size(), what, " needs as many tensors as ", leading, ", got ",
                    numbers.size(), " for ", first.size());
    STD_TORCH_CHECK(0 <= step && step <= kLargest, what, " needs a step from 0 to 2^32 - 1, got ", step);
    for (const auto& [name, list] : lists) {
      STD_TORCH_CHECK(list.size() == first.size(), what, " needs as many ", name, " as ", leading, ", got ",
                      list.size(), " for ", first.size());
      for (size_t i = 0; i < list.size(); ++i) {
        STD_TORCH_CHECK(list[i].is_cpu(), what, " needs all tensors on one device, got ", name,
                        " on another at position ", i);
        const Metadata m(list[i]);
        STD_TORCH_CHECK(m.is_dense(), what, " counts elements as they lie in memory, so ", name,
                        " must be dense; that at position ", i, " is not");
        STD_TORCH_CHECK(m.lies_like(Metadata(first[i])), what, ": ", name, " and ", leading, " at position ", i,
                        " are laid out differently");
        STD_TORCH_CHECK(m.numel() == 0 || has_memory(list[i], m, srft::bytes_of(dtype_of(list[i]))), what, ": ", name,
                        " at position ", i, " has less memory than elements: its storage was freed or shrunk");
      }
    }
    for (size_t i = 0; i < first.size(); ++i) {
      STD_TORCH_CHECK(0 <= numbers[i] && numbers[i] <= kLargest, what,
                      " needs numbers of tensors from 0 to 2^32 - 1, got ", numbers[i], " at position ", i);
      srft::cpu::ProbeTensor t{};
      t.size = first[i].numel();
      t.number = uint32_t(numbers[i]);
      t.dtype = dtype_of(first[i]);
      t.target = first[i].mutable_data_ptr();
      auto read = lists.begin();
      if (++read != lists.end()) {
        t.from = read->list[i].const_data_ptr();
        t.from_dtype = dtype_of(read->list[i]);
      }
      if (read != lists.end() && ++read != lists.end()) {
        t.minus = read->list[i].const_data_ptr();
        t.minus_dtype = dtype_of(read->list[i]);
      }
      tensors.push_back(t);
    }
  }
  srft::Draw draw;
  std::vector<srft::cpu::ProbeTensor> tensors;
};

void fill_probes(TensorList out, int64_t seed, int64_t step, std::vector<int64_t> tensors) {
  const ProbeLists lists("fill_probes_", {{"out", out}}, seed, step, tensors);
  srft::cpu::fill_probes(lists.tensors, lists.draw);
}

void perturb(TensorList params, TensorList originals, double scale, int64_t seed, int64_t step,
             std::vector<int64_t> tensors) {
  const ProbeLists lists("perturb_", {{"params", params}, {"originals", originals}}, seed, step, tensors);
  srft::cpu::perturb(lists.tensors, lists.draw, scale);
}

void fold_probes(TensorList estimates, TensorList plus, TensorList minus, double decay, double weight, int64_t seed,
                 int64_t step, std::vector<int64_t> tensors) {
  const char* what = "fold_probes_";
  const ProbeLists lists =
      minus.empty()
          ? ProbeLists(what, {{"estimates", estimates}, {"plus", plus}}, seed, step, tensors)
          : ProbeLists(what, {{"estimates", estimates}, {"plus", plus}, {"minus", minus}}, seed, step, tensors);
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
