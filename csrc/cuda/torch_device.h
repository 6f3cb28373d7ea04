// What the operators ask of torch besides their tensors: the device that they serve, and its current stream.
#pragma once

#include <dlfcn.h>
#include <torch/headeronly/core/DeviceType.h>

#include "../cpu/tensors.h"
#include "arguments.h"

namespace srft::cuda {

#if defined(SRFT_CUDA_ON_HOST)
constexpr torch::headeronly::DeviceType kHere = torch::headeronly::DeviceType::CPU;
inline cudaStream_t current_stream(int) { return nullptr; }
#else
constexpr torch::headeronly::DeviceType kHere = torch::headeronly::DeviceType::CUDA;

// Returns torch's current stream on a device. No caller passes it, because an address could not be checked.
inline cudaStream_t current_stream(int device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = [] {
    void* const torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return torch_cuda ? reinterpret_cast<Get>(dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(get, "srft: this torch has no CUDA streams: the CUDA kernels need a torch that was built with CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get(device, &stream));
  return static_cast<cudaStream_t>(stream);
}
#endif

inline int device_of(const ops::Tensor& tensor) {
  const int32_t index = ops::Metadata(tensor).device_index;
  return index < 0 ? 0 : index;
}

}  // namespace srft::cuda

// The operators' namespace is a name of this library alone, because the tests load the same code, compiled for the
// host, beside it.
#define SRFT_LIBRARY(name, m) STABLE_TORCH_LIBRARY_FRAGMENT(name, m)
#define SRFT_LIBRARY_IMPL(name, key, m) STABLE_TORCH_LIBRARY_IMPL(name, key, m)
