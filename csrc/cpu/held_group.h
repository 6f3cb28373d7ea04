// The tensors of a parameter group. They are held from step to step and checked in every step, whatever the caller
// passes. A step that is refused has written nothing.
//
// A group keeps references to its state, but not to its parameters and gradients, which come with every step. A
// reference here would keep them from being swapped or freed.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <string>

#include "chunk.h"
#include "tensors.h"

namespace srft::ops {

// What a group keeps for each parameter besides the parameter itself, in the order of hold_group's arguments.
enum State { kFirst, kSecond, kMaximum, kPrevious, kAnchor, kPrior, kTransfer, kCurvature, kPath, kStates };
constexpr const char* kStateNames[kStates] = {
    "first moment", "second moment", "maximum of second moments", "weights before the step",
    "anchor",       "prior",         "transfer significance",     "curvature",
    "path"};
constexpr bool is_written(int state) { return state != kAnchor && state != kPrior; }

constexpr int64_t kRows = -1;
struct Span {
  uintptr_t begin, end;
  int64_t owner;  // the parameter that it belongs to, or kRows
  bool operator<(const Span& other) const { return begin < other.begin; }
};

// What a parameter was when its group was made.
struct Form {
  int32_t dtype;
  DType kind;
  int64_t size, bytes;  // the number of elements, and the bytes of one
  std::vector<int64_t> sizes, strides;

  explicit Form(const Tensor& param, const Metadata& m)
      : dtype(m.dtype),
        kind(dtype_of(param)),
        size(m.numel()),
        bytes(bytes_of(kind)),
        sizes(m.sizes, m.sizes + m.dims),
        strides(m.strides, m.strides + m.dims) {}
  ScalarType state() const { return kind == DType::kFloat64 ? ScalarType::Double : ScalarType::Float; }
  bool fits(const Metadata& m) const {
    if (m.dims != int64_t(sizes.size()) || !m.is_strided()) return false;
    for (int64_t d = 0; d < m.dims; ++d) {
      if (m.sizes[d] != sizes[size_t(d)]) return false;
      if (size > 0 && sizes[size_t(d)] != 1 && m.strides[d] != strides[size_t(d)]) return false;
    }
    return true;
  }
};

// The device of a group, and its name for messages. All CPUs count as one, whatever their number.
struct Place {
  int32_t type, index;
  const char* name;
  static Place of(const Tensor& tensor, torch::headeronly::DeviceType expected) {
    const bool on_cpu = expected == torch::headeronly::DeviceType::CPU;
    return {int32_t(expected), Metadata(tensor).device_index, on_cpu ? "the CPU" : "the group's CUDA device"};
  }
  bool has(const Metadata& m) const {
    return m.device_type == type && (type == int32_t(torch::headeronly::DeviceType::CPU) || m.device_index == index);
  }
};

class HeldGroup {
 public:
  // The group's device is the one on which `steps` lies. It must be of the library's kind.
  HeldGroup(const TensorList& params, std::array<TensorList, kStates> state, Tensor steps, Tensor statistics,
            Tensor scales, torch::headeronly::DeviceType device)
      : place_(Place::of(steps, device)),
        state_(std::move(state)),
        steps_(std::move(steps)),
        statistics_(std::move(statistics)),
        scales_(std::move(scales)) {
    for (size_t i = 0; i < params.size(); ++i) {
      const Metadata m(params[i]);
      STD_TORCH_CHECK(place_.has(m), "srft: parameter ", i, " is not on ", place_.name,
                      ": a library steps the tensors of its own device alone");
      STD_TORCH_CHECK(m.is_strided() && m.is_dense(), "srft: parameter ", i,
                      " is not dense: a plan is made for a dense copy of it");
      forms_.emplace_back(params[i], m);
    }
    for (int k = 0; k < kStates; ++k) {
      STD_TORCH_CHECK(state_[k].empty() || state_[k].size() == params.size(), "srft: ", state_[k].size(),
                      " tensors as ", kStateNames[k], " for ", params.size(),
                      " parameters: give one each, or none at all");
    }
    tensors_.resize(params.size());
    look_at_state();
  }

