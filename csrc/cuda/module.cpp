// The CUDA library for Python: plans (plan.cpp), the penalty, probes, and a record of what was built. Addresses and
// streams are passed as whole numbers. Nothing of torch is needed, so one build serves every torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "launch.h"
#include "penalty.h"
#include "plan.h"
#include "probe.h"

namespace py = pybind11;

namespace {

using namespace srft;
using cuda::pointer;

std::vector<py::dict> devices() {
  int count = 0;
  cuda::check(cudaGetDeviceCount(&count), "CUDA devices cannot be used");
  std::vector<py::dict> found;
  for (int i = 0; i < count; ++i) {
    int major = 0, minor = 0, processors = 0;
    cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i), "a device does not answer");
    cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i), "a device does not answer");
    cuda::check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, i), "a device does not answer");
    py::dict device;
    device["capability"] = std::to_string(major) + "." + std::to_string(minor);
    device["multiprocessors"] = processors;
    found.push_back(device);
  }
  return found;
}

// Makes the tensors of a penalty from their sizes, dtypes (three a tensor) and addresses (four a tensor, of which the
// last is 0 if there is no gradient).
std::vector<cuda::PenaltyTensor> penalty_tensors(const std::vector<int64_t>& sizes, const std::vector<int>& dtypes,
                                                 const std::vector<uintptr_t>& addresses) {
  if (dtypes.size() != 3 * sizes.size() || addresses.size() != 4 * sizes.size()) {
    throw std::invalid_argument("srft: the penalty needs three dtypes and four addresses a tensor");
  }
  std::vector<cuda::PenaltyTensor> tensors;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int* d = &dtypes[3 * i];
    const uintptr_t* a = &addresses[4 * i];
    tensors.push_back({sizes[i], DType(d[0]), DType(d[1]), DType(d[2]), a[0], a[1], a[2], a[3]});
  }
  return tensors;
}

// Makes the tensors of a probe from their sizes, numbers, dtypes (of target and from) and addresses (of target, from
// and minus; 0 if nothing is read).
std::vector<cuda::ProbeTensor> probe_tensors(const std::vector<int64_t>& sizes, const std::vector<uint32_t>& numbers,
                                             const std::vector<int>& dtypes, const std::vector<uintptr_t>& addresses) {
  if (numbers.size() != sizes.size() || dtypes.size() != 2 * sizes.size() || addresses.size() != 3 * sizes.size()) {
    throw std::invalid_argument("srft: probes need one number, two dtypes and three addresses a tensor");
  }
  std::vector<cuda::ProbeTensor> tensors;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const uintptr_t* a = &addresses[3 * i];
    tensors.push_back({sizes[i], numbers[i], DType(dtypes[2 * i]), DType(dtypes[2 * i + 1]), a[0], a[1], a[2]});
  }
  return tensors;
}

}  // namespace

