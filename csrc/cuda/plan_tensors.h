// The tensors of one parameter group as plain pointers. A plan is made from them.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/contract.h"
#include "../core/dtype.h"

namespace srft {

struct PlanTensors {
  std::vector<int64_t> sizes;
  std::vector<DType> dtypes, anchor_dtypes;
  std::vector<void*> columns[kColumns];  // each empty, or one address a tensor; null where that tensor has none
  float* steps;                          // (n,)
  double* statistics;                    // (n, kStatistics)
  const double* scales;                  // (n, kScales)

  size_t count() const { return sizes.size(); }
  bool has(Column column) const { return !columns[column].empty(); }
  void* at(Column column, size_t i) const { return has(column) ? columns[column][i] : nullptr; }
};

}  // namespace srft
