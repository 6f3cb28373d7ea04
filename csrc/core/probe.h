// Random signs from a counter by Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1,
// 2, 3", SC11). One call gives 128 signs, in the order that srft_kernels/ops/probe.py describes.
#pragma once

#include "codecs.h"
#include "host_device.h"

namespace srft {

constexpr int kSigns = 128;  // signs of one call: four words of 32 bits; a bit of 0 is +1, a bit of 1 is -1

// What all tensors of a probe have in common.
struct Draw {
  uint64_t seed;
  uint32_t step;
};

// Runs ten rounds over a counter, in place.
SRFT_CORE void philox(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, uint32_t low, uint32_t high) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t(0xd2511f53u) * a, second = uint64_t(0xcd9e8d57u) * c;
    a = uint32_t(second >> 32) ^ b ^ low;
    c = uint32_t(first >> 32) ^ d ^ high;
    b = uint32_t(second);
    d = uint32_t(first);
    low += 0x9e3779b9u;
    high += 0xbb67ae85u;
  }
}

// Sets `word` to the signs of elements 128 * block to 128 * block + 127 of the tensor numbered `tensor`.
SRFT_CORE void probe_words(const Draw& draw, uint32_t tensor, uint64_t block, uint32_t (&word)[4]) {
  word[0] = uint32_t(block);
  word[1] = uint32_t(block >> 32);
  word[2] = tensor;
  word[3] = draw.step;
  philox(word[0], word[1], word[2], word[3], uint32_t(draw.seed), uint32_t(draw.seed >> 32));
}

// The bits of 1 and of the sign in a dtype, as whole numbers.
template <class Stored>
struct SignOf;
template <>
struct SignOf<float> {
  using Bits = uint32_t;
  static constexpr Bits one = 0x3f800000u;
};
template <>
struct SignOf<double> {
  using Bits = uint64_t;
  static constexpr Bits one = 0x3ff0000000000000u;
};
template <>
struct SignOf<BFloat16> {
  using Bits = uint16_t;
  static constexpr Bits one = 0x3f80u;
};
template <>
struct SignOf<Half> {
  using Bits = uint16_t;
  static constexpr Bits one = 0x3c00u;
};
template <class Bits>
constexpr int kSignShift = 8 * int(sizeof(Bits)) - 1;

// Returns z * x exactly: x with its sign flipped if `sign` is the sign's bit and not 0.
SRFT_CORE float turned(float x, uint32_t sign) { return bits_float(float_bits(x) ^ sign); }
SRFT_CORE double turned(double x, uint64_t sign) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits ^= sign;
  memcpy(&x, &bits, sizeof x);
  return x;
}

template <class Real>
SRFT_CORE Real perturbed(Real original, Real scale, typename SignOf<Real>::Bits sign) {
  return original + turned(scale, sign);
}

// Returns a running mean of z (plus - minus), whose expectation is the curvature's diagonal.
template <class Real>
SRFT_CORE Real folded(Real estimate, Real difference, Real decay, Real weight, typename SignOf<Real>::Bits sign) {
  return decay * estimate + turned(weight, sign) * difference;
}

// The same for an estimate that is kept from step to step. It keeps its value if the new one would not be finite.
template <class Real>
SRFT_CORE Real folded_if_finite(Real estimate, Real difference, Real decay, Real weight,
                                typename SignOf<Real>::Bits sign) {
  const Real next = folded(estimate, difference, decay, weight, sign);
  return is_finite(next) ? next : estimate;
}

}  // namespace srft
