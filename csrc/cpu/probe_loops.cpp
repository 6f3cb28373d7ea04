// Probes over one chunk of one tensor. Compiled once per instruction set, like loops.cpp and by its rules.
//
// Signs are computed a run at a time: one call of Philox for 128 elements, several calls side by side in a vector's
// lanes. What a chunk reads and writes is its tensors, and nothing of the probe.
#include <type_traits>

#include "block.h"
#include "probe.h"

namespace srft::cpu::SRFT_ISA {
namespace {

constexpr int kRun = 4 * kBlock;
constexpr int kCalls = kRun / kSigns;
static_assert(kChunk % kRun == 0 && kBlock % kSigns == 0, "a run is whole blocks of Philox");

// The words of a run from element `offset` on.
void draw_run(const Draw& draw, uint32_t number, int64_t offset, uint32_t (&words)[kRun / 32]) {
  uint32_t word[4][kCalls];
  const uint64_t first = uint64_t(offset) / kSigns;
  SRFT_VECTORISE
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

// The bits of a word, each in a whole number as wide as a lane: tested against, because not every instruction set
// shifts each lane by a number of its own.
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
      SRFT_VECTORISE
      for (int j = 0; j < 32; ++j) one(j);
    } else {
      for (int j = 0; j < n - i; ++j) one(j);
    }
  }
}

// Calls function(words, offset, n) for the blocks of a chunk.
template <class Function>
SRFT_CORE void over_blocks(const ProbeTensor& t, const Draw& draw, int64_t begin, int64_t end,
                           const Function& function) {
  alignas(64) uint32_t words[kRun / 32];
  for (int64_t run = begin; run < end; run += kRun) {
    draw_run(draw, t.number, run, words);
    for (int64_t offset = run; offset < end && offset < run + kRun; offset += kBlock) {
      const int n = int(end - offset < kBlock ? end - offset : kBlock);
      function(words + (offset - run) / 32, offset, n);
    }
  }
}

template <class Stored>
void fill(const ProbeTensor& t, const Draw& draw, int64_t begin, int64_t end) {
  using Bits = typename SignOf<Stored>::Bits;
  static_assert(sizeof(Bits) == sizeof(Stored));
  over_blocks(t, draw, begin, end, [&](const uint32_t* words, int64_t offset, int n) {
    Stored* out = static_cast<Stored*>(t.target) + offset;
    over_signs<Bits>(words, n, [&](int i, Bits sign) {
      const Bits bits = SignOf<Stored>::one | sign;
      memcpy(&out[i], &bits, sizeof bits);
    });
  });
}

template <class Real>
void perturb(const ProbeTensor& t, const Draw& draw, int64_t begin, int64_t end, double scale) {
  using Bits = typename SignOf<Real>::Bits;
  alignas(64) Real originals[kBlock], results[kBlock];
  const bool in_place = t.dtype == Native<Real>::dtype;
  const Real step = Real(scale);
  over_blocks(t, draw, begin, end, [&](const uint32_t* words, int64_t offset, int n) {
    const Real* original = load<Real>(t.from, t.from_dtype, offset, n, originals);
    Real* out = in_place ? static_cast<Real*>(t.target) + offset : results;
    over_signs<Bits>(words, n, [&](int i, Bits sign) { out[i] = perturbed(original[i], step, sign); });
    if (!in_place) store(results, t.target, t.dtype, offset, n);
  });
}

template <class Real>
void fold(const ProbeTensor& t, const Draw& draw, int64_t begin, int64_t end, double decay, double weight) {
  using Bits = typename SignOf<Real>::Bits;
  alignas(64) Real pluses[kBlock], minuses[kBlock];
  const Real keep = Real(decay), add = Real(weight);
  over_blocks(t, draw, begin, end, [&](const uint32_t* words, int64_t offset, int n) {
    Real* estimate = static_cast<Real*>(t.target) + offset;
    const Real* plus = load<Real>(t.from, t.from_dtype, offset, n, pluses);
    if (t.minus) {
      const Real* minus = load<Real>(t.minus, t.minus_dtype, offset, n, minuses);
      over_signs<Bits>(
          words, n, [&](int i, Bits sign) { estimate[i] = folded(estimate[i], plus[i] - minus[i], keep, add, sign); });
    } else {
      over_signs<Bits>(words, n,
                       [&](int i, Bits sign) { estimate[i] = folded(estimate[i], plus[i], keep, add, sign); });
    }
  });
}

}  // namespace

void probe_fill_chunk(const ProbeTensor& t, const Draw& draw, int64_t begin, int64_t end) {
  switch (t.dtype) {
    case DType::kFloat32: return fill<float>(t, draw, begin, end);
    case DType::kFloat64: return fill<double>(t, draw, begin, end);
    case DType::kBFloat16: return fill<BFloat16>(t, draw, begin, end);
    case DType::kFloat16: return fill<Half>(t, draw, begin, end);
  }
}

void probe_perturb_chunk(const ProbeTensor& t, const Draw& draw, int64_t begin, int64_t end, double scale) {
  t.dtype == DType::kFloat64 ? perturb<double>(t, draw, begin, end, scale) : perturb<float>(t, draw, begin, end, scale);
}

void probe_fold_chunk(const ProbeTensor& t, const Draw& draw, int64_t begin, int64_t end, double decay, double weight) {
  t.dtype == DType::kFloat64 ? fold<double>(t, draw, begin, end, decay, weight)
                             : fold<float>(t, draw, begin, end, decay, weight);
}

}  // namespace srft::cpu::SRFT_ISA
