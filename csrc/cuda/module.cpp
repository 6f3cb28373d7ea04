// The CUDA library for Python: plans, the penalty, probes, and what was built. Addresses and streams are whole numbers;
// nothing of torch is needed, so one build serves every torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "launch.h"
#include "penalty.h"
#include "plan.h"
#include "probe.h"

namespace py = pybind11;

namespace {

using namespace srft;

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

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

cuda::StepPlan make_plan(std::vector<int64_t> sizes, const std::vector<int>& dtypes,
                         const std::vector<int>& anchor_dtypes,
                         const std::map<std::string, std::vector<uintptr_t>>& columns, uintptr_t steps,
                         uintptr_t statistics, uintptr_t scales, int device, uintptr_t scratch) {
  const PlanTensors tensors(std::move(sizes), dtypes, anchor_dtypes, columns, steps, statistics, scales);
  return cuda::StepPlan(tensors, device, pointer<void>(scratch));
}

// Where a list of addresses begins in memory of the host, and how many they are.
using List = std::pair<uintptr_t, size_t>;

void step(cuda::StepPlan& plan, List params, List grads, List plus, List minus,
          const std::array<double, kSettings>& settings, uintptr_t device_settings, uintptr_t means,
          uintptr_t found_inf, uintptr_t grad_scale, uintptr_t report, int flags, int phase, uintptr_t stream) {
  const auto list = [](const List& of) {
    return cuda::StepPlan::Addresses{pointer<const int64_t>(of.first), of.second};
  };
  plan.step({list(params), list(grads), list(plus), list(minus)},
            {settings, pointer<const double>(device_settings), pointer<const double>(means),
             pointer<const float>(found_inf), pointer<const float>(grad_scale), pointer<double>(report), flags,
             static_cast<Phase>(phase), reinterpret_cast<cudaStream_t>(stream)});
}

// Sizes, dtypes (three a tensor) and addresses (four a tensor, the last 0 where there is no gradient).
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

// Sizes, numbers, dtypes (of target and from) and addresses (of target, from and minus; 0 where nothing is read).
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
  m.def("capacity", &cuda::StepPlan::capacity, py::arg("columns"),
        "Tensors that one launch takes, if each has so many addresses.");
  m.def("scratch_bytes", &cuda::StepPlan::scratch_bytes, py::arg("tensors"));
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
  // Of this module alone: the tests load the same code, compiled for the host, beside it.
  py::class_<cuda::StepPlan>(m, "Plan", py::module_local(),
                             "A parameter group's tensors on a device, cut into launches.")
      .def(py::init(&make_plan), py::kw_only(), py::arg("sizes"), py::arg("dtypes"), py::arg("anchor_dtypes"),
           py::arg("columns"), py::arg("steps"), py::arg("statistics"), py::arg("scales"), py::arg("device"),
           py::arg("scratch"))
      .def_property_readonly("launches", &cuda::StepPlan::launches)
      .def_property_readonly("tensors_by_launch", &cuda::StepPlan::tensors_by_launch)
      .def("step", &step, py::arg("params"), py::arg("grads"), py::arg("plus"), py::arg("minus"), py::arg("settings"),
           py::arg("device_settings"), py::arg("means"), py::arg("found_inf"), py::arg("grad_scale"), py::arg("report"),
           py::arg("flags"), py::arg("phase"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
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
