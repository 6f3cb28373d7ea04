// Estimates the rank of T within its tensor without a sort.
//
// It uses a histogram over the bit pattern of T. The bits of a positive float, read as an integer, grow with it in
// steps of equal ratio, so they serve as a logarithm that costs nothing. 253 regular bins cover the middle 99 % of one
// tensor's non-zero values, and zeros have a bin of their own. An element's rank is the mid-rank of its bin. It is
// exact for ties (a constant T has rank 1/2 everywhere), and otherwise wrong by at most half a bin's share.
//
// The histogram that a step reads was filled by the step before, from all elements of a small tensor and from 64 of
// every 1024 elements of a large one, which a hash chooses.
#pragma once

#include "contract.h"
#include "host_device.h"

namespace srft {

constexpr int64_t kSampleAll = 131072;  // up to this size every element is counted
constexpr int kSampleBlock = 64;
constexpr int kSampleGroup = 1024;

// Returns which of a group's 16 blocks is counted. It is a hash (Murmur3's finalizer), so that no row length makes the
// sample miss columns.
SRFT_CORE int sampled_block(int64_t group) {
  uint32_t h = uint32_t(group) ^ uint32_t(uint64_t(group) >> 32);
  h ^= h >> 16;
  h *= 0x85ebca6bu;
  h ^= h >> 13;
  h *= 0xc2b2ae35u;
  h ^= h >> 16;
  return int(h & 15u);
}

// Returns about log2 of T, and 0 for zero. It is monotone.
SRFT_CORE float rank_key(float transfer) { return float(int32_t(float_bits(transfer))) * 0x1p-23f; }

SRFT_CORE int32_t rank_bin(float transfer, float low, float density) {
  float position = (rank_key(transfer) - low) * density + 2.0f;
  // With the comparisons in this order NaN becomes 1. So the bin is one of the table's whatever the range is, which may
  // come with a checkpoint.
  position = position > 1.0f ? position : 1.0f;
  position = position < 255.0f ? position : 255.0f;
  // This is a mask and not a conditional, because g++ turns a conditional into one between two addresses of a table and
  // then vectorizes nothing.
  const int32_t nonzero = transfer >= 1.17549435e-38f ? -1 : 0;
  return int32_t(position) & nonzero;
}

// Sets below[i] to the number of elements counted in the bins before the i-th, for kBins + 1 values of i. Counts are
// whole numbers, so every order of addition gives the same result, serial or as a parallel scan.
SRFT_CORE void cumulate(const double* s, double* below) {
  below[0] = 0;
  for (int i = 0; i < kBins; ++i) below[i + 1] = below[i] + s[kHistogram + i];
}

// Returns the share of the counted elements whose key is below `key`, by linear interpolation within a regular bin.
// Zeros are below every key.
SRFT_CORE double share_below(const double* s, const double* below, double key) {
  const double* histogram = s + kHistogram;
  const double total = below[kBins];
  const double position = (key - s[kLow]) * s[kDensity];
  if (position <= 0) {
    // Below the regular bins, interpolate over the span down to the smallest key seen.
    const double span = s[kLow] - s[kSmallest];
    double part = span > 0 ? (key - s[kSmallest]) / span : 0.0;
    part = part < 0 ? 0 : part;
    return (below[1] + part * histogram[1]) / total;
  }
  const int whole = position < kBins - 3 ? int(position) : kBins - 3;
  if (whole < kBins - 3) return (below[2 + whole] + (position - whole) * histogram[2 + whole]) / total;
  const double high = s[kLow] + (kBins - 3) / s[kDensity];
  const double span = s[kLargest] - high;
  double part = span > 0 ? (key - high) / span : 0.0;
  part = part < 0 ? 0 : (part > 1 ? 1 : part);
  return (below[kBins - 1] + part * histogram[kBins - 1]) / total;
}

// Returns the key below which `share` of the non-zero elements lie.
SRFT_CORE double key_quantile(const double* s, const double* below, double share) {
  const double zeros = below[1];
  const double wanted = share * (below[kBins] - zeros);
  if (below[2] - zeros > wanted) return s[kSmallest];
  // Find the first regular bin that has elements and whose end reaches the share that is wanted.
  int first = 0, end = kBins - 3;
  while (first < end) {
    const int middle = (first + end) / 2;
    const double reached = below[3 + middle] - zeros;
    if (reached >= wanted && reached > below[2] - zeros) end = middle;
    else first = middle + 1;
  }
  const double high = s[kLow] + (kBins - 3) / s[kDensity];
  if (first == kBins - 3) return s[kLargest] > high ? s[kLargest] : high;
  const double before = below[2 + first] - zeros;
  return s[kLow] + (first + (wanted - before) / s[kHistogram + 2 + first]) / s[kDensity];
}

constexpr double kNarrowestBin = 0x1p-14;  // in key units; a float key resolves 2^-16

SRFT_CORE double rounded_to_float(double x) {
#if defined(__CUDA_ARCH__)
  return double(float(x));
#else
  // This is volatile, because g++ 12 at -O2 and above drops the rounding of two neighboring values (in its SLP
  // vectorizer).
  volatile float rounded = float(x);
  return double(rounded);
#endif
}

SRFT_CORE void set_range(double* s, double low, double high) {
  const double narrowest = kNarrowestBin * (kBins - 3);
  if (!(high - low >= narrowest)) {
    const double middle = 0.5 * (low + high);
    low = middle - 0.5 * narrowest;
    high = middle + 0.5 * narrowest;
  }
  // Both are rounded to float because the element code reads floats. Host and elements then agree on every edge.
  s[kLow] = rounded_to_float(low);
  s[kDensity] = rounded_to_float((kBins - 3) / (high - low));
}

// Sets the next range of the regular bins. A range that still fits is kept, because moving it blurs one step's ranks by
// a bin.
SRFT_CORE void next_range(const double* s, const double* below, double* next) {
  const double* histogram = s + kHistogram;
  const double nonzero = below[kBins] - below[1];
  next[kLow] = s[kLow];
  next[kDensity] = s[kDensity];
  if (nonzero <= 0) {
    if (!(s[kDensity] > 0)) set_range(next, 0.0, 256.0);  // nothing was ever counted: cover every key
    return;
  }
  const double low = key_quantile(s, below, 0.005);
  const double high = key_quantile(s, below, 0.995);
  const double width = (kBins - 3) / s[kDensity];
  const bool covers = histogram[1] <= 0.01 * nonzero && histogram[kBins - 1] <= 0.01 * nonzero;
  const bool narrow = width <= 1.5 * (high - low) || width <= 1.01 * kNarrowestBin * (kBins - 3);
  if (covers && narrow) return;
  const double margin = 0.05 * (high - low);
  set_range(next, low - margin, high + margin);
}

// Returns the rank that the i-th bin of the range in `next` stands for, which is the middle of its share.
SRFT_CORE double bin_rank(const double* s, const double* below, const double* next, int i) {
  const double total = below[kBins];
  if (!(total > 0)) return 0.5;
  const bool moved = next[kLow] != s[kLow] || next[kDensity] != s[kDensity];
  if (!moved || i == 0) return (below[i] + 0.5 * s[kHistogram + i]) / total;
  const double start = i == 1 ? below[1] / total : share_below(s, below, next[kLow] + (i - 2) / next[kDensity]);
  const double end = i == kBins - 1 ? 1.0 : share_below(s, below, next[kLow] + (i - 1) / next[kDensity]);
  return 0.5 * (start + end);
}

// Returns w_t of an element with that rank: mu/(1-mu) times `release`, where mu rises linearly with the rank from
// mu_min to mu_max and `release` is 1 - kappa.
SRFT_CORE double rank_damping(double rank, double release, double mu_min, double mu_max) {
  const double mu = mu_min + (mu_max - mu_min) * rank;
  return release * mu / (1 - mu);
}

}  // namespace srft
