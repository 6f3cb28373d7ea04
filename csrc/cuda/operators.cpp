// The operators of the penalty and of probes on a GPU. They check the tensors that they are given, for every caller, as
// those of the CPU do and by the same code (../cpu/checked_lists.h). plan.cpp has the step's operator.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../cpu/checked_lists.h"
#include "penalty.h"
#include "probe.h"
#include "torch_device.h"

namespace {

using namespace srft;
using namespace srft::ops;
using cuda::current_stream;
using cuda::device_of;
using cuda::kHere;

// ---------------------------------------------------------------- the penalty

// Returns where the number lies by which a penalty is multiplied.
const double* checked_number(const Tensor& tensor, const TensorList& params, const char* what) {
  const Metadata m(tensor);
  STD_TORCH_CHECK(m.device_type == int32_t(kHere) && m.dims == 0 && m.dtype == int32_t(ScalarType::Double) &&
                      has_memory(tensor, m, 8) && (params.empty() || m.same_device(Metadata(params[0]))),
                  "significance_penalty: ", what, " must be one float64 number where the parameters are");
  return static_cast<const double*>(address_of(tensor));
}

std::vector<cuda::PenaltyTensor> on_device(const PenaltyLists& lists) {
  std::vector<cuda::PenaltyTensor> tensors;
  for (const cpu::PenaltyTensor& t : lists.tensors) {
    const auto place = [](const void* at) { return reinterpret_cast<uintptr_t>(at); };
    tensors.push_back({t.size, t.dtype, t.anchor_dtype, t.significance_dtype, place(t.param), place(t.anchor),
                       place(t.significance), place(t.gradient)});
  }
  return tensors;
}

Tensor significance_penalty(TensorList params, TensorList anchors, TensorList significance, Tensor strength) {
  const PenaltyLists lists(kHere, params, anchors, significance);
  const double* factor = checked_number(strength, params, "the strength");
  bool wide = false;
  for (const Tensor& p : params) wide = wide || p.scalar_type() == ScalarType::Double;
  Tensor value = torch::stable::new_empty(strength, {}, wide ? ScalarType::Double : ScalarType::Float);
  Tensor scratch = torch::stable::new_empty(strength, {int64_t(cuda::penalty_scratch_bytes())}, ScalarType::Byte);
  Tensor zeroed = torch::stable::narrow(scratch, 0, 0, int64_t(cuda::penalty_zeroed_bytes()));
  torch::stable::zero_(zeroed);
  const int device = device_of(strength);
  cuda::penalty_value(on_device(lists), factor, address_of(value), wide, address_of(scratch), device,
                      current_stream(device));
  return value;
}

TensorList significance_penalty_backward(TensorList params, TensorList anchors, TensorList significance,
                                         Tensor factor) {
  PenaltyLists lists(kHere, params, anchors, significance);
  const double* number = checked_number(factor, params, "the factor");
  TensorList gradients;
  for (size_t i = 0; i < params.size(); ++i) {
    gradients.push_back(torch::stable::new_empty(params[i], params[i].sizes(), lists.kept[3 * i].scalar_type()));
    lists.tensors[i].gradient = address_of(gradients.back());
  }
  const int device = device_of(factor);
  cuda::penalty_gradient(on_device(lists), number, device, current_stream(device));
  for (size_t i = 0; i < params.size(); ++i) {
    const ScalarType dtype = params[i].scalar_type();
    if (gradients[i].scalar_type() != dtype) gradients[i] = torch::stable::to(gradients[i], dtype);
  }
  return gradients;
}

// ---------------------------------------------------------------- probes

std::vector<cuda::ProbeTensor> on_device(const ProbeLists& lists, const char* what) {
  std::vector<cuda::ProbeTensor> tensors;
  for (size_t i = 0; i < lists.tensors.size(); ++i) {
    const cpu::ProbeTensor& t = lists.tensors[i];
    STD_TORCH_CHECK(!t.minus || t.minus_dtype == t.from_dtype, what, " needs plus and minus of one dtype, at position ",
                    i);
    const auto place = [](const void* at) { return reinterpret_cast<uintptr_t>(at); };
    tensors.push_back(
        {t.size, t.number, t.dtype, t.from ? t.from_dtype : t.dtype, place(t.target), place(t.from), place(t.minus)});
  }
  return tensors;
}

void fill_probes(TensorList out, int64_t seed, int64_t step, std::vector<int64_t> tensors) {
  const char* what = "fill_probes_";
  const ProbeLists lists(kHere, what, {{"out", out}}, seed, step, tensors);
  if (out.empty()) return;
  const int device = device_of(out[0]);
  cuda::fill_probes(on_device(lists, what), lists.draw, device, current_stream(device));
}

void perturb(TensorList params, TensorList originals, double scale, int64_t seed, int64_t step,
             std::vector<int64_t> tensors) {
  const char* what = "perturb_";
  const ProbeLists lists(kHere, what, {{"params", params}, {"originals", originals}}, seed, step, tensors);
  if (params.empty()) return;
  const int device = device_of(params[0]);
  cuda::perturb(on_device(lists, what), lists.draw, scale, device, current_stream(device));
}

void fold_probes(TensorList estimates, TensorList plus, TensorList minus, double decay, double weight, int64_t seed,
                 int64_t step, std::vector<int64_t> tensors) {
  const char* what = "fold_probes_";
  const ProbeLists lists = fold_lists(kHere, what, estimates, plus, minus, seed, step, tensors);
  if (estimates.empty()) return;
  const int device = device_of(estimates[0]);
  cuda::fold_probes(on_device(lists, what), lists.draw, decay, weight, device, current_stream(device));
}

}  // namespace

SRFT_LIBRARY(SRFT_CUDA_OPERATORS, m) {
  m.def("significance_penalty(Tensor[] params, Tensor[] anchors, Tensor[] significance, Tensor strength) -> Tensor");
  m.def(
      "significance_penalty_backward(Tensor[] params, Tensor[] anchors, Tensor[] significance, Tensor factor) -> "
      "Tensor[]");
  m.def("fill_probes_(Tensor(a!)[] out, int seed, int step, int[] tensors) -> ()");
  m.def("perturb_(Tensor(a!)[] params, Tensor[] originals, float scale, int seed, int step, int[] tensors) -> ()");
  m.def(
      "fold_probes_(Tensor(a!)[] estimates, Tensor[] plus, Tensor[] minus, float decay, float weight, int seed, "
      "int step, int[] tensors) -> ()");
}
SRFT_LIBRARY_IMPL(SRFT_CUDA_OPERATORS, CompositeExplicitAutograd, m) {
  m.impl("significance_penalty", TORCH_BOX(&significance_penalty));
  m.impl("significance_penalty_backward", TORCH_BOX(&significance_penalty_backward));
  m.impl("fill_probes_", TORCH_BOX(&fill_probes));
  m.impl("perturb_", TORCH_BOX(&perturb));
  m.impl("fold_probes_", TORCH_BOX(&fold_probes));
}
