// srft::look finds how and where a list of tensors lies in memory, in one call (srft_kernels/ops/layouts.py).
#include "layouts.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <tuple>

#include "numbered.h"

namespace {

using namespace srft::ops;

// Returns the bytes of an element, for the dtypes that kernels know. The memory of other tensors is not looked at.
int64_t element_size(int32_t dtype) {
  switch (static_cast<ScalarType>(dtype)) {
    case ScalarType::Double: return 8;
    case ScalarType::Float: return 4;
    case ScalarType::BFloat16:
    case ScalarType::Half: return 2;
    default: return 0;
  }
}

class Fingerprint {
 public:
  void add(uint64_t x) {
    hash_ = (hash_ ^ x) * 0x9e3779b97f4a7c15u;
    hash_ ^= hash_ >> 29;
  }
  // Makes this fingerprint one that never repeats.
  void spoil() {
    static std::atomic<uint64_t> times{0};
    add(0x5b0117ed5b0117edu + ++times);
  }
  int64_t value() const { return int64_t(hash_); }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

Numbered<TensorList>& looks() {
  static auto* const all = new Numbered<TensorList>;
  return *all;
}

void forget_look(int64_t number) { looks().take(number); }

std::tuple<int64_t, Tensor, int64_t> look(TensorList tensors) {
  const int64_t count = int64_t(tensors.size());
  Tensor places = torch::stable::empty({count}, ScalarType::Long, std::nullopt,
                                       torch::stable::Device(torch::headeronly::DeviceType::CPU));
  int64_t* place = static_cast<int64_t*>(places.mutable_data_ptr());
  Fingerprint print;
  for (int64_t i = 0; i < count; ++i) {
    const Metadata m(tensors[size_t(i)]);
    place[i] = 0;
    const int64_t size = m.numel(), width = element_size(m.dtype);
    print.add(uint64_t(m.dtype) | uint64_t(m.layout) << 8 | uint64_t(m.device_type) << 16 |
              uint64_t(uint32_t(m.device_index)) << 32);
    print.add(uint64_t(m.dims));
    for (int64_t d = 0; d < m.dims; ++d) {
      print.add(uint64_t(m.sizes[d]));
      if (size > 0 && m.sizes[d] != 1 && m.is_strided()) print.add(uint64_t(m.strides[d]));
    }
    if (size == 0) continue;
    if (!m.is_strided() || width == 0 || !has_memory(tensors[size_t(i)], m, width)) {
      print.spoil();
      continue;
    }
    place[i] = int64_t(reinterpret_cast<uintptr_t>(address_of(tensors[size_t(i)])));
  }
  return {print.value(), places, looks().keep(std::move(tensors))};
}

}  // namespace

TensorList srft::ops::taken_look(int64_t number) {
  if (number == 0) return {};
  std::optional<TensorList> list = looks().take(number);
  STD_TORCH_CHECK(list.has_value(), "srft: there is no look ", number,
                  ": a step has taken it, or it was forgotten, or never made");
  return std::move(*list);
}

STABLE_TORCH_LIBRARY_FRAGMENT(srft, m) {
  m.def("look(Tensor[] tensors) -> (int, Tensor, int)");
  m.def("forget_look(int number) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(srft, CompositeExplicitAutograd, m) {
  m.impl("look", TORCH_BOX(&look));
  m.impl("forget_look", TORCH_BOX(&forget_look));
}
