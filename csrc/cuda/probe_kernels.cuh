// Probes over many tensors at a time, for one combination of dtypes.
//
// A block draws the signs of the next 32768 elements into shared memory, with one call of Philox a thread, and then
// takes its elements in turns. A sign costs less than one instruction of the generator.
#pragma once

#include "access.cuh"
#include "probe.h"

namespace srft::cuda {

struct ProbeHeader {
  Partition partition;
  Draw draw;
  double scale;  // factor of z: the step of `perturb`, the weight of `fold`
  double decay;
  uint32_t tensors;
};

// A tensor's entry: the addresses of target, from and minus; size and bits; first unit and number.
constexpr int kProbeWords = 5;
constexpr uint32_t kProbeTensors = (SRFT_CUDA_ARGUMENT_BYTES - sizeof(ProbeHeader)) / 8 / kProbeWords;

struct ProbeArguments {
  ProbeHeader header;
  uint64_t words[kProbeTensors * kProbeWords];

  SRFT_MEMBER uint64_t word(uint32_t tensor, int which) const { return words[tensor * kProbeWords + which]; }
  SRFT_MEMBER uint64_t start(uint32_t tensor) const {
    return tensor == header.tensors ? header.partition.units : uint32_t(word(tensor, 4));
  }
};
static_assert(sizeof(ProbeArguments) <= SRFT_CUDA_ARGUMENT_BYTES, "a launch's arguments must fit");

constexpr uint64_t kAligned = uint64_t(1) << 63;        // everything of this tensor lies at a multiple of 16 bytes
constexpr int64_t kDrawn = int64_t(kThreads) * kSigns;  // elements whose signs a block draws at a time
static_assert(kDrawn % kUnit == 0 && kUnit % (kThreads * 8) == 0, "draws and units are whole numbers of turns");

// One tensor as a block sees it.
struct ProbePart {
  uint64_t target, from, minus;
  bool aligned;
};

// The elements of one turn of a thread. Bit i of `signs` is the i-th's.
struct ProbeTurn {
  int64_t at;
  int n;
  bool whole;
  uint32_t signs;
  template <class Bits>
  SRFT_MEMBER Bits sign(int i) const {
    return Bits(Bits(signs >> i & 1u) << kSignShift<Bits>);
  }
};

// Calls function(part, turn) for this thread's turns of kCount elements of every tensor.
template <int kCount, class Function>
__device__ __forceinline__ void over_probes(const ProbeArguments& a, const Function& function) {
  __shared__ uint32_t words[kThreads * 4];
  const Partition& cut = a.header.partition;
  const uint64_t last = cut.begin(blockIdx.x + 1);
  uint64_t unit = cut.begin(blockIdx.x);
  for (uint32_t tensor = tensor_of(a, unit); tensor < a.header.tensors && unit < last; ++tensor) {
    const uint64_t first = a.start(tensor), after = a.start(tensor + 1), stop = after < last ? after : last;
    const uint64_t bits = a.word(tensor, 3);
    const ProbePart part{a.word(tensor, 0), a.word(tensor, 1), a.word(tensor, 2), (bits & kAligned) != 0};
    const int64_t size = int64_t(bits & kSizeMask), most = int64_t(stop - first) * kUnit;
    const int64_t to = most < size ? most : size;
    for (int64_t begin = int64_t(unit - first) * kUnit; begin < to; begin += kDrawn) {
      const int64_t mine = begin + int64_t(threadIdx.x) * kSigns;
      uint32_t word[4];
      if (mine < to) probe_words(a.header.draw, uint32_t(a.word(tensor, 4) >> 32), uint64_t(mine) / kSigns, word);
      __syncthreads();  // all threads are done with the previous signs
      if (mine < to) {
#pragma unroll
        for (int k = 0; k < 4; ++k) words[4 * threadIdx.x + k] = word[k];
      }
      __syncthreads();
      const int64_t end = begin + kDrawn < to ? begin + kDrawn : to;
      // The loop is not unrolled, because more loads are in flight if more threads run, and fewer registers allow that.
#pragma unroll 1
      for (int64_t at = begin + int64_t(threadIdx.x) * kCount; at < end; at += kThreads * kCount) {
        const int n = end - at < kCount ? int(end - at) : kCount;
        const uint32_t drawn = uint32_t(at - begin);
        function(part, ProbeTurn{at, n, part.aligned && n == kCount, words[drawn / 32] >> (drawn % 32)});
      }
    }
    unit = stop;
  }
}

// Written as whole numbers, because 1 and the sign are bits of a number in every dtype.
template <class Stored>
__global__ void __launch_bounds__(kThreads) probe_fill_kernel(const __grid_constant__ ProbeArguments a) {
  using Bits = typename SignOf<Stored>::Bits;
  using P = Pack<Bits>;
  over_probes<P::kSize>(a, [](const ProbePart& part, const ProbeTurn& turn) {
    Bits* to = reinterpret_cast<Bits*>(part.target) + turn.at;
    P pack;
#pragma unroll
    for (int i = 0; i < P::kSize; ++i) pack.element[i] = Bits(SignOf<Stored>::one | turn.sign<Bits>(i));
    if (turn.whole) return pack.write(to);
#pragma unroll
    for (int i = 0; i < P::kSize; ++i) {
      if (i < turn.n) to[i] = pack.element[i];
    }
  });
}

// The elements of one turn: 16 bytes of the narrower of two dtypes, so that every access may move that many.
template <class Stored, class Other>
constexpr int kProbeCount = 16 / int(sizeof(Stored) < sizeof(Other) ? sizeof(Stored) : sizeof(Other));

template <class Stored, class From>
__global__ void __launch_bounds__(kThreads) probe_perturb_kernel(const __grid_constant__ ProbeArguments a) {
  using Real = typename ArithmeticOf<Stored>::Real;
  using Bits = typename SignOf<Real>::Bits;
  constexpr int kCount = kProbeCount<Stored, From>;
  const Real scale = Real(a.header.scale);
  over_probes<kCount>(a, [&](const ProbePart& part, const ProbeTurn& turn) {
    Real value[kCount];
    load(reinterpret_cast<const From*>(part.from) + turn.at, turn.n, turn.whole, value);
#pragma unroll
    for (int i = 0; i < kCount; ++i) value[i] = perturbed(value[i], scale, turn.sign<Bits>(i));
    store(value, reinterpret_cast<Stored*>(part.target) + turn.at, turn.n, turn.whole);
  });
}

// `From` is the dtype of both gradients.
template <class From>
__global__ void __launch_bounds__(kThreads) probe_fold_kernel(const __grid_constant__ ProbeArguments a) {
  using Real = typename ArithmeticOf<From>::Real;
  using Bits = typename SignOf<Real>::Bits;
  constexpr int kCount = kProbeCount<Real, From>;
  const Real decay = Real(a.header.decay), weight = Real(a.header.scale);
  over_probes<kCount>(a, [&](const ProbePart& part, const ProbeTurn& turn) {
    Real* to = reinterpret_cast<Real*>(part.target) + turn.at;
    Real estimate[kCount], difference[kCount];
    load(to, turn.n, turn.whole, estimate);
    load(reinterpret_cast<const From*>(part.from) + turn.at, turn.n, turn.whole, difference);
    if (part.minus) {
      Real minus[kCount];
      load(reinterpret_cast<const From*>(part.minus) + turn.at, turn.n, turn.whole, minus);
#pragma unroll
      for (int i = 0; i < kCount; ++i) difference[i] = difference[i] - minus[i];
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      estimate[i] = folded(estimate[i], difference[i], decay, weight, turn.sign<Bits>(i));
    }
    store(estimate, to, turn.n, turn.whole);
  });
}

}  // namespace srft::cuda