  // The choices and numbers of a step, after a check that a step has such ones.
  cpu::Options checked_options(const std::vector<double>& settings, const Tensor& report, int64_t flags,
                               int64_t phase) const {
    cpu::Options options{};
    constexpr int64_t kEveryFlag = (int64_t{kFoldGradient} << 1) - 1;
    STD_TORCH_CHECK(settings.size() == kSettings, "srft: ", settings.size(), " settings, not ", int(kSettings));
    STD_TORCH_CHECK(0 <= phase && phase <= 2, "srft: a step has no phase ", phase);
    STD_TORCH_CHECK((flags & ~kEveryFlag) == 0, "srft: unknown flags ", flags);
    options.bits = int32_t(flags);
    options.phase = static_cast<Phase>(phase);
    STD_TORCH_CHECK(options.inner() <= kSgd && options.mode() <= kCoupled && options.damping() <= kMean &&
                        options.normalize() <= kAbsolute,
                    "srft: the flags ", flags, " have a field with a value that stands for nothing");
    STD_TORCH_CHECK((options.inner() == kNone) == (options.phase != Phase::kFused),
                    "srft: a step with an inner optimizer is fused, and one without has a half before and one after");
    std::copy(settings.begin(), settings.end(), options.settings);
    for (int k : {kProbeSeedLow, kProbeSeedHigh, kProbeStep}) {
      STD_TORCH_CHECK(!options.folds_in(options.phase) || (0 <= settings[size_t(k)] && settings[size_t(k)] < 0x1p32),
                      "srft: the seed and the step of a probe are numbers from 0 to 2^32 - 1");
    }
    check_numbers(report, ScalarType::Double, kReport, "the report");
    return options;
  }

  // Refuses a tensor that is not `count` contiguous numbers on the group's device.
  void check_numbers(const Tensor& t, ScalarType dtype, int64_t count, const char* what) const {
    const Metadata m(t);
    STD_TORCH_CHECK(place_.has(m) && m.dtype == int32_t(dtype) && m.numel() == count && m.is_contiguous() &&
                        (count == 0 || has_memory(t, m, dtype == ScalarType::Double ? 8 : 4)),
                    "srft: ", what, " must be ", count, " contiguous ",
                    dtype == ScalarType::Double ? "float64" : "float32", " numbers on ", place_.name);
  }

  // Where all tensors of a step lie, after a check that they are still what the group was made for and that nothing
  // which the step writes shares memory with anything else. What is returned is the group's own, until the next step.
  std::vector<cpu::Tensor>& checked_tensors(const cpu::Options& options, const TensorList& params,
                                            const TensorList& grads, const TensorList& plus, const TensorList& minus,
                                            const Tensor& report) {
    const bool folds = options.folds_in(options.phase);
    check_count(params, "parameters", false);
    check_count(grads, "gradients", options.phase == Phase::kAfter);
    check_count(plus, "products (plus)", true);
    check_count(minus, "products (minus)", true);
    point_to_state(options);
    for (size_t i = 0; i < params.size(); ++i) {
      cpu::Tensor& t = tensors_[i];
      t.param = checked(params[i], i, "parameter");
      t.grad = grads.empty() || options.phase == Phase::kAfter ? nullptr : checked(grads[i], i, "gradient");
      t.plus = folds && !plus.empty() && plus[i].numel() > 0 ? checked(plus[i], i, "product (plus)") : nullptr;
      t.minus = t.plus && !minus.empty() && minus[i].numel() > 0 ? checked(minus[i], i, "product (minus)") : nullptr;
      if (t.size > 0) check_alone(t.param, t.grad, i);
    }
    check_parameters_apart();
    if (options.phase == Phase::kBefore) check_gradients_apart();
    check_report_apart(report);
    return tensors_;
  }

  std::mutex mutex;  // a step has its group to itself

  size_t count() const { return forms_.size(); }
  const Form& form(size_t i) const { return forms_[i]; }
  const Place& place() const { return place_; }
  // Returns whether the group has any state of a kind.
  bool has(int k) const { return !state_[k].empty(); }
  // Returns where a tensor of state lay at the last look, or null if the parameter has none.
  void* state(int k, size_t i) const { return state_[k].empty() ? nullptr : known_[k][i].address; }
  DType anchor_dtype(size_t i) const { return state(kAnchor, i) ? dtype_of(state_[kAnchor][i]) : forms_[i].kind; }
  void* steps() const { return known_rows_[0].address; }
  void* statistics() const { return known_rows_[1].address; }
  void* scales() const { return known_rows_[2].address; }
  // Returns a number that grows whenever state has moved.
  int64_t moves() const { return moves_; }

