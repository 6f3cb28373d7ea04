// The rank of T among its tensor's, without a sort.
//
// A histogram over the bit pattern of T: the bits of a positive float, read as an integer, grow with it, and in steps
// of equal ratio, so they serve as a logarithm that costs nothing. 253 regular bins cover the middle 99 % of one
// tensor's non-zero values; zeros have a bin of their own. An element's rank is the mid-rank of its bin: exact for ties
// (a constant T has rank 1/2 everywhere), wrong by at most half a bin's share else.
//
// The histogram read in one step was filled by the step before, from all elements of a small tensor and from 64 of
// every 1024 elements, chosen by a hash, of a large one.
#pragma once

#include "contract.h"
#include "host_device.h"

namespace srft {

constexpr int64_t kSampleAll = 131072;  // up to here every element is counted
constexpr int kSampleBlock = 64;
constexpr int kSampleGroup = 1024;

// Which of a group's 16 blocks is counted. Hashed, so that no row length makes the sample miss columns (Murmur3's
// finaliser).
SRFT_CORE int sampled_block(int64_t group) {
  uint32_t h = uint32_t(group) ^ uint32_t(uint64_t(group) >> 32);
  h ^= h >> 16;
  h *= 0x85ebca6bu;
  h ^= h >> 13;
  h *= 0xc2b2ae35u;
  h ^= h >> 16;
  return int(h & 15u);
}

// log2 of T, about; 0 for zero. Monotone.
SRFT_CORE float rank_key(float transfer) { return float(int32_t(float_bits(transfer))) * 0x1p-23f; }

SRFT_CORE int32_t rank_bin(float transfer, float low, float density) {
  float position = (rank_key(transfer) - low) * density + 2.0f;
  position = position < 1.0f ? 1.0f : position;
  position = position > 255.0f ? 255.0f : position;
  // A mask and no choice, which g++ turns into one between two addresses of a table, and then vectorises nothing.
  const int32_t nonzero = transfer >= 1.17549435e-38f ? -1 : 0;
  return int32_t(position) & nonzero;
}

// Share of the counted elements whose key is below `key`, by linear interpolation within a regular bin; zeros are below
// all.
SRFT_CORE double share_below(const double* s, double total, double key) {
  const double* histogram = s + kHistogram;
  double below = histogram[0];
  const double position = (key - s[kLow]) * s[kDensity];
  if (position <= 0) {
    // Below the regular bins: interpolate over the span down to the smallest key seen.
    const double span = s[kLow] - s[kSmallest];
    double part = span > 0 ? (key - s[kSmallest]) / span : 0.0;
    part = part < 0 ? 0 : part;
    return (below + part * histogram[1]) / total;
  }
  below += histogram[1];
  const int whole = position < kBins - 3 ? int(position) : kBins - 3;
  for (int i = 0; i < whole; ++i) below += histogram[2 + i];
  if (whole < kBins - 3) {
    below += (position - whole) * histogram[2 + whole];
  } else {
    const double high = s[kLow] + (kBins - 3) / s[kDensity];
    const double span = s[kLargest] - high;
    double part = span > 0 ? (key - high) / span : 0.0;
    part = part < 0 ? 0 : (part > 1 ? 1 : part);
    below += part * histogram[kBins - 1];
  }
  return below / total;
}

// The key below which `share` of the non-zero elements lie.
SRFT_CORE double key_quantile(const double* s, double nonzero, double share) {
  const double* histogram = s + kHistogram;
  const double wanted = share * nonzero;
  const double high = s[kLow] + (kBins - 3) / s[kDensity];
  double below = histogram[1];
  if (below > wanted) return s[kSmallest];
  for (int i = 0; i < kBins - 3; ++i) {
    const double count = histogram[2 + i];
    if (count > 0 && below + count >= wanted) return s[kLow] + (i + (wanted - below) / count) / s[kDensity];
    below += count;
  }
  return s[kLargest] > high ? s[kLargest] : high;
}

constexpr double kNarrowestBin = 0x1p-14;  // in key units; a float key resolves 2^-16

// Volatile, because g++ 12 at -O2 and above drops the rounding of two neighbouring values (in its SLP vectoriser).
SRFT_CORE double rounded_to_float(double x) {
  volatile float rounded = float(x);
  return double(rounded);
}

SRFT_CORE void set_range(double* s, double low, double high) {
  const double narrowest = kNarrowestBin * (kBins - 3);
  if (!(high - low >= narrowest)) {
    const double middle = 0.5 * (low + high);
    low = middle - 0.5 * narrowest;
    high = middle + 0.5 * narrowest;
  }
  // Rounded to float because the element code reads floats; both sides then agree on every edge.
  s[kLow] = rounded_to_float(low);
  s[kDensity] = rounded_to_float((kBins - 3) / (high - low));
}

// Where the regular bins should lie next time. Left alone while it fits, because moving it blurs one step's ranks by a
// bin.
SRFT_CORE void next_range(const double* s, double* next) {
  const double* histogram = s + kHistogram;
  double nonzero = 0;
  for (int i = 1; i < kBins; ++i) nonzero += histogram[i];
  next[kLow] = s[kLow];
  next[kDensity] = s[kDensity];
  if (nonzero <= 0) return;
  const double low = key_quantile(s, nonzero, 0.005);
  const double high = key_quantile(s, nonzero, 0.995);
  const double width = (kBins - 3) / s[kDensity];
  const bool covers = histogram[1] <= 0.01 * nonzero && histogram[kBins - 1] <= 0.01 * nonzero;
  const bool narrow = width <= 1.5 * (high - low) || width <= 1.01 * kNarrowestBin * (kBins - 3);
  if (covers && narrow) return;
  const double margin = 0.05 * (high - low);
  set_range(next, low - margin, high + margin);
}

// mu/(1-mu) for every bin of the range in `next`, mu rising linearly with rank from mu_min to mu_max.
template <class Real>
SRFT_CORE void damping_table(const double* s, const double* next, double factor, double mu_min, double mu_max,
                             Real* table) {
  double total = 0;
  for (int i = 0; i < kBins; ++i) total += s[kHistogram + i];
  const bool moved = next[kLow] != s[kLow] || next[kDensity] != s[kDensity];
  double below = 0;
  for (int i = 0; i < kBins; ++i) {
    double rank = 0.5;
    if (total > 0 && (!moved || i == 0)) {
      rank = (below + 0.5 * s[kHistogram + i]) / total;
      below += s[kHistogram + i];
    } else if (total > 0) {
      const double start =
          i == 1 ? s[kHistogram] / total : share_below(s, total, next[kLow] + (i - 2) / next[kDensity]);
      const double end = i == kBins - 1 ? 1.0 : share_below(s, total, next[kLow] + (i - 1) / next[kDensity]);
      rank = 0.5 * (start + end);
    }
    const double mu = mu_min + (mu_max - mu_min) * rank;
    table[i] = Real(factor * mu / (1 - mu));
  }
}

}  // namespace srft
