// What the launching code shares: errors as sentences, the number of blocks that fit, and the launch itself.
#pragma once

#include <stdexcept>
#include <string>

#include "arguments.h"

namespace srft::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("srft: ") + what + ": " + cudaGetErrorString(status));
}

// Makes a device current during its lifetime, and afterward the device that was.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "the current CUDA device is not known");
    if (device != before_) check(cudaSetDevice(device), "the CUDA device cannot be used");
    device_ = device;
  }
  ~OnDevice() {
    if (device_ != before_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0, device_ = 0;
};

// Returns how many blocks of kThreads the current device runs at once. A grid of that size has no second wave.
template <class Arguments>
uint32_t resident_blocks(void (*kernel)(Arguments)) {
  int device = 0, processors = 0, each = 0;
  check(cudaGetDevice(&device), "the current CUDA device is not known");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "the device does not answer");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, reinterpret_cast<const void*>(kernel), kThreads, 0),
        "the library has no kernel for this device (TORCH_CUDA_ARCH_LIST names the architectures to build for)");
  const uint32_t all = uint32_t(processors) * uint32_t(each);
  return all < 1 ? 1 : (all < kMostBlocks ? all : kMostBlocks);
}

template <class Arguments>
void launch(void (*kernel)(Arguments), const Arguments& arguments, uint32_t blocks, cudaStream_t stream) {
#if defined(SRFT_CUDA_ON_HOST)
  (void)stream;
  cuda_on_host::run(blocks, kThreads, [&] { kernel(arguments); });
#else
  void* pointers[] = {const_cast<Arguments*>(&arguments)};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(blocks), dim3(kThreads), pointers, 0, stream),
        "a kernel could not be launched");
#endif
}

}  // namespace srft::cuda
