#include "step_kernels.cuh"

namespace srft::cuda {

SRFT_INSTANTIATE_STEP(double);

}  // namespace srft::cuda
