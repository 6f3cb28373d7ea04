// A probe's signs for the loops that use them. Calls of Philox, with 128 signs each, run side by side in a vector's
// lanes.
//
// Only files that are compiled once per instruction set (SRFT_ISA) include this, so everything is in an unnamed
// namespace.
#pragma once

#include <type_traits>

#include "../core/probe.h"
#include "block.h"

namespace srft::cpu::SRFT_ISA {
namespace {

// Computes the words of 32 * kWords elements from element `offset` on, at which a block of Philox begins.
template <int kWords>
void draw_signs(const Draw& draw, uint32_t number, int64_t offset, uint32_t (&words)[kWords]) {
  constexpr int kCalls = kWords * 32 / kSigns;
  uint32_t word[4][kCalls];
  const uint64_t first = uint64_t(offset) / kSigns;
  SRFT_VECTORIZE
  for (int i = 0; i < kCalls; ++i) {
    uint32_t one[4];
    probe_words(draw, number, first + uint64_t(i), one);
    word[0][i] = one[0];
    word[1][i] = one[1];
    word[2][i] = one[2];
    word[3][i] = one[3];
  }
  for (int i = 0; i < kCalls; ++i) {
    for (int k = 0; k < 4; ++k) words[4 * i + k] = word[k][i];
  }
}

// The bits of a word, each in a whole number as wide as a lane. The loops test against them, because not every
// instruction set can shift each lane by a number of its own.
template <class Lane>
struct BitTable {
  alignas(64) Lane bit[32];
  constexpr BitTable() : bit{} {
    for (int i = 0; i < 32; ++i) bit[i] = Lane(1) << i;
  }
};

// Calls function(i, sign) for `n` elements whose first is bit 0 of words[0]; `sign` is the sign's bit, or 0.
template <class Bits, class Function>
SRFT_CORE void over_signs(const uint32_t* words, int n, const Function& function) {
  using Lane = std::conditional_t<sizeof(Bits) == 8, uint64_t, uint32_t>;
  static constexpr BitTable<Lane> table;
  constexpr Bits kSign = Bits(Bits(1) << kSignShift<Bits>);
  for (int i = 0; i < n; i += 32) {
    const Lane word = words[i / 32];
    const auto one = [&](int j) { function(i + j, (word & table.bit[j]) != 0 ? kSign : Bits(0)); };
    if (n - i >= 32) {
      SRFT_VECTORIZE
      for (int j = 0; j < 32; ++j) one(j);
    } else {
      for (int j = 0; j < n - i; ++j) one(j);
    }
  }
}

}  // namespace
}  // namespace srft::cpu::SRFT_ISA
