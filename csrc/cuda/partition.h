// Who works on what: the elements of a launch's tensors cut into equal shares, one a block.
//
// A tensor takes a whole number of units, at least one. Units are numbered through all tensors of a launch, and block b
// has those from begin(b) to begin(b + 1). A segment is what one block has of one tensor. Everything follows from a few
// whole numbers, so that the order of every sum does, too.
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
  // Blocks that share the units from `first` to before `end`.
  SRFT_MEMBER uint32_t segments(uint64_t first, uint64_t end) const { return block_of(end - 1) - block_of(first) + 1; }
};

// The tensor that a unit belongs to.
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

// A segment's place among all of a launch's: going on takes either the next block or the next tensor, so the sum of
// both numbers is never taken twice, and a tensor's segments lie side by side.
SRFT_CORE uint32_t segment_slot(uint32_t block, uint32_t tensor) { return block + tensor; }

}  // namespace srft::cuda
