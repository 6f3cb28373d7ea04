#include "step.cuh"

namespace srft::cuda {

SRFT_INSTANTIATE_STEP(double);

}  // namespace srft::cuda
