// Probes over one chunk of one tensor. The file is compiled once per instruction set, by the rules of loops.cpp.
//
// Signs are computed for a run at a time. One call of Philox serves 128 elements, and several calls run side by side in
// a vector's lanes. A chunk reads and writes its tensors, and nothing of the probe.
#include "block.h"
#include "probe.h"
#include "probe_signs.h"

namespace srft::cpu::SRFT_ISA {
namespace {

constexpr int kRun = 4 * kBlock;
static_assert(kChunk % kRun == 0 && kBlock % kSigns == 0, "a run is whole blocks of Philox");

// Calls function(words, offset, n) for the blocks of a chunk.
template <class Function>
SRFT_CORE void over_blocks(const ProbeTensor& t, const Draw& draw, int64_t begin, int64_t end,
                           const Function& function) {
  alignas(64) uint32_t words[kRun / 32];
  for (int64_t run = begin; run < end; run += kRun) {
    draw_signs(draw, t.number, run, words);
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
