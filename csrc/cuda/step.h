// The kernels of a step, by dtype. Each is defined in a file of its own, so that they compile in parallel.
#pragma once

#include "../core/codecs.h"
#include "arguments.h"

namespace srft::cuda {

enum class StepKernel : int { kFusedAdam, kFusedAdamRanked, kAnyStep, kPrepare };
constexpr int kStepKernels = 4;

template <class Stored>
uint32_t resident_step_blocks(StepKernel kernel);
template <class Stored>
void launch_step(StepKernel kernel, const StepArguments& arguments, cudaStream_t stream);

#define SRFT_DECLARE_STEP(Stored)                                    \
  extern template uint32_t resident_step_blocks<Stored>(StepKernel); \
  extern template void launch_step<Stored>(StepKernel, const StepArguments&, cudaStream_t)
SRFT_DECLARE_STEP(float);
SRFT_DECLARE_STEP(double);
SRFT_DECLARE_STEP(BFloat16);
SRFT_DECLARE_STEP(Half);
#undef SRFT_DECLARE_STEP

}  // namespace srft::cuda
