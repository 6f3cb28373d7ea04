#include "penalty.h"

#include <algorithm>
#include <cstddef>

#include "launch.h"
#include "penalty_kernels.cuh"

namespace srft::cuda {
namespace {

// What the blocks leave for the last one: reports, a counter, and the total of the launches so far.
struct PenaltyScratch {
  double total;
  unsigned arrived;
  BlockReport reports[kMostBlocks];  // written before they are read
};

// Calls function(arguments, last) for the tensors in as many launches as they need. Without tensors there is one
// launch.
template <class Function>
void over_launches(const std::vector<PenaltyTensor>& tensors, const Function& function) {
  size_t done = 0;
  do {
    PenaltyArguments a{};
    uint64_t units = 0;
    uint32_t n = 0;
    for (; done < tensors.size() && n < kPenaltyTensors; ++done) {
      const PenaltyTensor& t = tensors[done];
      if (t.size == 0) continue;
      const bool aligned = (t.param | t.anchor | t.significance | t.gradient) % 16 == 0;
      const uint64_t dtypes = uint64_t(t.dtype) | uint64_t(t.anchor_dtype) << 2 | uint64_t(t.significance_dtype) << 4;
      const uint64_t entry[kPenaltyWords] = {t.param,
                                             t.anchor,
                                             t.significance,
                                             t.gradient,
                                             uint64_t(t.size) | dtypes << kDTypeShift | (aligned ? kAligned : 0),
                                             units};
      std::copy(entry, entry + kPenaltyWords, a.words + n * kPenaltyWords);
      units += units_of(uint64_t(t.size));
      ++n;
    }
    a.header.tensors = n;
    a.header.partition.units = units;
    function(a, done == tensors.size());
  } while (done < tensors.size());
}

}  // namespace

size_t penalty_scratch_bytes() { return sizeof(PenaltyScratch); }
size_t penalty_zeroed_bytes() { return offsetof(PenaltyScratch, reports); }

void penalty_value(const std::vector<PenaltyTensor>& tensors, const double* strength, void* value, bool wide,
                   void* scratch, int device, cudaStream_t stream) {
  const OnDevice guard(device);
  const uint32_t resident = resident_blocks(penalty_value_kernel);
  auto* s = static_cast<PenaltyScratch*>(scratch);
  over_launches(tensors, [&](PenaltyArguments& a, bool last) {
    PenaltyHeader& h = a.header;
    // A launch without elements still writes the value, by one block that has nothing to add.
    if (h.partition.units == 0) h.partition.units = 1;
    h.partition.blocks = uint32_t(std::min<uint64_t>(h.partition.units, resident));
    h.factor = strength;
    h.reports = s->reports;
    h.arrived = &s->arrived;
    h.total = &s->total;
    h.value = last ? value : nullptr;
    h.wide = wide;
    launch(penalty_value_kernel, a, h.partition.blocks, stream);
  });
}

void penalty_gradient(const std::vector<PenaltyTensor>& tensors, const double* factor, int device,
                      cudaStream_t stream) {
  const OnDevice guard(device);
  const uint32_t resident = resident_blocks(penalty_gradient_kernel);
  over_launches(tensors, [&](PenaltyArguments& a, bool) {
    if (a.header.partition.units == 0) return;
    a.header.partition.blocks = uint32_t(std::min<uint64_t>(a.header.partition.units, resident));
    a.header.factor = factor;
    launch(penalty_gradient_kernel, a, a.header.partition.blocks, stream);
  });
}

}  // namespace srft::cuda
