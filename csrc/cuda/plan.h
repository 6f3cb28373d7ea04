// A group's tensors divided into launches. The arguments of each launch are kept from step to step.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <memory>
#include <vector>

#include "plan_tensors.h"
#include "step.h"

namespace srft::cuda {

// What a step brings that a plan does not know. Addresses are on the device.
struct StepCall {
  std::array<double, kSettings> settings;
  const double* device_settings;  // read instead of `settings` if not null
  const double* means;            // sum and count of T over all tensors, for normalize="global"
  const float* found_inf;
  const float* grad_scale;
  double* report;
  int flags;
  Phase phase;
  cudaStream_t stream;
};

class StepPlan {
 public:
  // `scratch` is scratch_bytes of zeros on the device, which nobody else uses.
  StepPlan(const PlanTensors& tensors, int device, void* scratch);
  static size_t scratch_bytes(size_t tensors);
  // Returns how many tensors one launch takes if each has `columns` addresses.
  static size_t capacity(int columns);

  // The addresses of tensors, one each, in the host's memory.
  struct Addresses {
    const int64_t* first;
    size_t count;
  };
  // `grads` may be empty after an unfused inner step, and `plus` and `minus` if nothing is folded.
  struct Moving {
    Addresses params, grads, plus, minus;
  };
  void step(const Moving& moving, const StepCall& call);
  size_t launches() const { return launches_.size(); }
  std::vector<std::vector<uint32_t>> tensors_by_launch() const {
    std::vector<std::vector<uint32_t>> all;
    for (const Launch& launch : launches_) all.push_back(launch.members);
    return all;
  }

 private:
  struct Launch {
    DType dtype;
    std::vector<uint32_t> members;  // positions of its tensors in the plan
    uint64_t units;
    std::unique_ptr<StepArguments> arguments;
  };
  void pack(const PlanTensors& tensors, Launch& launch) const;
  void point(Launch& launch, const Moving& moving) const;
  uint32_t resident(DType dtype, StepKernel kernel);

  size_t count_;
  int device_;
  bool has_maximum_, has_transfer_, has_path_;
  bool mixes_;  // whether some tensor has both a prior and a curvature
  std::vector<Launch> launches_;
  uint32_t resident_[4][kStepKernels] = {};
};

// Makes the plan known to Python as `Plan`, with what it asks of its caller.
void bind_step_plan(pybind11::module_& m);

}  // namespace srft::cuda