 private:
  void check_state(int k, size_t i) const {
    const Tensor& t = state_[k][i];
    const Metadata m(t);
    if (m.numel() == 0) return;  // this parameter has no such state
    const Form& form = forms_[i];
    STD_TORCH_CHECK(place_.has(m), "srft: the ", kStateNames[k], " of parameter ", i, " is not on ", place_.name);
    STD_TORCH_CHECK(form.fits(m), "srft: the ", kStateNames[k], " of parameter ", i,
                    " has another shape or layout than the parameter");
    const int32_t wide = int32_t(form.state());
    const bool may_be_beside = k == kPrevious || k == kAnchor;
    STD_TORCH_CHECK((m.dtype == wide && k != kPrevious) || (may_be_beside && m.dtype == form.dtype), "srft: the ",
                    kStateNames[k], " of parameter ", i,
                    " has the wrong dtype: state is float64 for float64 and float32 for all others; an anchor may have "
                    "its parameter's");
    STD_TORCH_CHECK(has_memory(t, m, bytes_of(dtype_of(t))), "srft: the ", kStateNames[k], " of parameter ", i,
                    " has less memory than elements: its storage was freed or shrunk");
  }

  void check_rows() const {
    const int64_t n = int64_t(forms_.size());
    check_numbers(steps_, ScalarType::Float, n, "steps");
    check_numbers(statistics_, ScalarType::Double, n * kStatistics, "statistics");
    check_numbers(scales_, ScalarType::Double, n * kScales, "scales");
  }

  void check_count(const TensorList& list, const char* what, bool may_be_empty) const {
    STD_TORCH_CHECK(list.size() == forms_.size() || (may_be_empty && list.empty()), "srft: ", list.size(), " ", what,
                    " for a group of ", forms_.size(), " parameters");
  }

  // Returns the address of a step's tensor, which must have the form that its parameter had.
  void* checked(const Tensor& tensor, size_t i, const char* what) const {
    const Form& form = forms_[i];
    const Metadata m(tensor);
    STD_TORCH_CHECK(place_.has(m) && m.dtype == form.dtype, "srft: ", what, " ", i,
                    " has another dtype or device than the parameter that the plan was made for");
    STD_TORCH_CHECK(form.fits(m), "srft: ", what, " ", i,
                    " has another shape or layout than the parameter that the plan was made for");
    if (form.size == 0) return nullptr;
    STD_TORCH_CHECK(has_memory(tensor, m, form.bytes), "srft: ", what, " ", i,
                    " has less memory than elements: its storage was freed or shrunk");
    return address_of(tensor);
  }

  // Finds the state's addresses, after a look at what was replaced, freed or resized since the last look, and a check
  // that the optimizer has all that it needs.
  void point_to_state(const cpu::Options& options) {
    if (has_moved()) look_at_state();
    for (size_t i = 0; i < forms_.size(); ++i) {
      const Form& form = forms_[i];
      void* place[kStates];
      for (int k = 0; k < kStates; ++k) place[k] = state(k, i);
      STD_TORCH_CHECK(form.size == 0 || options.inner() != kAdam || (place[kFirst] && place[kSecond]),
                      "srft: Adam needs both moments of parameter ", i);
      STD_TORCH_CHECK(form.size == 0 || !options.has(kAmsgrad) || options.inner() != kAdam || place[kMaximum],
                      "srft: AMSGrad needs the maximum of second moments of parameter ", i);
      cpu::Tensor& t = tensors_[i];
      t.size = form.size;
      t.dtype = form.kind;
      t.anchor_dtype = anchor_dtype(i);
      t.first_moment = place[kFirst];
      t.second_moment = place[kSecond];
      t.max_second_moment = place[kMaximum];
      t.previous = place[kPrevious];
      t.anchor = place[kAnchor];
      t.prior = place[kPrior];
      t.transfer = place[kTransfer];
      t.curvature = place[kCurvature];
      t.path = place[kPath];
      t.statistics = static_cast<double*>(statistics()) + i * kStatistics;
      t.taken = static_cast<float*>(steps()) + i;
      t.scales = static_cast<const double*>(scales()) + i * kScales;
    }
  }