PYBIND11_MODULE(SRFT_CUDA_MODULE, m) {
  m.doc() = "srft_kernels' CUDA kernels.";
  m.attr("version") = SRFT_VERSION;
  m.attr("toolkit") = SRFT_CUDA_TOOLKIT;
  m.attr("torch") = SRFT_CUDA_TORCH;
  m.attr("architectures") = SRFT_CUDA_ARCHITECTURES;
  m.attr("argument_bytes") = SRFT_CUDA_ARGUMENT_BYTES;
  m.attr("unit") = cuda::kUnit;
  m.attr("most_blocks") = cuda::kMostBlocks;
  m.def("devices", &devices, "Capability and multiprocessors of every device; RuntimeError where CUDA cannot be used.");
  m.def(
      "shares",
      [](uint64_t units, uint32_t blocks) {
        const cuda::Partition cut{units, blocks};
        std::vector<uint64_t> begins;
        for (uint32_t b = 0; b <= blocks; ++b) begins.push_back(cut.begin(b));
        return begins;
      },
      py::arg("units"), py::arg("blocks"), "First unit of every block, and the end.");
  m.def(
      "block_of",
      [](uint64_t units, uint32_t blocks, uint64_t unit) { return cuda::Partition{units, blocks}.block_of(unit); },
      py::arg("units"), py::arg("blocks"), py::arg("unit"));
  m.def("units_of", [](uint64_t size) { return cuda::units_of(size); }, py::arg("size"));
  cuda::bind_step_plan(m);
  m.def("penalty_scratch_bytes", &cuda::penalty_scratch_bytes);
  m.def("penalty_zeroed_bytes", &cuda::penalty_zeroed_bytes);
  m.def(
      "penalty_value",
      [](const std::vector<int64_t>& sizes, const std::vector<int>& dtypes, const std::vector<uintptr_t>& addresses,
         uintptr_t strength, uintptr_t value, bool wide, uintptr_t scratch, int device, uintptr_t stream) {
        cuda::penalty_value(penalty_tensors(sizes, dtypes, addresses), pointer<const double>(strength),
                            pointer<void>(value), wide, pointer<void>(scratch), device,
                            reinterpret_cast<cudaStream_t>(stream));
      },
      py::kw_only(), py::arg("sizes"), py::arg("dtypes"), py::arg("addresses"), py::arg("strength"), py::arg("value"),
      py::arg("wide"), py::arg("scratch"), py::arg("device"), py::arg("stream"));
  m.def(
      "penalty_gradient",
      [](const std::vector<int64_t>& sizes, const std::vector<int>& dtypes, const std::vector<uintptr_t>& addresses,
         uintptr_t factor, int device, uintptr_t stream) {
        cuda::penalty_gradient(penalty_tensors(sizes, dtypes, addresses), pointer<const double>(factor), device,
                               reinterpret_cast<cudaStream_t>(stream));
      },
      py::kw_only(), py::arg("sizes"), py::arg("dtypes"), py::arg("addresses"), py::arg("factor"), py::arg("device"),
      py::arg("stream"));
  m.def(
      "fill_probes",
      [](const std::vector<int64_t>& sizes, const std::vector<uint32_t>& numbers, const std::vector<int>& dtypes,
         const std::vector<uintptr_t>& addresses, uint64_t seed, uint32_t step, int device, uintptr_t stream) {
        cuda::fill_probes(probe_tensors(sizes, numbers, dtypes, addresses), {seed, step}, device,
                          reinterpret_cast<cudaStream_t>(stream));
      },
      py::kw_only(), py::arg("sizes"), py::arg("numbers"), py::arg("dtypes"), py::arg("addresses"), py::arg("seed"),
      py::arg("step"), py::arg("device"), py::arg("stream"));
  m.def(
      "perturb",
      [](const std::vector<int64_t>& sizes, const std::vector<uint32_t>& numbers, const std::vector<int>& dtypes,
         const std::vector<uintptr_t>& addresses, double scale, uint64_t seed, uint32_t step, int device,
         uintptr_t stream) {
        cuda::perturb(probe_tensors(sizes, numbers, dtypes, addresses), {seed, step}, scale, device,
                      reinterpret_cast<cudaStream_t>(stream));
      },
      py::kw_only(), py::arg("sizes"), py::arg("numbers"), py::arg("dtypes"), py::arg("addresses"), py::arg("scale"),
      py::arg("seed"), py::arg("step"), py::arg("device"), py::arg("stream"));
  m.def(
      "fold_probes",
      [](const std::vector<int64_t>& sizes, const std::vector<uint32_t>& numbers, const std::vector<int>& dtypes,
         const std::vector<uintptr_t>& addresses, double decay, double weight, uint64_t seed, uint32_t step, int device,
         uintptr_t stream) {
        cuda::fold_probes(probe_tensors(sizes, numbers, dtypes, addresses), {seed, step}, decay, weight, device,
                          reinterpret_cast<cudaStream_t>(stream));
      },
      py::kw_only(), py::arg("sizes"), py::arg("numbers"), py::arg("dtypes"), py::arg("addresses"), py::arg("decay"),
      py::arg("weight"), py::arg("seed"), py::arg("step"), py::arg("device"), py::arg("stream"));
}
