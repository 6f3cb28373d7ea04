// Divides the elements of a launch's tensors into equal shares, one for each block.
//
// A tensor takes a whole number of units, at least one. Units are numbered through all tensors of a launch, and block b
// has those from begin(b) to begin(b + 1). A segment is what one block has of one tensor. Everything follows from a few
// whole numbers, and so does the order of every sum.
#pragma once

#include <cstdint>

#include "../core/host_device.h"

namespace srft::cuda {

constexpr int kUnit = 2048;  // elements; a multiple of what a block takes in one turn, whatever the dtype

SRFT_CORE uint64_t units_of(uint64_t size) { return size == 0 ? 1 : (size + kUnit - 1) / kUnit; }

struct Partition {
  uint64_t units;   // fewer than 2^32: 8 * 10^12 elements
  uint32_t blocks;  // at most `units`

  SRFT_MEMBER uint64_t begin(uint32_t block) const { return units * block / blocks; }
  SRFT_MEMBER uint32_t block_of(uint64_t unit) const { return uint32_t(((unit + 1) * blocks - 1) / units); }
  // Returns the number of blocks that share the units from `first` to before `end`.
  SRFT_MEMBER uint32_t segments(uint64_t first, uint64_t end) const { return block_of(end - 1) - block_of(first) + 1; }
};

// Returns the tensor that a unit belongs to.
template <class Arguments>
SRFT_CORE uint32_t tensor_of(const Arguments& a, uint64_t unit) {
  uint32_t first = 0, end = a.header.tensors;
  while (end - first > 1) {
    const uint32_t middle = (first + end) / 2;
    if (a.start(middle) <= unit) first = middle;
    else end = middle;
  }
  return first;
}

// Returns a segment's position among all segments of a launch. The next segment has either the next block or the next
// tensor, so no two segments have the same sum of both numbers, and a tensor's segments lie side by side.
SRFT_CORE uint32_t segment_slot(uint32_t block, uint32_t tensor) { return block + tensor; }

}  // namespace srft::cuda
