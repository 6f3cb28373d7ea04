// The significance penalty over one chunk of one tensor. It is compiled once per instruction set, by the rules of
// loops.cpp.
#include "../core/penalty.h"
#include "block.h"
#include "penalty.h"

namespace srft::cpu::SRFT_ISA {
namespace {

template <class Real>
double value(const PenaltyTensor& t, int64_t begin, int64_t end) {
  alignas(64) Real weights[kBlock], anchors[kBlock], significances[kBlock];
  double sum = 0;
  for (int64_t offset = begin; offset < end; offset += kBlock) {
    const int n = int(end - offset < kBlock ? end - offset : kBlock);
    const Real* weight = load<Real>(t.param, t.dtype, offset, n, weights);
    const Real* anchor = load<Real>(t.anchor, t.anchor_dtype, offset, n, anchors);
    const Real* significance = load<Real>(t.significance, t.significance_dtype, offset, n, significances);
    sum += block_sum<double>(n, [&](int i) { return double(quadratic_value(weight[i], anchor[i], significance[i])); });
  }
  return sum;
}

template <class Real>
void gradient(const PenaltyTensor& t, int64_t begin, int64_t end, double factor) {
  alignas(64) Real weights[kBlock], anchors[kBlock], significances[kBlock], results[kBlock];
  const bool in_place = t.dtype == Native<Real>::dtype;
  const Real scale = Real(factor);
  for (int64_t offset = begin; offset < end; offset += kBlock) {
    const int n = int(end - offset < kBlock ? end - offset : kBlock);
    const Real* weight = load<Real>(t.param, t.dtype, offset, n, weights);
    const Real* anchor = load<Real>(t.anchor, t.anchor_dtype, offset, n, anchors);
    const Real* significance = load<Real>(t.significance, t.significance_dtype, offset, n, significances);
    Real* out = in_place ? static_cast<Real*>(t.gradient) + offset : results;
    SRFT_VECTORIZE
    for (int i = 0; i < n; ++i) out[i] = quadratic_gradient(weight[i], anchor[i], significance[i], scale);
    if (!in_place) store(results, t.gradient, t.dtype, offset, n);
  }
}

}  // namespace

double penalty_value_chunk(const PenaltyTensor& t, int64_t begin, int64_t end) {
  return t.dtype == DType::kFloat64 ? value<double>(t, begin, end) : value<float>(t, begin, end);
}

void penalty_gradient_chunk(const PenaltyTensor& t, int64_t begin, int64_t end, double factor) {
  t.dtype == DType::kFloat64 ? gradient<double>(t, begin, end, factor) : gradient<float>(t, begin, end, factor);
}

}  // namespace srft::cpu::SRFT_ISA
