// The dtypes of tensors, with the numbers that Python passes for them (srft_kernels/ops/tensors.py).
#pragma once

namespace srft {

enum class DType : int { kFloat32, kFloat64, kBFloat16, kFloat16 };

constexpr int bytes_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : (dtype == DType::kFloat32 ? 4 : 2); }

}  // namespace srft
