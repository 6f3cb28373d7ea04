// The significance penalty on the CPU: the operators' lists of tensors as plain pointers.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <deque>

#include "over_chunks.h"
#include "penalty.h"
#include "tensors.h"

namespace srft::cpu {

double penalty_sum(const std::vector<PenaltyTensor>& tensors) {
  const Chunks chunks(tensors);
  const Loops& kernel = loops();
  std::vector<double> partial(chunks.count);
  over_chunks(tensors, chunks, [&](int64_t chunk, const PenaltyTensor& t, int64_t begin, int64_t end) {
    partial[chunk] = kernel.penalty_value(t, begin, end);
  });
  double sum = 0;
  for (const double part : partial) sum += part;
  return sum;
}

void penalty_gradient(const std::vector<PenaltyTensor>& tensors, double factor) {
  const Chunks chunks(tensors);
  const Loops& kernel = loops();
  over_chunks(tensors, chunks, [&](int64_t, const PenaltyTensor& t, int64_t begin, int64_t end) {
    kernel.penalty_gradient(t, begin, end, factor);
  });
}

}  // namespace srft::cpu

namespace {

using namespace srft::ops;

// Returns a tensor as the penalty's loops read it: contiguous, and widened if they do not know its dtype.
Tensor readable(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  return torch::stable::contiguous(is_known(dtype) ? tensor : torch::stable::to(tensor, ScalarType::Float));
}

double number(const Tensor& tensor, const char* what) {
  STD_TORCH_CHECK(tensor.dim() == 0, "significance_penalty: ", what, " must be 0-d");
  return *static_cast<const double*>(torch::stable::to(tensor, ScalarType::Double).const_data_ptr());
}

// The lists of the penalty, and the contiguous copies to which they point.
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

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(srft, CPU, m) {
  m.impl("significance_penalty", TORCH_BOX(&significance_penalty));
  m.impl("significance_penalty_backward", TORCH_BOX(&significance_penalty_backward));
}
