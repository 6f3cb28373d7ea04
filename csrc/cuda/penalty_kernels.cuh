// The significance penalty and its gradient. Each of a tensor's three parts may have its own dtype.
#pragma once

#include "../core/penalty.h"
#include "access.cuh"
#include "block.cuh"

namespace srft::cuda {

struct PenaltyHeader {
  Partition partition;
  uint32_t tensors;
  const double* factor;  // value: the strength; gradient: the incoming gradient times the strength
  BlockReport* reports;  // for the value only, as are those below
  unsigned* arrived;
  double* total;  // the sum of the launches so far
  void* value;    // null in all launches but the last
  bool wide;      // `value` is float64
};

// A tensor's entry: the addresses of parameter, anchor, significance and gradient; size and bits; first unit.
constexpr int kPenaltyWords = 6;
constexpr uint32_t kPenaltyTensors = (SRFT_CUDA_ARGUMENT_BYTES - sizeof(PenaltyHeader)) / 8 / kPenaltyWords;

struct PenaltyArguments {
  PenaltyHeader header;
  uint64_t words[kPenaltyTensors * kPenaltyWords];

  SRFT_MEMBER uint64_t word(uint32_t tensor, int which) const { return words[tensor * kPenaltyWords + which]; }
  SRFT_MEMBER uint64_t start(uint32_t tensor) const {
    return tensor == header.tensors ? header.partition.units : word(tensor, 5);
  }
};
static_assert(sizeof(PenaltyArguments) <= SRFT_CUDA_ARGUMENT_BYTES, "a launch's arguments must fit");

constexpr int kPenaltyCount = 8;  // elements that a thread takes in one turn
constexpr int kDTypeShift = 48;   // in the word of the size: two bits each for parameter, anchor and significance
constexpr uint64_t kAligned = uint64_t(1) << 63;  // everything of this tensor lies at a multiple of 16 bytes
static_assert(kUnit % (kThreads * kPenaltyCount) == 0, "a unit is a whole number of turns");

template <class Real>
__device__ __forceinline__ void load_as(uint64_t bits, int which, uint64_t address, int64_t at, int n, bool whole,
                                        Real (&to)[kPenaltyCount]) {
  switch (static_cast<DType>((bits >> (kDTypeShift + 2 * which)) & 3)) {
    case DType::kFloat32: return load(reinterpret_cast<const float*>(address) + at, n, whole, to);
    case DType::kFloat64: return load(reinterpret_cast<const double*>(address) + at, n, whole, to);
    case DType::kBFloat16: return load(reinterpret_cast<const BFloat16*>(address) + at, n, whole, to);
    case DType::kFloat16: return load(reinterpret_cast<const Half*>(address) + at, n, whole, to);
  }
}

// Calls function(tensor, at, n, whole) for the turns of every segment of this block.
template <class Function>
__device__ __forceinline__ void over_penalty(const PenaltyArguments& a, const Function& function) {
  const Partition& cut = a.header.partition;
  const uint64_t end = cut.begin(blockIdx.x + 1);
  uint64_t unit = cut.begin(blockIdx.x);
  for (uint32_t tensor = tensor_of(a, unit); tensor < a.header.tensors && unit < end; ++tensor) {
    const uint64_t first = a.start(tensor), after = a.start(tensor + 1), stop = after < end ? after : end;
    const int64_t size = int64_t(a.word(tensor, 4) & kSizeMask), most = int64_t(stop - first) * kUnit;
    const int64_t to = most < size ? most : size;
    const bool aligned = (a.word(tensor, 4) & kAligned) != 0;
    for (int64_t at = int64_t(unit - first) * kUnit + int64_t(threadIdx.x) * kPenaltyCount; at < to;
         at += kThreads * kPenaltyCount) {
      const int n = to - at < kPenaltyCount ? int(to - at) : kPenaltyCount;
      function(tensor, at, n, aligned && n == kPenaltyCount);
    }
    unit = stop;
  }
}

// Elements are computed in the parameter's compute type, and sums in float64.
template <class Real>
__device__ __forceinline__ double penalty_terms(const PenaltyArguments& a, uint32_t tensor, int64_t at, int n,
                                                bool whole) {
  const uint64_t bits = a.word(tensor, 4);
  Real weight[kPenaltyCount], anchor[kPenaltyCount], significance[kPenaltyCount];
  load_as(bits, 0, a.word(tensor, 0), at, n, whole, weight);
  load_as(bits, 1, a.word(tensor, 1), at, n, whole, anchor);
  load_as(bits, 2, a.word(tensor, 2), at, n, whole, significance);
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kPenaltyCount; ++i) {
    if (i < n) sum += double(quadratic_value(weight[i], anchor[i], significance[i]));
  }
  return sum;
}

