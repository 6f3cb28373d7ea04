// Sums and scans over a block, in an order that does not depend on timing.
#pragma once

#include "arguments.h"

namespace srft::cuda {

constexpr unsigned kEveryLane = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;

// Returns the sum over the block of each of kCount values, in every thread. `room` holds kWarps * kCount values and may
// be reused at once.
template <int kCount>
__device__ __forceinline__ void block_sum(double (&value)[kCount], double* room) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) value[k] += __shfl_down_sync(kEveryLane, value[k], step);
    if (lane == 0) room[warp * kCount + k] = value[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    value[k] = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) value[k] += room[w * kCount + k];
  }
  __syncthreads();
}

// Returns the sum of this thread's value and those of the threads before it. It is for whole numbers, whose sum is
// exact.
__device__ __forceinline__ double block_inclusive_scan(double value, double* room) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const double before = __shfl_up_sync(kEveryLane, value, step);
    if (lane >= step) value += before;
  }
  if (lane == kWarp - 1) room[warp] = value;
  __syncthreads();
  for (int w = 0; w < warp; ++w) value += room[w];
  __syncthreads();
  return value;
}

// Returns true in every thread of the block that is the last of `expected` to count. That block may then read what all
// of them wrote. Every thread calls this after its own writes. The counter is left at zero.
__device__ __forceinline__ bool is_last(unsigned* arrived, unsigned expected, bool* room) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    *room = atomicAdd(arrived, 1u) == expected - 1;
    if (*room) *arrived = 0;
  }
  __syncthreads();
  const bool last = *room;
  if (last) __threadfence();
  return last;
}

}  // namespace srft::cuda
