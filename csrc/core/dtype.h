// How tensors are stored, in the numbers that ops/native.py hands over.
#pragma once

namespace srft {

enum class DType : int { kFloat32, kFloat64, kBFloat16, kFloat16 };

constexpr int bytes_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : (dtype == DType::kFloat32 ? 4 : 2); }

}  // namespace srft
