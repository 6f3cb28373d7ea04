#include "probe.h"

#include "over_chunks.h"

namespace srft::cpu {

void fill_probes(const std::vector<ProbeTensor>& tensors, const Draw& draw) {
  const Loops& kernel = loops();
  over_chunks(tensors, Chunks(tensors), [&](int64_t, const ProbeTensor& t, int64_t begin, int64_t end) {
    kernel.probe_fill(t, draw, begin, end);
  });
}

void perturb(const std::vector<ProbeTensor>& tensors, const Draw& draw, double scale) {
  const Loops& kernel = loops();
  over_chunks(tensors, Chunks(tensors), [&](int64_t, const ProbeTensor& t, int64_t begin, int64_t end) {
    kernel.probe_perturb(t, draw, begin, end, scale);
  });
}

void fold_probes(const std::vector<ProbeTensor>& tensors, const Draw& draw, double decay, double weight) {
  const Loops& kernel = loops();
  over_chunks(tensors, Chunks(tensors), [&](int64_t, const ProbeTensor& t, int64_t begin, int64_t end) {
    kernel.probe_fold(t, draw, begin, end, decay, weight);
  });
}

}  // namespace srft::cpu
