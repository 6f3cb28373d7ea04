// What the loops of all operators share: blocks of a tensor in the compute type, and sums in a fixed order.
//
// Only files that are compiled once per instruction set (SRFT_ISA) include this, so everything is in an unnamed
// namespace.
#pragma once

#include "../core/codecs.h"
#include "chunk.h"

#if defined(__clang__)
#define SRFT_VECTORIZE _Pragma("clang loop vectorize(enable) interleave(enable)")
#else
#define SRFT_VECTORIZE _Pragma("GCC ivdep")
#endif

namespace srft::cpu::SRFT_ISA {
namespace {

constexpr int kBlock = 512;  // a multiple of kSampleBlock; 8 buffers of it fit in 16 KB of float
constexpr int kLanes = 16;   // the lanes of a sum, whatever the vector width

template <class Real>
struct Native;
template <>
struct Native<float> {
  static constexpr DType dtype = DType::kFloat32;
};
template <>
struct Native<double> {
  static constexpr DType dtype = DType::kFloat64;
};

template <class Stored, class Real>
void decode_all(const void* from, int64_t offset, int n, Real* to) {
  const Stored* source = static_cast<const Stored*>(from) + offset;
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) to[i] = Real(decode(source[i]));
}

// Returns the block's elements as Real: in place if they are stored so, else converted into `buffer`.
template <class Real>
const Real* load(const void* from, DType dtype, int64_t offset, int n, Real* buffer) {
  if (dtype == Native<Real>::dtype) return static_cast<const Real*>(from) + offset;
  switch (dtype) {
    case DType::kFloat32: decode_all<float>(from, offset, n, buffer); break;
    case DType::kFloat64: decode_all<double>(from, offset, n, buffer); break;
    case DType::kBFloat16: decode_all<BFloat16>(from, offset, n, buffer); break;
    case DType::kFloat16: decode_all<Half>(from, offset, n, buffer); break;
  }
  return buffer;
}

template <class Stored>
void encode_all(const float* from, void* to, int64_t offset, int n) {
  Stored* target = static_cast<Stored*>(to) + offset;
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) encode(from[i], target[i]);
}

[[maybe_unused]] void store(const double*, void*, DType, int64_t, int) {}  // float64 is written in place
[[maybe_unused]] void store(const float* from, void* to, DType dtype, int64_t offset, int n) {
  if (dtype == DType::kBFloat16) encode_all<BFloat16>(from, to, offset, n);
  if (dtype == DType::kFloat16) encode_all<Half>(from, to, offset, n);
}

// Returns the task gradient of a block, converted and unscaled.
template <class Real>
const Real* task_gradient(const Options& o, const Tensor& t, int64_t offset, int n, Real* buffer) {
  const Real* gradient = load<Real>(t.grad, t.dtype, offset, n, buffer);
  if (!o.scale_gradient) return gradient;
  const Real factor = Real(o.settings[kGradientFactor]);
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) buffer[i] = gradient[i] * factor;
  return buffer;
}

// The compiler's own vector type of the machine's width. The compiler splits a wider one through memory, and keeps a
// sum in an array in memory too.
#if defined(__AVX512F__)
#define SRFT_VECTOR_BYTES 64
#elif defined(__AVX__)
#define SRFT_VECTOR_BYTES 32
#else
#define SRFT_VECTOR_BYTES 16
#endif
template <class Real>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(SRFT_VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(SRFT_VECTOR_BYTES)));
};

// A sum in a fixed order: 16 lanes whatever the vector width, which are added in order.
template <class Real>
struct LaneSum {
  Real lane[kLanes] = {};
  double total() const {
    double sum = 0;
    for (int j = 0; j < kLanes; ++j) sum += double(lane[j]);
    return sum;
  }
  // Adds `n` numbers, at most a block. Each lane first sums in the numbers' own type, because that is as exact for a
  // block and faster.
  template <class Stored>
  void add(const Stored* x, int n) {
    using Vector = typename VectorOf<Stored>::type;
    constexpr int kVectors = kLanes * int(sizeof(Stored)) / SRFT_VECTOR_BYTES;
    constexpr int kWidth = kLanes / kVectors;
    Vector sum[kVectors] = {};
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      for (int k = 0; k < kVectors; ++k) {
        Vector next;
        memcpy(&next, x + i + k * kWidth, sizeof next);
        sum[k] += next;
      }
    }
    Stored last[kLanes];
    memcpy(last, sum, sizeof last);
    for (int j = 0; i < n; ++i, ++j) last[j] += x[i];
    for (int j = 0; j < kLanes; ++j) lane[j] += Real(last[j]);
  }
};

template <class Real, class Term>
SRFT_CORE double block_sum(int n, const Term& term) {
  LaneSum<Real> sum;
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) sum.lane[j] += term(i + j);
  }
  for (int j = 0; i < n; ++i, ++j) sum.lane[j] += term(i);
  return sum.total();
}

}  // namespace
}  // namespace srft::cpu::SRFT_ISA
