// The macros and functions with which g++ and nvcc compile the same headers.
//
// Everything in core/ is `static inline`, forced inline, and free of the standard library. The CPU loops compile these
// headers once per instruction set, and a function that the linker may merge across those copies could run AVX-512 code
// on a machine that has none.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SRFT_CORE static __forceinline__ __host__ __device__
#define SRFT_MEMBER __forceinline__ __host__ __device__
#else
#define SRFT_CORE static inline __attribute__((always_inline))
#define SRFT_MEMBER inline __attribute__((always_inline))
#endif

namespace srft {

// Builtins are used because they are expressions: g++ vectorizes them, and nvcc maps each to one instruction.
SRFT_CORE float fused_multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
SRFT_CORE double fused_multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
SRFT_CORE float square_root(float x) { return __builtin_sqrtf(x); }
SRFT_CORE double square_root(double x) { return __builtin_sqrt(x); }
SRFT_CORE float absolute(float x) { return __builtin_fabsf(x); }
SRFT_CORE double absolute(double x) { return __builtin_fabs(x); }

SRFT_CORE uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
SRFT_CORE float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

template <class Real>
struct Limits;
template <>
struct Limits<float> {
  static constexpr float largest = 3.402823466e+38f;
  static constexpr float weight = 1e9f;
  static constexpr float transfer = 0x1p96f;
};
template <>
struct Limits<double> {
  static constexpr double largest = 1.7976931348623157e+308;
  static constexpr double weight = 1e18;
  static constexpr double transfer = 0x1p960;
};

// Returns false for NaN and for both infinities. It is one comparison, so that a vector loop can use it as a mask.
template <class Real>
SRFT_CORE bool is_finite(Real x) {
  return absolute(x) <= Limits<Real>::largest;
}

}  // namespace srft