  // Returns whether any tensor of state has other memory than at the last look. Tensors with the same memory were
  // checked then.
  bool has_moved() const {
    bool moved = false;
    for (int k = 0; k < kStates; ++k) {
      for (size_t i = 0; i < state_[k].size(); ++i) moved = moved || known_[k][i] != Memory::of(state_[k][i]);
    }
    const Tensor* rows[] = {&steps_, &statistics_, &scales_};
    for (int r = 0; r < 3; ++r) moved = moved || known_rows_[r] != Memory::of(*rows[r]);
    return moved;
  }

  // Checks all state, and finds all memory that a step writes, which no two tensors may share. If it refuses, the next
  // step looks again.
  void look_at_state() {
    for (auto& list : known_) list.clear();
    for (int k = 0; k < kStates; ++k) known_[k].resize(state_[k].size());
    for (Memory& m : known_rows_) m = {};
    std::vector<Span> written, read;
    for (int k = 0; k < kStates; ++k) {
      for (size_t i = 0; i < state_[k].size(); ++i) {
        check_state(k, i);
        const int64_t size = Metadata(state_[k][i]).numel();
        if (size == 0) continue;
        const uintptr_t begin = reinterpret_cast<uintptr_t>(address_of(state_[k][i]));
        const int64_t bytes = size * bytes_of(dtype_of(state_[k][i]));
        (is_written(k) ? written : read).push_back({begin, begin + uintptr_t(bytes), int64_t(i)});
      }
    }
    check_rows();
    const auto add = [](std::vector<Span>& to, const Tensor& t, int64_t width) {
      const uintptr_t begin = reinterpret_cast<uintptr_t>(address_of(t));
      if (t.numel() > 0) to.push_back({begin, begin + uintptr_t(t.numel() * width), kRows});
    };
    add(written, steps_, 4), add(written, statistics_, 8), add(read, scales_, 8);
    std::sort(written.begin(), written.end());
    for (size_t j = 1; j < written.size(); ++j) {
      STD_TORCH_CHECK(written[j - 1].end <= written[j].begin, "srft: state of ", owner_of(written[j - 1]), " and ",
                      owner_of(written[j]), " shares memory: each needs its own");
    }
    for (const Span& span : read) {
      STD_TORCH_CHECK(!overlaps(written, span.begin, span.end), "srft: the anchor or the prior of ", owner_of(span),
                      " shares memory with state that a step writes");
    }
    std::sort(read.begin(), read.end());
    // Tensors that are only read may overlap. Each end becomes the furthest so far, which `overlaps` asks for.
    for (size_t j = 1; j < read.size(); ++j) read[j].end = std::max(read[j].end, read[j - 1].end);
    written_ = std::move(written);
    read_ = std::move(read);
    for (int k = 0; k < kStates; ++k) {
      for (size_t i = 0; i < state_[k].size(); ++i) known_[k][i] = Memory::of(state_[k][i]);
    }
    known_rows_ = {Memory::of(steps_), Memory::of(statistics_), Memory::of(scales_)};
    ++moves_;
  }

  static std::string owner_of(const Span& span) {
    return span.owner == kRows ? "the group" : "parameter " + std::to_string(span.owner);
  }

  static bool overlaps(const std::vector<Span>& sorted, uintptr_t begin, uintptr_t end) {
    auto after = std::lower_bound(sorted.begin(), sorted.end(), Span{end, 0, 0});
    return after != sorted.begin() && std::prev(after)->end > begin;
  }
  // Refuses a parameter or gradient that shares memory with the state. A gradient may be its own parameter, because
  // elements are read before they are written.
  void check_alone(const void* param, const void* grad, size_t i) const {
    const Form& form = forms_[i];
    const auto span = [&](const void* at) { return reinterpret_cast<uintptr_t>(at); };
    const uintptr_t bytes = uintptr_t(form.size * form.bytes);
    bool shares =
        overlaps(written_, span(param), span(param) + bytes) || overlaps(read_, span(param), span(param) + bytes);
    if (grad && !shares) shares = overlaps(written_, span(grad), span(grad) + bytes);
    STD_TORCH_CHECK(!shares, "srft: parameter ", i, " or its gradient shares memory with the optimizer's state");
  }

