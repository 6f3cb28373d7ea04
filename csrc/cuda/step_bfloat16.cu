#include "step_kernels.cuh"

namespace srft::cuda {

SRFT_INSTANTIATE_STEP(BFloat16);

}  // namespace srft::cuda
