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
#include <unordered_map>

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

struct Span {
  uintptr_t begin, end;
  int64_t owner;  // the parameter that it belongs to
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

inline bool is_cpu(const Metadata& m) { return m.device_type == int32_t(torch::headeronly::DeviceType::CPU); }

class HeldGroup {
 public:
  HeldGroup(const TensorList& params, std::array<TensorList, kStates> state, Tensor steps, Tensor statistics,
            Tensor scales)
      : state_(std::move(state)),
        steps_(std::move(steps)),
        statistics_(std::move(statistics)),
        scales_(std::move(scales)) {
    for (size_t i = 0; i < params.size(); ++i) {
      const Metadata m(params[i]);
      STD_TORCH_CHECK(is_cpu(m), "srft: parameter ", i, " is not on the CPU: this library steps CPU tensors alone");
      STD_TORCH_CHECK(m.is_strided() && m.is_dense(), "srft: parameter ", i,
                      " is not dense: a plan is made for a dense copy of it");
      forms_.emplace_back(params[i], m);
    }
    for (int k = 0; k < kStates; ++k) {
      STD_TORCH_CHECK(state_[k].empty() || state_[k].size() == params.size(), "srft: ", state_[k].size(),
                      " tensors as ", kStateNames[k], " for ", params.size(),
                      " parameters: give one each, or none at all");
      for (size_t i = 0; i < state_[k].size(); ++i) check_state(k, i, params[i]);
    }
    check_rows(steps_, ScalarType::Float, 1, "steps");
    check_rows(statistics_, ScalarType::Double, kStatistics, "statistics");
    check_rows(scales_, ScalarType::Double, kScales, "scales");
    tensors_.resize(params.size());
    find_spans();
  }

  // The choices and numbers of a step, after a check that a step has such ones.
  static cpu::Options checked_options(const std::vector<double>& settings, const Tensor& report, int64_t flags,
                                      int64_t phase) {
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
    const Metadata m(report);
    STD_TORCH_CHECK(is_cpu(m) && m.dtype == int32_t(ScalarType::Double) && m.numel() == kReport &&
                        report.is_contiguous() && has_memory(report, m, 8),
                    "srft: the report must be ", kReport, " contiguous float64 numbers on the CPU");
    return options;
  }

  // Where all tensors of a step lie, after a check that they are still what the group was made for and that nothing
  // which the step writes shares memory with anything else. What is returned is the group's own, until the next step.
  std::vector<cpu::Tensor>& checked_tensors(const cpu::Options& options, const TensorList& params,
                                            const TensorList& grads, const TensorList& plus, const TensorList& minus) {
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
    return tensors_;
  }

  std::mutex mutex;  // a step has its group to itself

 private:
  void check_state(int k, size_t i, const Tensor& param) {
    const Tensor& t = state_[k][i];
    const Metadata m(t);
    if (m.numel() == 0) return;  // this parameter has no such state
    const Form& form = forms_[i];
    STD_TORCH_CHECK(is_cpu(m), "srft: the ", kStateNames[k], " of parameter ", i, " is not on the CPU");
    STD_TORCH_CHECK(m.lies_like(Metadata(param)), "srft: the ", kStateNames[k], " of parameter ", i,
                    " has another shape or layout than the parameter");
    const ScalarType dtype = t.scalar_type();
    const bool beside = k == kPrevious || (k == kAnchor && dtype != form.state());
    STD_TORCH_CHECK(dtype == (beside ? param.scalar_type() : form.state()), "srft: the ", kStateNames[k],
                    " of parameter ", i,
                    " has the wrong dtype: state is float64 for float64 and float32 for all others; an anchor may have "
                    "its parameter's");
  }

  void check_rows(const Tensor& t, ScalarType dtype, int64_t width, const char* what) const {
    const Metadata m(t);
    const int64_t bytes = dtype == ScalarType::Double ? 8 : 4;
    STD_TORCH_CHECK(is_cpu(m) && m.dtype == int32_t(dtype) && m.is_strided() && t.is_contiguous() &&
                        m.numel() == width * int64_t(forms_.size()) && (m.numel() == 0 || has_memory(t, m, bytes)),
                    "srft: ", what, " must be contiguous on the CPU, with ", width, " numbers a parameter");
  }

  void check_count(const TensorList& list, const char* what, bool may_be_empty) const {
    STD_TORCH_CHECK(list.size() == forms_.size() || (may_be_empty && list.empty()), "srft: ", list.size(), " ", what,
                    " for a group of ", forms_.size(), " parameters");
  }

  // Returns the address of a step's tensor, which must have the form that its parameter had.
  void* checked(const Tensor& tensor, size_t i, const char* what) const {
    const Form& form = forms_[i];
    const Metadata m(tensor);
    STD_TORCH_CHECK(is_cpu(m) && m.dtype == form.dtype, "srft: ", what, " ", i,
                    " has another dtype or device than the parameter that the plan was made for");
    STD_TORCH_CHECK(form.fits(m), "srft: ", what, " ", i,
                    " has another shape or layout than the parameter that the plan was made for");
    if (form.size == 0) return nullptr;
    STD_TORCH_CHECK(has_memory(tensor, m, form.bytes), "srft: ", what, " ", i,
                    " has less memory than elements: its storage was freed or shrunk");
    return address_of(tensor);
  }

