// Keeps objects that Python knows by number. A number that was never given out finds nothing.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

namespace srft::ops {

// An object of this class is made with `new` and never destroyed, because tensors must not be freed after torch's own
// libraries are gone.
template <class T>
class Numbered {
 public:
  int64_t keep(T value) {
    const std::lock_guard<std::mutex> lock(mutex_);
    all_.emplace(next_, std::move(value));
    return next_++;
  }
  std::optional<T> find(int64_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = all_.find(number);
    return found == all_.end() ? std::nullopt : std::optional<T>(found->second);
  }
  // Returns the object and keeps it no longer. The caller frees it, outside the lock.
  std::optional<T> take(int64_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = all_.find(number);
    if (found == all_.end()) return std::nullopt;
    std::optional<T> last(std::move(found->second));
    all_.erase(found);
    return last;
  }

 private:
  std::mutex mutex_;
  int64_t next_ = 1;
  std::unordered_map<int64_t, T> all_;
};

}  // namespace srft::ops
