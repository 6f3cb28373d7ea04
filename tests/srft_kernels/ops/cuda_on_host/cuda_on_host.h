// CUDA's execution model on the host, as far as csrc/cuda uses it: so that the kernels' own code (walk, reductions,
// tickets, ranges) is run and compared with the reference where there is no GPU.
//
// The threads of a block are fibers on one operating-system thread, which change only at barriers and shuffles; blocks
// run one after the other, in an order that SRFT_CUDA_ON_HOST_ORDER (a seed) shuffles. What this cannot show is what
// only true concurrency can: a missing fence, a race between blocks. __syncthreads and shuffles check that every thread
// of the block or warp comes to the same one.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)

#define CUDART_VERSION 13000

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint4 {
  unsigned x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};

namespace cuda_on_host {
struct Index {
  unsigned x;
};
extern Index thread, block, grid;
void barrier();                                  // of the block
double exchange(double value, int lane_offset);  // of the warp: the value of lane + offset, or one's own
void run(unsigned blocks, unsigned threads, const std::function<void()>& body);
}  // namespace cuda_on_host

#define threadIdx cuda_on_host::thread
#define blockIdx cuda_on_host::block
#define gridDim cuda_on_host::grid

inline void __syncthreads() { cuda_on_host::barrier(); }
inline void __threadfence() {}
inline double __shfl_down_sync(unsigned, double value, int step) { return cuda_on_host::exchange(value, step); }
inline double __shfl_up_sync(unsigned, double value, int step) { return cuda_on_host::exchange(value, -step); }
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class Word>
Word __ldcs(const Word* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(Word))
    std::fprintf(stderr, "a wide read is not aligned\n"), std::abort();
  Word value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class Word>
void __stcs(Word* to, Word value) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(Word))
    std::fprintf(stderr, "a wide write is not aligned\n"), std::abort();
  std::memcpy(to, &value, sizeof value);
}
inline unsigned atomicAdd(unsigned* to, unsigned value) {
  const unsigned before = *to;
  *to += value;
  return before;
}
inline unsigned atomicMax(unsigned* to, unsigned value) {
  const unsigned before = *to;
  *to = before > value ? before : value;
  return before;
}

// The little of the runtime that csrc/cuda/launch.h calls. One device, of SRFT_CUDA_ON_HOST_BLOCKS resident blocks (7).
using cudaError_t = int;
using cudaStream_t = void*;
enum { cudaSuccess = 0 };
enum { cudaDevAttrMultiProcessorCount, cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
inline const char* cudaGetErrorString(cudaError_t) { return "cuda_on_host"; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
  const char* blocks = std::getenv("SRFT_CUDA_ON_HOST_BLOCKS");
  *value = attribute == cudaDevAttrMultiProcessorCount ? (blocks ? std::atoi(blocks) : 7) : 9;
  return cudaSuccess;
}
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* each, const void*, int, size_t) {
  return *each = 1, cudaSuccess;
}
