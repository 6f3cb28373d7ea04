// Runs work over the chunks of a list of tensors, on torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "chunk.h"

namespace srft::cpu {

// Half-open ranges of chunks, numbered through all tensors (anything with a `size`).
struct Chunks {
  template <class Tensor>
  explicit Chunks(const std::vector<Tensor>& tensors) {
    for (const Tensor& t : tensors) {
      first.push_back(count);
      count += (t.size + kChunk - 1) / kChunk;
    }
  }
  std::vector<int64_t> first;
  int64_t count = 0;
};

// Calls function(chunk, tensor, begin, end) for every chunk, in any order.
template <class Tensor, class Function>
void over_chunks(const std::vector<Tensor>& tensors, const Chunks& chunks, const Function& function) {
  const auto work = [&](int64_t from, int64_t to) {
    size_t tensor = std::upper_bound(chunks.first.begin(), chunks.first.end(), from) - chunks.first.begin() - 1;
    for (int64_t chunk = from; chunk < to; ++chunk) {
      while (tensor + 1 < tensors.size() && chunks.first[tensor + 1] <= chunk)
        ++tensor;  // skip tensors without elements
      const int64_t begin = (chunk - chunks.first[tensor]) * kChunk;
      function(chunk, tensors[tensor], begin, std::min(begin + kChunk, tensors[tensor].size));
    }
  };
  if (chunks.count > 1 && torch::stable::get_num_threads() > 1) {
    torch::stable::parallel_for(0, chunks.count, 1, work);
  } else if (chunks.count > 0) {
    work(0, chunks.count);
  }
}

}  // namespace srft::cpu
