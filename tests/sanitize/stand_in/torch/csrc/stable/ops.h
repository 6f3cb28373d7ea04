// What csrc/cpu uses of torch: a parallel loop. Here by plain threads, which ThreadSanitizer sees through; torch's own
// come from an OpenMP library that is not instrumented.
#pragma once

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
