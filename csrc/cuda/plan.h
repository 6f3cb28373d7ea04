// A group's tensors divided into launches. The arguments of each launch are kept from step to step.
#pragma once

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

  // Returns which tensors go into which launch. Those of a launch have one dtype and fewer than 2^32 units, and there
  // are as many as fit.
  static std::vector<std::vector<uint32_t>> cut(const std::vector<int64_t>& sizes, const std::vector<DType>& dtypes,
                                                int columns);

  // Each list has one address a tensor. `grads` may be empty after an unfused inner step, and `plus` and `minus` if
  // nothing is folded.
  struct Moving {
    std::vector<const void*> params, grads, plus, minus;
  };
  void step(const Moving& moving, const StepCall& call);
  size_t launches() const { return launches_.size(); }

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

}  // namespace srft::cuda
