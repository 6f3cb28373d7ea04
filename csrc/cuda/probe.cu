#include "probe.h"

#include <algorithm>

#include "launch.h"
#include "probe_kernels.cuh"

namespace srft::cuda {
namespace {

using Kernel = void (*)(ProbeArguments);

struct Scales {
  double scale, decay;
};

// Launches a kernel over some of the tensors, in as many launches as they need.
void over_launches(Kernel kernel, const std::vector<const ProbeTensor*>& tensors, const Draw& draw, Scales scales,
                   cudaStream_t stream) {
  const uint32_t resident = resident_blocks(kernel);
  size_t done = 0;
  while (done < tensors.size()) {
    ProbeArguments a{};
    ProbeHeader& h = a.header;
    h.draw = draw;
    h.scale = scales.scale;
    h.decay = scales.decay;
    uint64_t units = 0;
    for (; done < tensors.size() && h.tensors < kProbeTensors; ++done) {
      const ProbeTensor& t = *tensors[done];
      const uint64_t more = units_of(uint64_t(t.size));
      if ((units + more) >> 32) {
        if (units == 0) throw std::invalid_argument("srft: a tensor of a probe may have up to 8e12 elements");
        break;
      }
      const bool aligned = (t.target | t.from | t.minus) % 16 == 0;
      const uint64_t entry[kProbeWords] = {t.target, t.from, t.minus, uint64_t(t.size) | (aligned ? kAligned : 0),
                                           units | uint64_t(t.number) << 32};
      std::copy(entry, entry + kProbeWords, a.words + h.tensors * kProbeWords);
      units += more;
      ++h.tensors;
    }
    h.partition.units = units;
    h.partition.blocks = uint32_t(std::min<uint64_t>(units, resident));
    launch(kernel, a, h.partition.blocks, stream);
  }
}

// Launches, for each combination of dtypes, the kernel that `choose` returns for it.
template <class Choose>
void over_dtypes(const std::vector<ProbeTensor>& tensors, const Draw& draw, Scales scales, int device,
                 cudaStream_t stream, const Choose& choose) {
  std::vector<Kernel> kernels;
  std::vector<std::vector<const ProbeTensor*>> together;
  for (const ProbeTensor& t : tensors) {
    if (t.size == 0) continue;
    const Kernel kernel = choose(t);
    const size_t place = std::find(kernels.begin(), kernels.end(), kernel) - kernels.begin();
    if (place == kernels.size()) {
      kernels.push_back(kernel);
      together.emplace_back();
    }
    together[place].push_back(&t);
  }
  if (kernels.empty()) return;
  const OnDevice guard(device);
  for (size_t i = 0; i < kernels.size(); ++i) over_launches(kernels[i], together[i], draw, scales, stream);
}

Kernel fill_kernel(const ProbeTensor& t) {
  switch (t.dtype) {
    case DType::kFloat32: return probe_fill_kernel<float>;
    case DType::kFloat64: return probe_fill_kernel<double>;
    case DType::kBFloat16: return probe_fill_kernel<BFloat16>;
    case DType::kFloat16: return probe_fill_kernel<Half>;
  }
  throw std::invalid_argument("srft: an unknown dtype");
}

Kernel perturb_kernel(const ProbeTensor& t) {
  const bool same = t.from_dtype == t.dtype;
  if (!same && (bytes_of(t.dtype) != 2 || t.from_dtype != DType::kFloat32)) {
    throw std::invalid_argument("srft: originals must have their parameter's dtype or that of its arithmetic");
  }
  switch (t.dtype) {
    case DType::kFloat32: return probe_perturb_kernel<float, float>;
    case DType::kFloat64: return probe_perturb_kernel<double, double>;
    case DType::kBFloat16:
      return same ? probe_perturb_kernel<BFloat16, BFloat16> : probe_perturb_kernel<BFloat16, float>;
    case DType::kFloat16: return same ? probe_perturb_kernel<Half, Half> : probe_perturb_kernel<Half, float>;
  }
  throw std::invalid_argument("srft: an unknown dtype");
}

Kernel fold_kernel(const ProbeTensor& t) {
  if (t.dtype != (t.from_dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32)) {
    throw std::invalid_argument("srft: estimates must have the dtype of their gradients' arithmetic");
  }
  switch (t.from_dtype) {
    case DType::kFloat32: return probe_fold_kernel<float>;
    case DType::kFloat64: return probe_fold_kernel<double>;
    case DType::kBFloat16: return probe_fold_kernel<BFloat16>;
    case DType::kFloat16: return probe_fold_kernel<Half>;
  }
  throw std::invalid_argument("srft: an unknown dtype");
}

}  // namespace

void fill_probes(const std::vector<ProbeTensor>& tensors, const Draw& draw, int device, cudaStream_t stream) {
  over_dtypes(tensors, draw, {}, device, stream, fill_kernel);
}

void perturb(const std::vector<ProbeTensor>& tensors, const Draw& draw, double scale, int device, cudaStream_t stream) {
  over_dtypes(tensors, draw, {scale, 0.0}, device, stream, perturb_kernel);
}

void fold_probes(const std::vector<ProbeTensor>& tensors, const Draw& draw, double decay, double weight, int device,
                 cudaStream_t stream) {
  over_dtypes(tensors, draw, {weight, decay}, device, stream, fold_kernel);
}

}  // namespace srft::cuda
