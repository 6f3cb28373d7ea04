// The significance penalty on the CPU: the operators' lists of tensors as plain pointers.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "checked_lists.h"
#include "over_chunks.h"
#include "penalty.h"

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

double number(const Tensor& tensor, const char* what) {
  STD_TORCH_CHECK(tensor.dim() == 0 && tensor.is_cpu(), "significance_penalty: ", what,
                  " must be 0-d, and on the CPU as the parameters are");
  check_memory(tensor, what);
  return *static_cast<const double*>(torch::stable::to(tensor, ScalarType::Double).const_data_ptr());
}

Tensor significance_penalty(TensorList params, TensorList anchors, TensorList significance, Tensor strength) {
  const PenaltyLists lists(DeviceType::CPU, params, anchors, significance);
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
  PenaltyLists lists(DeviceType::CPU, params, anchors, significance);
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
