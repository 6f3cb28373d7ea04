// What the operators need to know about a tensor, in torch's stable ABI.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Layout.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "../core/dtype.h"

namespace srft::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using TensorList = std::vector<Tensor>;

inline bool is_known(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
         dtype == ScalarType::Half;
}

inline DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    default: STD_TORCH_CHECK(false, "srft: tensors must be float32, float64, bfloat16 or float16");
  }
  return {};
}

// A tensor's metadata through the C interface that stable::Tensor wraps. It avoids the wrapper's copies and checks,
// because a step needs the metadata of hundreds of tensors. Sizes and strides point into the tensor.
struct Metadata {
  int32_t dtype, device_type, device_index, layout;
  int64_t dims;
  const int64_t *sizes, *strides;

  explicit Metadata(const Tensor& tensor) {
    AtenTensorHandle t = tensor.get();
    int64_t *size = nullptr, *stride = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(t, &layout));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t, &dtype));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t, &device_type));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t, &device_index));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(t, &dims));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(t, &size));
    sizes = size;
    if (is_strided()) TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(t, &stride));
    strides = stride;
  }

  bool is_strided() const { return layout == int32_t(torch::headeronly::Layout::Strided); }
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t d = 0; d < dims; ++d) n *= sizes[d];
    return n;
  }
  // Returns the number of elements from the first to the one furthest from it, counting both.
  int64_t reach() const {
    int64_t last = 1;
    for (int64_t d = 0; d < dims; ++d) last += (sizes[d] - 1) * strides[d];
    return last;
  }
  bool same_sizes(const Metadata& other) const {
    return dims == other.dims && std::equal(sizes, sizes + dims, other.sizes);
  }
  bool same_device(const Metadata& other) const {
    return device_type == other.device_type && device_index == other.device_index;
  }
  // Returns whether the elements have the same positions in memory. The stride of a dimension of size one moves
  // nothing.
  bool lies_like(const Metadata& other) const {
    if (!same_sizes(other) || !is_strided() || !other.is_strided()) return false;
    if (numel() == 0) return true;
    for (int64_t d = 0; d < dims; ++d) {
      if (sizes[d] != 1 && strides[d] != other.strides[d]) return false;
    }
    return true;
  }
  bool is_contiguous() const {
    if (!is_strided()) return false;
    if (numel() == 0) return true;
    int64_t expected = 1;
    for (int64_t d = dims - 1; d >= 0; --d) {
      if (sizes[d] != 1 && strides[d] != expected) return false;
      expected *= sizes[d];
    }
    return true;
  }
  // Returns whether the elements fill their memory without gaps or overlaps, in any order of dimensions.
  bool is_dense() const {
    if (!is_strided()) return false;
    int64_t expected = 1, d = dims - 1;
    for (; d >= 0 && (sizes[d] == 1 || strides[d] == expected); --d) expected *= sizes[d];
    if (d < 0 || numel() == 0) return true;  // contiguous
    std::vector<std::pair<int64_t, int64_t>> by_stride;
    for (d = 0; d < dims; ++d) {
      if (sizes[d] != 1) by_stride.emplace_back(strides[d], sizes[d]);
    }
    std::sort(by_stride.begin(), by_stride.end());
    expected = 1;
    for (const auto& [stride, size] : by_stride) {
      if (stride != expected) return false;
      expected *= size;
    }
    return true;
  }
};

// Returns whether a tensor's storage covers all of its elements. It does not if it was freed or shrunk.
inline bool has_memory(const Tensor& tensor, const Metadata& of, int64_t element_size) {
  int64_t bytes = 0, offset = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(tensor.get(), &offset));
  return (offset + of.reach()) * element_size <= bytes;
}

inline void* address_of(const Tensor& tensor) {
  void* address = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor.get(), &address));
  return address;
}

// A tensor's memory. As long as it compares equal, as many elements are where they were.
struct Memory {
  void* address = nullptr;  // null also where there are no elements
  int64_t bytes = -1, offset = -1;
  int32_t dtype = -1;

  static Memory of(const Tensor& tensor) {
    Memory m;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &m.dtype));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &m.bytes));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(tensor.get(), &m.offset));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor.get(), &m.address));
    return m;
  }
  bool operator==(const Memory&) const = default;
};

}  // namespace srft::ops
