// Checks the lists of tensors that the operators of probes and of the penalty are called with. These checks hold for
// every caller, and refuse a list before anything is written.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <deque>
#include <initializer_list>
#include <string>

#include "penalty.h"
#include "probe.h"
#include "tensors.h"

namespace srft::ops {

using torch::headeronly::DeviceType;

// The memory of one tensor of a list, and the tensor's place in the list.
struct Stretch {
  uintptr_t begin, end;
  size_t at;
  bool operator<(const Stretch& other) const { return begin < other.begin; }
};

// The lists of a probe's operator, by name. The operator writes the first one. `numbers` key each tensor.
struct ProbeLists {
  struct Named {
    const char* name;
    const TensorList& list;
  };
  ProbeLists(DeviceType device, const char* what, std::initializer_list<Named> lists, int64_t seed, int64_t step,
             const std::vector<int64_t>& numbers)
      : draw{uint64_t(seed), uint32_t(step)} {
    const auto& [leading, first] = *lists.begin();
    constexpr int64_t kLargest = 0xffffffff;
    STD_TORCH_CHECK(numbers.size() == first.size(), what, " needs as many tensors as ", leading, ", got ",
                    numbers.size(), " for ", first.size());
    STD_TORCH_CHECK(0 <= step && step <= kLargest, what, " needs a step from 0 to 2^32 - 1, got ", step);
    for (const auto& [name, list] : lists) {
      STD_TORCH_CHECK(list.size() == first.size(), what, " needs as many ", name, " as ", leading, ", got ",
                      list.size(), " for ", first.size());
      for (size_t i = 0; i < list.size(); ++i) {
        const Metadata m(list[i]), leader(first[i]), origin(first[0]);
        STD_TORCH_CHECK(m.device_type == int32_t(device) && m.same_device(origin), what,
                        " needs all tensors on one device, got ", name, " on another at position ", i);
        STD_TORCH_CHECK(m.is_dense(), what, " counts elements as they lie in memory, so ", name,
                        " must be dense; that at position ", i, " is not");
        STD_TORCH_CHECK(m.lies_like(leader), what, ": ", name, " and ", leading, " at position ", i,
                        " are laid out differently");
        STD_TORCH_CHECK(m.numel() == 0 || has_memory(list[i], m, bytes_of(dtype_of(list[i]))), what, ": ", name,
                        " at position ", i, " has less memory than elements: its storage was freed or shrunk");
      }
    }
    for (size_t i = 0; i < first.size(); ++i) {
      STD_TORCH_CHECK(0 <= numbers[i] && numbers[i] <= kLargest, what,
                      " needs numbers of tensors from 0 to 2^32 - 1, got ", numbers[i], " at position ", i);
      cpu::ProbeTensor t{};
      t.size = first[i].numel();
      t.number = uint32_t(numbers[i]);
      t.dtype = dtype_of(first[i]);
      t.target = address_of(first[i]);
      auto read = lists.begin();
      if (++read != lists.end()) {
        t.from = address_of(read->list[i]);
        t.from_dtype = dtype_of(read->list[i]);
      }
      if (read != lists.end() && ++read != lists.end()) {
        t.minus = address_of(read->list[i]);
        t.minus_dtype = dtype_of(read->list[i]);
      }
      tensors.push_back(t);
    }
    check_apart(what, leading);
  }
  Draw draw;
  std::vector<cpu::ProbeTensor> tensors;

