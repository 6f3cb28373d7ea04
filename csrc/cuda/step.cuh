// The definitions behind step.h, for the files that instantiate them.
#pragma once

#include "launch.h"
#include "step.h"
#include "step_kernels.cuh"

namespace srft::cuda {

template <class Stored>
auto kernel_of(StepKernel kernel) -> void (*)(StepArguments) {
  switch (kernel) {
    case StepKernel::kFusedAdam: return fused_adam_kernel<Stored, false>;
    case StepKernel::kFusedAdamRanked: return fused_adam_kernel<Stored, true>;
    case StepKernel::kPrepare: return prepare_kernel<Stored>;
    default: return any_step_kernel<Stored>;
  }
}

template <class Stored>
uint32_t resident_step_blocks(StepKernel kernel) {
  return resident_blocks(kernel_of<Stored>(kernel));
}

template <class Stored>
void launch_step(StepKernel kernel, const StepArguments& arguments, cudaStream_t stream) {
  launch(kernel_of<Stored>(kernel), arguments, arguments.header.partition.blocks, stream);
}

#define SRFT_INSTANTIATE_STEP(Stored)                         \
  template uint32_t resident_step_blocks<Stored>(StepKernel); \
  template void launch_step<Stored>(StepKernel, const StepArguments&, cudaStream_t)

}  // namespace srft::cuda
