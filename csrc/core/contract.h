// The numbers that C++ and Python must agree on. srft_kernels/ops/contract.py holds the same names, and a test compares
// them.
#pragma once

namespace srft {

// Positions in the `settings` vector (float64). It is data, not arguments, so that it can live on a device and change
// under a captured graph.
enum Setting {
  kLearningRate,
  kBeta1,  // SGD: momentum
  kBeta2,  // SGD: dampening
  kEpsilon,
  kWeightDecay,
  kGradientFactor,  // the factor of every gradient: 1 / loss scale, negative to maximize
  kStrength,        // lambda
  kKappa,
  kMuMin,
  kMuMax,
  kTau,
  kTransferBeta,
  kProbeSeedLow,  // the halves of the seed of the draw whose product is folded into H
  kProbeSeedHigh,
  kProbeStep,
  kFoldDecay,  // H <- decay H + weight z (product)
  kFoldWeight,
  kSettings
};

// Fields of `flags`.
enum Inner { kNone = 0, kAdam = 1, kSgd = 2 };
enum Mode { kProximal = 0, kDecoupled = 1, kCoupled = 2 };
enum Damping { kUndamped = 0, kRank = 1, kMean = 2 };
enum Normalize { kTensor = 0, kGlobal = 1, kAbsolute = 2 };

// A fused step, or one of the two halves of an unfused one around the inner optimizer's.
enum class Phase : int { kFused = 0, kBefore = 1, kAfter = 2 };

constexpr int kInnerShift = 0;
constexpr int kModeShift = 2;
constexpr int kDampingShift = 4;
constexpr int kNormalizeShift = 6;
constexpr int kDecoupledDecay = 1 << 8;  // AdamW, not Adam with an L2 term
constexpr int kAmsgrad = 1 << 9;
constexpr int kNesterov = 1 << 10;
constexpr int kTransferToAnchor = 1 << 11;  // transfer_anchor="initial"
constexpr int kPropagateNonfinite = 1 << 12;
// a step's first group sets the report's penalties; the other groups add to them
constexpr int kResetPenalties = 1 << 13;
constexpr int kCountSkipped = 1 << 14;  // a step that is skipped still counts its elements that are not finite
constexpr int kFold = 1 << 15;          // `plus` is folded into H before the step reads it
constexpr int kFoldGradient = 1 << 16;  // subtracts the step's own gradient if there is no `minus`

// A group's lists of tensors, as a plan keeps them. plan_tensors.h has their names. The first four lists come with
// every step.
enum Column {
  kParam,
  kGrad,
  kPlus,
  kMinus,
  kFirst,
  kSecond,
  kMaximum,
  kPrevious,
  kAnchor,
  kPrior,
  kTransfer,
  kCurvature,
  kPath,
  kColumns
};

// Positions in a tensor's row of `scales`.
constexpr int kPriorScale = 0;      // factor of P in P^
constexpr int kInverseRms = 1;      // 1 / rho
constexpr int kCurvatureScale = 2;  // factor of |H| in P^
constexpr int kProbeNumber = 3;     // keys the tensor's signs
constexpr int kScales = 4;

// Positions in a tensor's `statistics` of its transfer significance. One step gathers them and the next reads them.
constexpr int kLow = 0;       // the key at the lower end of the histogram's regular bins
constexpr int kDensity = 1;   // regular bins per unit of key
constexpr int kSmallest = 2;  // the smallest and the largest key seen, not counting zeros
constexpr int kLargest = 3;
constexpr int kSum = 4;  // the sum of T over finite elements, and their number
constexpr int kCount = 5;
constexpr int kCurvatureSum = 6;  // the sum of |H|, as the last fold left it
constexpr int kBins = 256;        // bin 0: zeros; 1: below; 2..254: regular; 255: above
constexpr int kHistogram = 8;     // the position of the first bin
constexpr int kStatistics = kHistogram + kBins;

// Positions in `report`.
constexpr int kPriorPenalty = 0;
constexpr int kTransferPenalty = 1;
constexpr int kNonfinite = 2;
constexpr int kReport = 3;

}  // namespace srft
