// The arguments of a launch: one struct in constant memory, which plan.cpp writes and the kernels read.
#pragma once

#if defined(SRFT_CUDA_ON_HOST)
#include "cuda_on_host.h"
#else
#include <cuda_runtime.h>
#endif

#include <cstdint>

#include "../core/contract.h"
#include "../core/dtype.h"
#include "../core/flags.h"
#include "../core/host_device.h"
#include "partition.h"

namespace srft::cuda {

// The largest size of a kernel's arguments: 32 KB from CUDA 12.1 on, 4 KB before. An argument read through
// __grid_constant__ is never copied to local memory.
#if !defined(SRFT_CUDA_ARGUMENT_BYTES)
#if CUDART_VERSION >= 12010
#define SRFT_CUDA_ARGUMENT_BYTES 32760
#else
#define SRFT_CUDA_ARGUMENT_BYTES 4096
#endif
#endif

constexpr int kThreads = 256;
constexpr uint32_t kMostBlocks = 4096;

// A tensor's counters between its first segment of a step and its last. They are all zero between launches, because
// whoever reads them last clears them.
struct TensorScratch {
  unsigned histogram[kBins];
  unsigned highest;  // the largest and the smallest T, as their bits and as from_above (segment.cuh); 0: none
  unsigned lowest;
  unsigned arrived;  // segments that are done
  unsigned unused;
};

// What a launch's blocks leave for the last of them.
struct BlockReport {
  double penalties[2];
  double nonfinite;
};

constexpr int kSums = 3;

struct Scratch {
  TensorScratch* tensors;  // of this launch
  BlockReport* reports;    // (blocks,)
  double* sums;            // sums of T, of the counts and of |H|: (blocks + tensors, kSums), by segment_slot
  unsigned* arrived;       // blocks that are done
};

constexpr uint16_t kNoColumn = 0xffff;
// A tensor's size and its alignment in one word. A column's bit says that its address is a multiple of 16 bytes.
constexpr uint64_t kSizeMask = (uint64_t(1) << 48) - 1;
constexpr int kAlignedShift = 48;
constexpr uint64_t kWideAnchor = uint64_t(1) << 63;  // the anchor is stored in the compute type
constexpr uint32_t kAllAligned = (uint32_t(1) << kColumns) - 1;
static_assert(kAlignedShift + kColumns < 63, "every column needs a bit");

struct StepHeader {
  double settings[kSettings];
  const double* device_settings;  // read instead of `settings` if not null
  const double* scales;           // (tensors of the plan, kScales)
  const double* means;            // sum and count of T over all tensors, for normalize="global"; else null
  const float* found_inf;         // null: no step is skipped
  const float* grad_scale;        // null: 1
  double* report;
  float* steps;        // (tensors of the plan,)
  double* statistics;  // (tensors of the plan, kStatistics)
  Scratch scratch;
  Partition partition;
  uint32_t tensors;
  Flags flags;
  Phase phase;
  uint16_t column[kColumns];  // where a column begins in `words`, or kNoColumn
  uint16_t sizes;             // likewise for sizes and their bits
  uint16_t starts;            // likewise for tensors + 1 first units, two in a word
  uint16_t rows;              // likewise for rows in steps, statistics and scales, two in a word
};

constexpr int kWords = (SRFT_CUDA_ARGUMENT_BYTES - int(sizeof(StepHeader))) / 8;

struct StepArguments {
  StepHeader header;
  uint64_t words[kWords];

  SRFT_MEMBER uint64_t address(Column column, uint32_t tensor) const {
    const uint16_t first = header.column[column];
    return first == kNoColumn ? 0 : words[first + tensor];
  }
  SRFT_MEMBER uint64_t size(uint32_t tensor) const { return words[header.sizes + tensor] & kSizeMask; }
  SRFT_MEMBER uint64_t bits(uint32_t tensor) const { return words[header.sizes + tensor]; }
  SRFT_MEMBER uint32_t start(uint32_t tensor) const { return half(header.starts, tensor); }
  SRFT_MEMBER uint32_t row(uint32_t tensor) const { return half(header.rows, tensor); }

 private:
  SRFT_MEMBER uint32_t half(uint16_t first, uint32_t i) const {
    const uint64_t word = words[first + i / 2];
    return uint32_t(i % 2 ? word >> 32 : word);
  }
};
static_assert(sizeof(StepArguments) <= SRFT_CUDA_ARGUMENT_BYTES, "a launch's arguments must fit");

}  // namespace srft::cuda
