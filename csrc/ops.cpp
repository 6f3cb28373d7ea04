// The CPU kernels behind the operators that srft_kernels/ops declares, in torch's stable ABI: this file turns lists of
// tensors into plain pointers, and nothing else.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <deque>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "core/contract.h"
#include "cpu/penalty.h"
#include "cpu/probe.h"
#include "cpu/step.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using TensorList = std::vector<Tensor>;

srft::DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return srft::DType::kFloat32;
    case ScalarType::Double: return srft::DType::kFloat64;
    case ScalarType::BFloat16: return srft::DType::kBFloat16;
    case ScalarType::Half: return srft::DType::kFloat16;
    default: STD_TORCH_CHECK(false, "srft: parameters must be float32, float64, bfloat16 or float16");
  }
  return {};
}

// The i-th tensor's data, or null where the list is empty or that entry has no elements.
void* pointer(const TensorList& list, size_t i, int64_t size, const char* what, ScalarType expected) {
  if (list.empty() || list[i].numel() == 0) return nullptr;
  STD_TORCH_CHECK(list[i].numel() == size, "srft: ", what, " ", i, " has ", list[i].numel(),
                  " elements, its parameter ", size);
  STD_TORCH_CHECK(list[i].scalar_type() == expected, "srft: ", what, " ", i, " has the wrong dtype");
  return list[i].mutable_data_ptr();
}

void check_length(const TensorList& list, size_t count, const char* what) {
  STD_TORCH_CHECK(list.empty() || list.size() == count, "srft: ", list.size(), " ", what, " for ", count,
                  " parameters");
}

void step(TensorList params, TensorList grads, TensorList first_moments, TensorList second_moments,
          TensorList max_second_moments, TensorList steps, TensorList previous, TensorList anchors, TensorList priors,
          Tensor scales, TensorList transfers, TensorList curvatures, TensorList plus, TensorList minus,
          TensorList paths, TensorList statistics, Tensor settings, Tensor report, int64_t flags, int64_t phase) {
  using namespace srft;
  const size_t count = params.size();
  check_length(grads, count, "gradients");
  check_length(first_moments, count, "first moments");
  check_length(second_moments, count, "second moments");
  check_length(max_second_moments, count, "maxima of second moments");
  check_length(previous, count, "previous weights");
  check_length(anchors, count, "anchors");
  check_length(priors, count, "priors");
  check_length(transfers, count, "transfer significances");
  check_length(curvatures, count, "curvatures");
  check_length(plus, count, "plus");
  check_length(minus, count, "minus");
  check_length(paths, count, "paths");
  STD_TORCH_CHECK(steps.size() == count && statistics.size() == count,
                  "srft: steps and statistics must match the parameters");
  STD_TORCH_CHECK(scales.numel() == int64_t(kScales * count), "srft: scales must have ", kScales,
                  " values a parameter");
  STD_TORCH_CHECK(settings.numel() == kSettings && report.numel() == kReport,
                  "srft: settings or report has the wrong size");

  cpu::Options options{};
  options.flags = int(flags);
  const double* s = static_cast<const double*>(settings.const_data_ptr());
  for (int i = 0; i < kSettings; ++i) options.settings[i] = s[i];
  const double* scale = static_cast<const double*>(scales.const_data_ptr());

  std::vector<cpu::Tensor> tensors(count);
  for (size_t i = 0; i < count; ++i) {
    cpu::Tensor& t = tensors[i];
    const ScalarType dtype = params[i].scalar_type();
    const ScalarType state = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    t.size = params[i].numel();
    t.dtype = dtype_of(params[i]);
    t.param = params[i].mutable_data_ptr();
    t.grad = pointer(grads, i, t.size, "gradient", dtype);
    t.previous = pointer(previous, i, t.size, "previous weight", dtype);
    t.first_moment = pointer(first_moments, i, t.size, "first moment", state);
    t.second_moment = pointer(second_moments, i, t.size, "second moment", state);
    t.max_second_moment = pointer(max_second_moments, i, t.size, "maximum of second moments", state);
    t.prior = pointer(priors, i, t.size, "prior", state);
    t.transfer = pointer(transfers, i, t.size, "transfer significance", state);
    t.anchor = nullptr;
    t.anchor_dtype = t.dtype;
    if (!anchors.empty() && anchors[i].numel() > 0) {
      t.anchor = pointer(anchors, i, t.size, "anchor", anchors[i].scalar_type() == state ? state : dtype);
      t.anchor_dtype = dtype_of(anchors[i]);
    }
    t.statistics = static_cast<double*>(statistics[i].mutable_data_ptr());
    t.taken = static_cast<float*>(steps[i].mutable_data_ptr());
    t.curvature = pointer(curvatures, i, t.size, "curvature", state);
    t.plus = pointer(plus, i, t.size, "plus", dtype);
    t.minus = pointer(minus, i, t.size, "minus", dtype);
    t.path = pointer(paths, i, t.size, "path", state);
    cpu::set_scales(t, scale + i * kScales);
  }
  cpu::step(options, tensors, static_cast<Phase>(phase), static_cast<double*>(report.mutable_data_ptr()));
}