  // Refuses parameters that share memory with one another, and gradients that share it with the parameters of others.
  void check_parameters_apart() {
    std::vector<Span>& spans = parameters_;
    bool same = spans.size() == count_sized();
    if (same) {
      for (size_t i = 0, k = 0; i < tensors_.size() && same; ++i) {
        if (tensors_[i].size > 0) same = order_of_parameters_[k++] == reinterpret_cast<uintptr_t>(tensors_[i].param);
      }
    }
    if (!same) {
      spans.clear();
      order_of_parameters_.clear();
      for (size_t i = 0; i < tensors_.size(); ++i) {
        if (tensors_[i].size == 0) continue;
        const uintptr_t begin = reinterpret_cast<uintptr_t>(tensors_[i].param);
        spans.push_back({begin, begin + uintptr_t(forms_[i].size * forms_[i].bytes), int64_t(i)});
        order_of_parameters_.push_back(begin);
      }
      std::sort(spans.begin(), spans.end());
      for (size_t j = 1; j < spans.size(); ++j) {
        const bool apart = spans[j - 1].end <= spans[j].begin;
        const int64_t one = spans[j - 1].owner, other = spans[j].owner;
        if (!apart) spans.clear(), order_of_parameters_.clear();
        STD_TORCH_CHECK(apart, "srft: parameters ", one, " and ", other, " share memory: name a shared weight once");
      }
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const cpu::Tensor& t = tensors_[i];
      if (t.size == 0 || !t.grad || t.grad == t.param) continue;
      const uintptr_t begin = reinterpret_cast<uintptr_t>(t.grad);
      STD_TORCH_CHECK(!overlaps(spans, begin, begin + uintptr_t(forms_[i].size * forms_[i].bytes)), "srft: gradient ",
                      i, " shares memory with a parameter");
    }
  }
  // The same for gradients among themselves, in the half of a step that writes them.
  void check_gradients_apart() const {
    std::vector<Span> spans;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (tensors_[i].size == 0) continue;
      const uintptr_t begin = reinterpret_cast<uintptr_t>(tensors_[i].grad);
      spans.push_back({begin, begin + uintptr_t(forms_[i].size * forms_[i].bytes), int64_t(i)});
    }
    std::sort(spans.begin(), spans.end());
    for (size_t j = 1; j < spans.size(); ++j) {
      STD_TORCH_CHECK(spans[j - 1].end <= spans[j].begin, "srft: the gradients of parameters ", spans[j - 1].owner,
                      " and ", spans[j].owner, " share memory, and this step writes them: give each its own");
    }
  }

  // Refuses a report, which a step writes, if it shares memory with anything else.
  void check_report_apart(const Tensor& report) const {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(address_of(report)), end = begin + kReport * sizeof(double);
    bool shares = overlaps(written_, begin, end) || overlaps(read_, begin, end) || overlaps(parameters_, begin, end);
    for (size_t i = 0; i < tensors_.size() && !shares; ++i) {
      const uintptr_t grad = reinterpret_cast<uintptr_t>(tensors_[i].grad);
      shares = grad && grad < end && begin < grad + uintptr_t(forms_[i].size * forms_[i].bytes);
    }
    STD_TORCH_CHECK(!shares, "srft: the report shares memory with a parameter, a gradient or state");
  }

  size_t count_sized() const {
    return size_t(std::count_if(forms_.begin(), forms_.end(), [](const Form& form) { return form.size > 0; }));
  }

  Place place_;
  std::array<TensorList, kStates> state_;
  Tensor steps_, statistics_, scales_;
  std::vector<Form> forms_;
  std::vector<cpu::Tensor> tensors_;
  std::array<std::vector<Memory>, kStates> known_;  // of the state, as it was last looked at
  std::array<Memory, 3> known_rows_;
  int64_t moves_ = 0;
  std::vector<Span> written_, read_, parameters_;  // sorted
  std::vector<uintptr_t> order_of_parameters_;
};

}  // namespace srft::ops