  // Finds the state's addresses, after a check that no state was freed since, and that the optimizer has all that it
  // needs.
  void point_to_state(const cpu::Options& options) {
    auto* statistics = static_cast<double*>(row_memory(statistics_, ScalarType::Double, kStatistics, "statistics"));
    auto* steps = static_cast<float*>(row_memory(steps_, ScalarType::Float, 1, "steps"));
    auto* scales = static_cast<const double*>(row_memory(scales_, ScalarType::Double, kScales, "scales"));
    bool moved = false;
    for (size_t i = 0; i < forms_.size(); ++i) {
      const Form& form = forms_[i];
      void* place[kStates] = {};
      for (int k = 0; k < kStates; ++k) place[k] = state_memory(k, i, moved);
      STD_TORCH_CHECK(form.size == 0 || options.inner() != kAdam || (place[kFirst] && place[kSecond]),
                      "srft: Adam needs both moments of parameter ", i);
      STD_TORCH_CHECK(form.size == 0 || !options.has(kAmsgrad) || options.inner() != kAdam || place[kMaximum],
                      "srft: AMSGrad needs the maximum of second moments of parameter ", i);
      cpu::Tensor& t = tensors_[i];
      t.size = form.size;
      t.dtype = form.kind;
      t.anchor_dtype = place[kAnchor] ? dtype_of(state_[kAnchor][i]) : form.kind;
      t.first_moment = place[kFirst];
      t.second_moment = place[kSecond];
      t.max_second_moment = place[kMaximum];
      t.previous = place[kPrevious];
      t.anchor = place[kAnchor];
      t.prior = place[kPrior];
      t.transfer = place[kTransfer];
      t.curvature = place[kCurvature];
      t.path = place[kPath];
      t.statistics = statistics + i * kStatistics;
      t.taken = steps + i;
      t.scales = scales + i * kScales;
    }
    if (moved) find_spans();
  }

  void* row_memory(const Tensor& t, ScalarType dtype, int64_t width, const char* what) const {
    check_rows(t, dtype, width, what);
    return address_of(t);
  }

  void* state_memory(int k, size_t i, bool& moved) {
    if (state_[k].empty()) return nullptr;
    const Tensor& t = state_[k][i];
    const Metadata m(t);
    const int64_t size = m.numel();
    if (size == 0 && places_[k][i] == 0) return nullptr;
    const int64_t bytes = bytes_of(dtype_of(t));
    STD_TORCH_CHECK(forms_[i].fits(m) && has_memory(t, m, bytes), "srft: the ", kStateNames[k], " of parameter ", i,
                    " was freed or resized since the plan was made");
    void* place = address_of(t);
    moved = moved || reinterpret_cast<uintptr_t>(place) != places_[k][i];
    return place;
  }

  // Finds the memory that a step writes, and refuses tensors that share it.
  void find_spans() {
    written_.clear();
    read_.clear();
    for (int k = 0; k < kStates; ++k) {
      places_[k].assign(state_[k].size(), 0);
      for (size_t i = 0; i < state_[k].size(); ++i) {
        const Metadata m(state_[k][i]);
        if (m.numel() == 0) continue;
        const int64_t bytes = bytes_of(dtype_of(state_[k][i]));
        STD_TORCH_CHECK(has_memory(state_[k][i], m, bytes), "srft: the ", kStateNames[k], " of parameter ", i,
                        " has less memory than elements: its storage was freed or shrunk");
        const uintptr_t begin = reinterpret_cast<uintptr_t>(address_of(state_[k][i]));
        places_[k][i] = begin;
        (is_written(k) ? written_ : read_).push_back({begin, begin + uintptr_t(m.numel() * bytes), int64_t(i)});
      }
    }
    std::sort(written_.begin(), written_.end());
    for (size_t j = 1; j < written_.size(); ++j) {
      STD_TORCH_CHECK(written_[j - 1].end <= written_[j].begin, "srft: state of parameters ", written_[j - 1].owner,
                      " and ", written_[j].owner, " shares memory: each needs its own");
    }
    for (const Span& span : read_) {
      STD_TORCH_CHECK(!overlaps_written(span.begin, span.end), "srft: the anchor or the prior of parameter ",
                      span.owner, " shares memory with state that a step writes");
    }
    std::sort(read_.begin(), read_.end());
  }

  static bool overlaps(const std::vector<Span>& sorted, uintptr_t begin, uintptr_t end) {
    auto after = std::lower_bound(sorted.begin(), sorted.end(), Span{end, 0, 0});
    return after != sorted.begin() && std::prev(after)->end > begin;
  }
  bool overlaps_written(uintptr_t begin, uintptr_t end) const { return overlaps(written_, begin, end); }

  // Refuses a parameter or gradient that shares memory with the state. A gradient may be its own parameter, because
  // elements are read before they are written.
  void check_alone(const void* param, const void* grad, size_t i) const {
    const Form& form = forms_[i];
    const auto span = [&](const void* at) { return reinterpret_cast<uintptr_t>(at); };
    const uintptr_t bytes = uintptr_t(form.size * form.bytes);
    bool shares =
        overlaps_written(span(param), span(param) + bytes) || overlaps(read_, span(param), span(param) + bytes);
    if (grad && !shares) shares = overlaps_written(span(grad), span(grad) + bytes);
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
  size_t count_sized() const {
    return size_t(std::count_if(forms_.begin(), forms_.end(), [](const Form& form) { return form.size > 0; }));
  }

  std::array<TensorList, kStates> state_;
  Tensor steps_, statistics_, scales_;
  std::vector<Form> forms_;
  std::vector<cpu::Tensor> tensors_;
  std::array<std::vector<uintptr_t>, kStates> places_;  // addresses of the state, as they were last found
  std::vector<Span> written_, read_, parameters_;       // sorted
  std::vector<uintptr_t> order_of_parameters_;
};

}  // namespace srft::ops