// A tensor as the penalty's loops read it: contiguous, and widened where they do not know its dtype.
Tensor readable(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  const bool known = dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half;
  return torch::stable::contiguous(known ? tensor : torch::stable::to(tensor, ScalarType::Float));
}

double number(const Tensor& tensor, const char* what) {
  STD_TORCH_CHECK(tensor.dim() == 0, "significance_penalty: ", what, " must be 0-d");
  return *static_cast<const double*>(torch::stable::to(tensor, ScalarType::Double).const_data_ptr());
}

// The lists of the penalty, and the contiguous copies that they point into.
struct PenaltyLists {
  PenaltyLists(const TensorList& params, const TensorList& anchors, const TensorList& significance) {
    STD_TORCH_CHECK(params.size() == anchors.size() && params.size() == significance.size(),
                    "significance_penalty: ", params.size(), " parameters, ", anchors.size(), " anchors, ",
                    significance.size(), " significances");
    for (size_t i = 0; i < params.size(); ++i) {
      for (const TensorList* list : {&anchors, &significance}) {
        bool same = (*list)[i].dim() == params[i].dim();
        for (int64_t d = 0; same && d < params[i].dim(); ++d) same = (*list)[i].size(d) == params[i].size(d);
        STD_TORCH_CHECK(same, "significance_penalty: shapes differ at position ", i);
      }
      const Tensor& p = kept.emplace_back(readable(params[i]));
      const Tensor& a = kept.emplace_back(readable(anchors[i]));
      const Tensor& s = kept.emplace_back(readable(significance[i]));
      tensors.push_back({p.numel(), dtype_of(p), dtype_of(a), dtype_of(s), p.const_data_ptr(), a.const_data_ptr(),
                         s.const_data_ptr(), nullptr});
    }
  }
  std::deque<Tensor> kept;
  std::vector<srft::cpu::PenaltyTensor> tensors;
};

Tensor significance_penalty(TensorList params, TensorList anchors, TensorList significance, Tensor strength) {
  const PenaltyLists lists(params, anchors, significance);
  bool wide = false;
  for (const Tensor& p : params) wide = wide || p.scalar_type() == ScalarType::Double;
  const double value = 0.5 * number(strength, "strength") * srft::cpu::penalty_sum(lists.tensors);
  Tensor out = torch::stable::new_empty(strength, {}, wide ? ScalarType::Double : ScalarType::Float);
  if (wide) *static_cast<double*>(out.mutable_data_ptr()) = value;
  else *static_cast<float*>(out.mutable_data_ptr()) = float(value);
  return out;
}

TensorList significance_penalty_backward(Tensor grad, TensorList params, TensorList anchors, TensorList significance,
                                         Tensor strength) {
  PenaltyLists lists(params, anchors, significance);
  TensorList gradients;
  for (size_t i = 0; i < params.size(); ++i) {
    gradients.push_back(torch::stable::new_empty(params[i], params[i].sizes(), lists.kept[3 * i].scalar_type()));
    lists.tensors[i].gradient = gradients.back().mutable_data_ptr();
  }
  srft::cpu::penalty_gradient(lists.tensors, number(grad, "the gradient") * number(strength, "strength"));
  for (size_t i = 0; i < params.size(); ++i) {
    const ScalarType dtype = params[i].scalar_type();
    if (gradients[i].scalar_type() != dtype) gradients[i] = torch::stable::to(gradients[i], dtype);
  }
  return gradients;
}

// Whether the elements fill their memory without gaps or overlaps, in any order of dimensions.
bool is_dense(const Tensor& tensor) {
  if (tensor.is_contiguous() || tensor.numel() == 0) return true;
  std::vector<std::pair<int64_t, int64_t>> dims;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) != 1) dims.emplace_back(tensor.stride(d), tensor.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// The lists of a probe's operator, by name; the first is the one that is written. `tensors` are the numbers that key
// each tensor.
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
        STD_TORCH_CHECK(is_dense(list[i]), what, " counts elements as they lie in memory, so ", name,
                        " must be dense; that at position ", i, " is not");
        bool alike = list[i].dim() == first[i].dim();
        for (int64_t d = 0; alike && d < first[i].dim(); ++d) {
          alike = list[i].size(d) == first[i].size(d) &&
                  (list[i].stride(d) == first[i].stride(d) || first[i].size(d) == 1 || first[i].numel() == 0);
        }
        STD_TORCH_CHECK(alike, what, ": ", name, " and ", leading, " at position ", i, " are laid out differently");
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
  m.impl("step_", TORCH_BOX(&step));
  m.impl("significance_penalty", TORCH_BOX(&significance_penalty));
  m.impl("significance_penalty_backward", TORCH_BOX(&significance_penalty_backward));
  m.impl("fill_probes_", TORCH_BOX(&fill_probes));
  m.impl("perturb_", TORCH_BOX(&perturb));
  m.impl("fold_probes_", TORCH_BOX(&fold_probes));
}
