// torch's operators as they are, but for its parallel loop, which csrc/cpu runs on. Here that is made of plain threads,
// which ThreadSanitizer sees through; torch's own come from an OpenMP library that is not instrumented.
#pragma once

#define get_num_threads get_num_threads_of_torch
#define parallel_for parallel_for_of_torch
#include_next <torch/csrc/stable/ops.h>
#undef get_num_threads
#undef parallel_for

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace torch::stable {

inline uint32_t thread_count = 1;
inline uint32_t get_num_threads() { return thread_count; }

template <class Function>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Function& function) {
  const int64_t most = std::max<int64_t>((end - begin) / std::max<int64_t>(grain, 1), 1);
  const int64_t threads = std::min<int64_t>(thread_count, most);
  std::vector<std::thread> workers;
  for (int64_t i = 0; i < threads; ++i) {
    const int64_t from = begin + (end - begin) * i / threads, to = begin + (end - begin) * (i + 1) / threads;
    workers.emplace_back([&function, from, to] { function(from, to); });
  }
  for (std::thread& worker : workers) worker.join();
}

}  // namespace torch::stable
