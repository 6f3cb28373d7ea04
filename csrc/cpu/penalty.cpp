#include "penalty.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace srft::cpu {
namespace {

// Half-open ranges of chunks, one after another through all tensors.
struct Chunks {
  explicit Chunks(const std::vector<PenaltyTensor>& tensors) {
    for (const PenaltyTensor& t : tensors) {
      first.push_back(count);
      count += (t.size + kChunk - 1) / kChunk;
    }
  }
  std::vector<int64_t> first;
  int64_t count = 0;
};

// Calls function(chunk, tensor, begin, end) for every chunk, on torch's threads.
template <class Function>
void over_chunks(const std::vector<PenaltyTensor>& tensors, const Chunks& chunks, const Function& function) {
  const auto work = [&](int64_t from, int64_t to) {
    size_t tensor = std::upper_bound(chunks.first.begin(), chunks.first.end(), from) - chunks.first.begin() - 1;
    for (int64_t chunk = from; chunk < to; ++chunk) {
      while (tensor + 1 < tensors.size() && chunks.first[tensor + 1] <= chunk)
        ++tensor;  // past tensors without elements
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

}  // namespace

double penalty_sum(const std::vector<PenaltyTensor>& tensors) {
  const Chunks chunks(tensors);
  const Loops& kernel = loops();
  std::vector<double> partial(chunks.count);
  over_chunks(tensors, chunks, [&](int64_t chunk, const PenaltyTensor& t, int64_t begin, int64_t end) {
    partial[chunk] = kernel.penalty_value(t, begin, end);
  });
  double sum = 0;
  for (const double part : partial) sum += part;
  return sum;
}

void penalty_gradient(const std::vector<PenaltyTensor>& tensors, double factor) {
  const Chunks chunks(tensors);
  const Loops& kernel = loops();
  over_chunks(tensors, chunks, [&](int64_t, const PenaltyTensor& t, int64_t begin, int64_t end) {
    kernel.penalty_gradient(t, begin, end, factor);
  });
}

}  // namespace srft::cpu
