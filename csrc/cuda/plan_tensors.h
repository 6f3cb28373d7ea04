// The tensors of one parameter group as plain pointers, as srft_kernels/ops/cuda/plan.py passes them. A plan is made
// from them.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "../core/contract.h"
#include "../core/dtype.h"

namespace srft {

constexpr const char* kColumnNames[kColumns] = {
    "params",   "grads",   "plus",   "minus",     "first_moments", "second_moments", "max_second_moments",
    "previous", "anchors", "priors", "transfers", "curvatures",    "paths"};

struct PlanTensors {
  std::vector<int64_t> sizes;
  std::vector<DType> dtypes, anchor_dtypes;
  std::vector<uintptr_t> columns[kColumns];  // each is empty or has one address a tensor, 0 if that tensor has none
  float* steps;                              // (n,)
  double* statistics;                        // (n, kStatistics)
  const double* scales;                      // (n, kScales)

  PlanTensors(std::vector<int64_t> sizes_, const std::vector<int>& dtypes_, const std::vector<int>& anchor_dtypes_,
              const std::map<std::string, std::vector<uintptr_t>>& named, uintptr_t steps_, uintptr_t statistics_,
              uintptr_t scales_)
      : sizes(std::move(sizes_)),
        steps(reinterpret_cast<float*>(steps_)),
        statistics(reinterpret_cast<double*>(statistics_)),
        scales(reinterpret_cast<const double*>(scales_)) {
    for (int code : dtypes_) dtypes.push_back(static_cast<DType>(code));
    for (int code : anchor_dtypes_) anchor_dtypes.push_back(static_cast<DType>(code));
    if (dtypes.size() != count() || anchor_dtypes.size() != count()) {
      throw std::invalid_argument("srft: a plan needs one size and one dtype a tensor");
    }
    for (const auto& [name, addresses] : named) set(column_of(name), addresses);
  }

  size_t count() const { return sizes.size(); }
  bool has(Column column) const { return !columns[column].empty(); }
  void* at(Column column, size_t i) const {
    return has(column) ? reinterpret_cast<void*>(columns[column][i]) : nullptr;
  }
  void set(Column column, const std::vector<uintptr_t>& addresses) {
    if (!addresses.empty() && addresses.size() != count()) {
      throw std::invalid_argument("srft: " + std::to_string(addresses.size()) + " " + kColumnNames[column] + " for " +
                                  std::to_string(count()) + " parameters");
    }
    columns[column] = addresses;
  }

 private:
  static Column column_of(const std::string& name) {
    for (int i = 0; i < kColumns; ++i) {
      if (name == kColumnNames[i]) return static_cast<Column>(i);
    }
    throw std::invalid_argument("srft: a plan has no tensors called " + name);
  }
};

}  // namespace srft
