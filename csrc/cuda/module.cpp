// Tells Python how the CUDA library was built, and how it divides tensors into launches. Whatever touches a tensor is
// an operator (operators.cpp).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "launch.h"
#include "plan.h"

namespace py = pybind11;

namespace {

using namespace srft;

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

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("srft: ") + what);
}

void require_cut(uint64_t units, uint32_t blocks) {
  require(units < uint64_t(1) << 32 && 1 <= blocks && blocks <= units,
          "there are from one block to as many as units, which are fewer than 2^32");
}

std::vector<uint64_t> shares(uint64_t units, uint32_t blocks) {
  require_cut(units, blocks);
  require(blocks <= cuda::kMostBlocks, "a launch has no more than most_blocks");
  const cuda::Partition cut{units, blocks};
  std::vector<uint64_t> begins;
  for (uint32_t b = 0; b <= blocks; ++b) begins.push_back(cut.begin(b));
  return begins;
}

uint32_t block_of(uint64_t units, uint32_t blocks, uint64_t unit) {
  require_cut(units, blocks);
  require(unit < units, "the unit is not one of those");
  return cuda::Partition{units, blocks}.block_of(unit);
}

size_t capacity(int columns) {
  require(1 <= columns && columns <= kColumns, "a tensor has one address at least, and one a column at most");
  return cuda::StepPlan::capacity(columns);
}

std::vector<std::vector<uint32_t>> launches(const std::vector<int64_t>& sizes, const std::vector<int>& dtypes,
                                            int columns) {
  capacity(columns);
  require(sizes.size() == dtypes.size() && sizes.size() < uint64_t(1) << 32, "each tensor has a size and a dtype");
  std::vector<DType> of;
  for (size_t i = 0; i < sizes.size(); ++i) {
    require(0 <= sizes[i] && sizes[i] <= int64_t(cuda::kSizeMask), "a size is from 0 to 2^48 - 1");
    require(0 <= dtypes[i] && dtypes[i] < 4, "a dtype is one of core/dtype.h's numbers");
    of.push_back(static_cast<DType>(dtypes[i]));
  }
  return cuda::StepPlan::cut(sizes, of, columns);
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
  m.attr("operators") = SRFT_CUDA_OPERATORS_NAME;
  m.def("capacity", &capacity, py::arg("columns"), "Tensors that one launch takes, if each has so many addresses.");
  m.def("launches", &launches, py::arg("sizes"), py::arg("dtypes"), py::arg("columns"),
        "Which tensors a step's launches take, if each has so many addresses.");
  m.def("shares", &shares, py::arg("units"), py::arg("blocks"), "First unit of every block, and the end.");
  m.def("block_of", &block_of, py::arg("units"), py::arg("blocks"), py::arg("unit"));
  m.def("units_of", [](uint64_t size) { return cuda::units_of(size); }, py::arg("size"));
}
