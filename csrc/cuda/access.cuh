// Reading and writing a thread's elements: 16 bytes at a time where they lie so, one by one where they do not.
#pragma once

#include "../core/codecs.h"
#include "arguments.h"

namespace srft::cuda {

template <class Stored>
struct ArithmeticOf {
  using Real = float;
};
template <>
struct ArithmeticOf<double> {
  using Real = double;
};

// Elements that a thread takes in one turn: 16 bytes of parameter.
template <class Stored>
constexpr int kPerThread = 16 / int(sizeof(Stored));

// As many elements as 16 bytes hold, moved in one instruction: a step touches each once, so they need not stay in a
// cache. (Through the intrinsics, because an address that came as a whole number could be of any memory, for all that
// the compiler knows.)
template <class Stored>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / int(sizeof(Stored));
  Stored element[kSize];

  static __device__ __forceinline__ Pack read(const Stored* from) {
    const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(from));
    Pack pack;
    memcpy(&pack, &bits, sizeof pack);
    return pack;
  }
  __device__ __forceinline__ void write(Stored* to) const {
    uint4 bits;
    memcpy(&bits, this, sizeof bits);
    __stcs(reinterpret_cast<uint4*>(to), bits);
  }
};

// `n` of kCount elements from `from` on, as Real; the others are zero. `whole` says that n is kCount and `from` lies at
// a multiple of 16 bytes (of 8, where kCount elements are so many).
template <int kCount, class Stored, class Real>
__device__ __forceinline__ void load(const Stored* from, int n, bool whole, Real (&to)[kCount]) {
  if constexpr (kCount * sizeof(Stored) >= 16) {
    using P = Pack<Stored>;
    if (whole) {
#pragma unroll
      for (int k = 0; k < kCount / P::kSize; ++k) {
        const P pack = P::read(from + k * P::kSize);
#pragma unroll
        for (int i = 0; i < P::kSize; ++i) to[k * P::kSize + i] = Real(decode(pack.element[i]));
      }
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = i < n ? Real(decode(from[i])) : Real(0);
}

template <int kCount, class Stored, class Real>
__device__ __forceinline__ void store(const Real (&from)[kCount], Stored* to, int n, bool whole) {
  if constexpr (kCount * sizeof(Stored) >= 16) {
    using P = Pack<Stored>;
    if (whole) {
#pragma unroll
      for (int k = 0; k < kCount / P::kSize; ++k) {
        P pack;
#pragma unroll
        for (int i = 0; i < P::kSize; ++i) encode(from[k * P::kSize + i], pack.element[i]);
        pack.write(to + k * P::kSize);
      }
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i < n) encode(from[i], to[i]);
  }
}

}  // namespace srft::cuda
