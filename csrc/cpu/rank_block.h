// Blocks of transfer significance: the bias is corrected, elements are put into bins, and counted for the next step's
// ranks.
//
// Only files that are compiled once per instruction set include this, as with block.h.
#pragma once

#include "../core/rank.h"
#include "block.h"
#include "chunk.h"

namespace srft::cpu::SRFT_ISA {
namespace {

// Returns T of a block with its bias corrected, for ranks.
template <class Real>
SRFT_CORE void corrected_transfer(int n, const Real* raw, Real correction, Real* out) {
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) out[i] = raw[i] * correction;
}

// The same for uses in which its size matters.
template <class Real>
SRFT_CORE void sized_transfers(int n, const Real* raw, Real correction, Real* out) {
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) out[i] = sized_transfer(raw[i], correction);
}

template <class Real>
void bins_of(const Tensor& t, int n, const Real* transfer, int32_t* bin) {
  const float low = t.low, density = t.density;
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) bin[i] = rank_bin(float(transfer[i]), low, density);
}

// Returns this step's weights by bin.
template <class Real>
const Real* damping_of(const Tensor& t) {
  if constexpr (sizeof(Real) == sizeof(double)) return t.table64;
  else return t.table;
}

// Calls function(start, size) for the runs of a block's elements that are counted: all of a small tensor, at most one
// run of a large one. `element` is the block's position in its tensor.
template <class Function>
void over_counted(const Tensor& t, int64_t element, int n, const Function& function) {
  static_assert(kSampleGroup % kBlock == 0 && kChunk % kSampleGroup == 0, "a block must lie within one group");
  int start = 0, stop = n;
  if (t.size > kSampleAll) {
    const int64_t group = element / kSampleGroup;
    const int64_t place = group * kSampleGroup + int64_t(sampled_block(group)) * kSampleBlock - element;
    if (place < 0 || place >= n) return;
    start = int(place);
    stop = start + kSampleBlock < n ? start + kSampleBlock : n;
  }
  for (; start < stop; start += kSampleBlock) {
    function(start, start + kSampleBlock < stop ? kSampleBlock : stop - start);
  }
}

// Adds a run of at most kSampleBlock elements to the histogram. Elements with a gradient that is not finite are left
// out; a null `gradient` means that all are finite. The extremes are compared as the bits of T, because a vector unit
// compares those without the extra care that NaN needs.
template <class Real>
void count_keys(int n, const Real* transfer, const Real* gradient, const int32_t* bin, SampledKeys& keys) {
  constexpr int32_t kNone = 0x7fffffff;
  int32_t place[kSampleBlock];
  int32_t smallest = kNone, largest = -1;
  SRFT_VECTORIZE
  for (int i = 0; i < n; ++i) {
    const bool counts = !gradient || is_finite(gradient[i]);
    const int32_t bits = int32_t(float_bits(float(transfer[i])));
    const bool nonzero = counts && bin[i] != 0;
    const int32_t low = nonzero ? bits : kNone, high = nonzero ? bits : -1;
    smallest = low < smallest ? low : smallest;
    largest = high > largest ? high : largest;
    place[i] = counts ? bin[i] : kBins;
  }
  for (int i = 0; i < n; ++i) ++keys.histogram[place[i]];
  if (largest < 0) return;
  const float low = rank_key(bits_float(uint32_t(smallest))), high = rank_key(bits_float(uint32_t(largest)));
  keys.smallest = low < keys.smallest ? low : keys.smallest;
  keys.largest = high > keys.largest ? high : keys.largest;
}

// Counts the elements of a block whose T and bins are known.
template <class Real>
void sample(const Tensor& t, int64_t element, int n, const Real* transfer, const Real* gradient, const int32_t* bin,
            SampledKeys& keys) {
  over_counted(t, element, n, [&](int start, int size) {
    count_keys(size, transfer + start, gradient ? gradient + start : nullptr, bin + start, keys);
  });
}

// The same from the average behind T. Bins are computed for the counted elements only.
template <class Real>
void sample_average(const Tensor& t, int64_t element, int n, const Real* average, Real correction, const Real* gradient,
                    SampledKeys& keys) {
  over_counted(t, element, n, [&](int start, int size) {
    alignas(64) Real transfer[kSampleBlock];
    alignas(64) int32_t bin[kSampleBlock];
    corrected_transfer(size, average + start, correction, transfer);
    bins_of(t, size, transfer, bin);
    count_keys(size, transfer, gradient ? gradient + start : nullptr, bin, keys);
  });
}

}  // namespace
}  // namespace srft::cpu::SRFT_ISA
