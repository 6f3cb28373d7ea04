// Conversions of bfloat16 and IEEE half to and from float, without branches. They round to nearest even, and NaN stays
// NaN.
//
// They use integer and float arithmetic and not the compilers' half types, so that every compiler vectorizes them and
// every instruction set gives the same bits.
#pragma once

#include "host_device.h"

namespace srft {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

SRFT_CORE float decode(float x) { return x; }
SRFT_CORE double decode(double x) { return x; }
SRFT_CORE float decode(BFloat16 x) { return bits_float(uint32_t{x.bits} << 16); }

SRFT_CORE float decode(Half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  // Reading the half's exponent and mantissa as a float's makes the exponent 112 too low. The multiplication corrects
  // that, and also normalizes subnormal halves.
  const float scaled = bits_float(magnitude << 13) * 0x1p112f;
  const uint32_t infinite_or_nan = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  return bits_float(sign | float_bits(scaled) | infinite_or_nan);
}

SRFT_CORE void encode(float x, float& out) { out = x; }
SRFT_CORE void encode(double x, double& out) { out = x; }

SRFT_CORE void encode(float x, BFloat16& out) {
  const uint32_t bits = float_bits(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? ((bits >> 16) | 0x40u) : rounded);
}

SRFT_CORE void encode(float x, Half& out) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // For normal halves, rebias the exponent by -112, add half a unit (to even) and drop 13 bits. A carry into the
  // exponent gives the right result, also the carry from 65519.99 to infinity.
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // For subnormal halves the float adder rounds, because a unit in the last place of 0.5f is 2^-24, their spacing.
  const uint32_t subnormal = float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f);
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  out.bits = uint16_t(sign | (magnitude >= 0x47800000u ? special : finite));
}

}  // namespace srft