__device__ __forceinline__ bool is_wide(const PenaltyArguments& a, uint32_t tensor) {
  return static_cast<DType>((a.word(tensor, 4) >> kDTypeShift) & 3) == DType::kFloat64;
}

__global__ void __launch_bounds__(kThreads) penalty_value_kernel(const __grid_constant__ PenaltyArguments a) {
  __shared__ double room[kWarps];
  __shared__ bool last;
  double sum[1] = {0};
  over_penalty(a, [&](uint32_t tensor, int64_t at, int n, bool whole) {
    sum[0] += is_wide(a, tensor) ? penalty_terms<double>(a, tensor, at, n, whole)
                                 : penalty_terms<float>(a, tensor, at, n, whole);
  });
  block_sum(sum, room);
  if (threadIdx.x == 0) a.header.reports[blockIdx.x].penalties[0] = sum[0];
  if (!is_last(a.header.arrived, gridDim.x, &last)) return;
  double total[1] = {0};
  for (uint32_t b = threadIdx.x; b < gridDim.x; b += kThreads) total[0] += __ldcg(&a.header.reports[b].penalties[0]);
  block_sum(total, room);
  if (threadIdx.x != 0) return;
  const double all = *a.header.total + total[0];
  *a.header.total = all;
  if (!a.header.value) return;
  const double value = 0.5 * *a.header.factor * all;
  if (a.header.wide) *static_cast<double*>(a.header.value) = value;
  else *static_cast<float*>(a.header.value) = float(value);
}

template <class Real>
__device__ __forceinline__ void penalty_pull(const PenaltyArguments& a, uint32_t tensor, int64_t at, int n,
                                             bool whole) {
  const uint64_t bits = a.word(tensor, 4), to = a.word(tensor, 3);
  Real weight[kPenaltyCount], anchor[kPenaltyCount], significance[kPenaltyCount];
  load_as(bits, 0, a.word(tensor, 0), at, n, whole, weight);
  load_as(bits, 1, a.word(tensor, 1), at, n, whole, anchor);
  load_as(bits, 2, a.word(tensor, 2), at, n, whole, significance);
  const Real factor = Real(*a.header.factor);
#pragma unroll
  for (int i = 0; i < kPenaltyCount; ++i) weight[i] = quadratic_gradient(weight[i], anchor[i], significance[i], factor);
  if constexpr (sizeof(Real) == sizeof(double)) {
    store(weight, reinterpret_cast<double*>(to) + at, n, whole);
  } else {
    const auto dtype = static_cast<DType>((bits >> kDTypeShift) & 3);
    if (dtype == DType::kFloat32) store(weight, reinterpret_cast<float*>(to) + at, n, whole);
    else if (dtype == DType::kBFloat16) store(weight, reinterpret_cast<BFloat16*>(to) + at, n, whole);
    else store(weight, reinterpret_cast<Half*>(to) + at, n, whole);
  }
}

__global__ void __launch_bounds__(kThreads) penalty_gradient_kernel(const __grid_constant__ PenaltyArguments a) {
  over_penalty(a, [&](uint32_t tensor, int64_t at, int n, bool whole) {
    if (is_wide(a, tensor)) penalty_pull<double>(a, tensor, at, n, whole);
    else penalty_pull<float>(a, tensor, at, n, whole);
  });
}

}  // namespace srft::cuda