 private:
  // Refuses tensors that share memory with one that is written, unless they are read for the very same elements.
  void check_apart(const char* what, const char* leading) const {
    std::vector<Stretch> written;
    const auto stretch = [](const void* at, int64_t size, DType dtype, size_t i) {
      const uintptr_t begin = reinterpret_cast<uintptr_t>(at);
      return Stretch{begin, begin + uintptr_t(size * bytes_of(dtype)), i};
    };
    for (size_t i = 0; i < tensors.size(); ++i) {
      const cpu::ProbeTensor& t = tensors[i];
      if (t.size > 0) written.push_back(stretch(t.target, t.size, t.dtype, i));
    }
    std::sort(written.begin(), written.end());
    for (size_t j = 1; j < written.size(); ++j) {
      STD_TORCH_CHECK(written[j - 1].end <= written[j].begin, what, ": ", leading, " at positions ", written[j - 1].at,
                      " and ", written[j].at, " share memory, and both are written: name a tensor once");
    }
    for (size_t i = 0; i < tensors.size(); ++i) {
      const cpu::ProbeTensor& t = tensors[i];
      for (const auto& [at, dtype] : {std::pair{t.from, t.from_dtype}, std::pair{t.minus, t.minus_dtype}}) {
        if (!at || t.size == 0 || (at == t.target && dtype == t.dtype)) continue;
        const Stretch read = stretch(at, t.size, dtype, i);
        const auto after = std::lower_bound(written.begin(), written.end(), Stretch{read.end, 0, 0});
        const bool shares = after != written.begin() && std::prev(after)->end > read.begin;
        STD_TORCH_CHECK(!shares, what, ": what is read at position ", i, " shares memory with ", leading,
                        ", which are written");
      }
    }
  }
};

// Returns the lists of a fold: with estimates from `plus` alone, `minus` is empty.
inline ProbeLists fold_lists(DeviceType device, const char* what, const TensorList& estimates, const TensorList& plus,
                             const TensorList& minus, int64_t seed, int64_t step, const std::vector<int64_t>& numbers) {
  if (minus.empty()) return {device, what, {{"estimates", estimates}, {"plus", plus}}, seed, step, numbers};
  return {device, what, {{"estimates", estimates}, {"plus", plus}, {"minus", minus}}, seed, step, numbers};
}

// Refuses a penalty's tensor if it lacks the memory that its elements need.
inline void check_memory(const Tensor& tensor, const std::string& what) {
  const Metadata m(tensor);
  const bool there = m.is_strided() && (m.numel() == 0 || (is_known(tensor.scalar_type())
                                                               ? has_memory(tensor, m, bytes_of(dtype_of(tensor)))
                                                               : address_of(tensor) != nullptr));
  STD_TORCH_CHECK(there, "significance_penalty: ", what,
                  " has less memory than elements: its storage was freed or shrunk");
}

// Refuses the lists of a penalty unless they have equal lengths and shapes, and lie on one device of the library's
// kind.
inline void check_penalty(DeviceType device, const TensorList& params, const TensorList& anchors,
                          const TensorList& significance) {
  STD_TORCH_CHECK(params.size() == anchors.size() && params.size() == significance.size(),
                  "significance_penalty: ", params.size(), " parameters, ", anchors.size(), " anchors, ",
                  significance.size(), " significances");
  for (size_t i = 0; i < params.size(); ++i) {
    const Metadata origin(params[0]);
    for (const TensorList* list : {&params, &anchors, &significance}) {
      const Metadata m((*list)[i]);
      STD_TORCH_CHECK(m.device_type == int32_t(device) && m.same_device(origin), "significance_penalty: a tensor at ",
                      "position ", i, " is on another device");
      STD_TORCH_CHECK(m.same_sizes(Metadata(params[i])), "significance_penalty: shapes differ at position ", i);
      check_memory((*list)[i], "a tensor at position " + std::to_string(i));
    }
  }
}

// Returns a tensor as the penalty's loops read it: contiguous, and widened if they do not know its dtype.
inline Tensor readable(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  return torch::stable::contiguous(is_known(dtype) ? tensor : torch::stable::to(tensor, ScalarType::Float));
}

// The lists of the penalty, and the contiguous copies that they point into.
struct PenaltyLists {
  PenaltyLists(DeviceType device, const TensorList& params, const TensorList& anchors, const TensorList& significance) {
    check_penalty(device, params, anchors, significance);
    for (size_t i = 0; i < params.size(); ++i) {
      const Tensor& p = kept.emplace_back(readable(params[i]));
      const Tensor& a = kept.emplace_back(readable(anchors[i]));
      const Tensor& s = kept.emplace_back(readable(significance[i]));
      tensors.push_back({p.numel(), dtype_of(p), dtype_of(a), dtype_of(s), p.const_data_ptr(), a.const_data_ptr(),
                         s.const_data_ptr(), nullptr});
    }
  }
  std::deque<Tensor> kept;
  std::vector<cpu::PenaltyTensor> tensors;
};

}  // namespace srft::ops
