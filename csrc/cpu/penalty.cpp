#include "penalty.h"

#include "over_chunks.h"

namespace srft::cpu {

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
