// Reads and writes a thread's elements, 16 bytes at a time if they are aligned, else one by one.
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

// The elements that a thread takes in one turn. With 16-bit weights, state in float32 is then moved 16 bytes a thread
// and side by side across a warp. The weights are 8 bytes a thread, which is whole sectors too.
template <class Stored>
constexpr int kPerThread = sizeof(Stored) == 8 ? 2 : 4;

// The bytes that one instruction moves. A step touches each of them once, so they need not stay in a cache. Intrinsics
// are used, because an address that comes as a whole number could belong to any memory as far as the compiler knows.
template <int kBytes>
struct WordOf;
template <>
struct WordOf<16> {
  using type = uint4;
};
template <>
struct WordOf<8> {
  using type = uint2;
};

template <class Stored, int kBytes = 16>
struct alignas(kBytes) Pack {
  using Word = typename WordOf<kBytes>::type;
  static constexpr int kSize = kBytes / int(sizeof(Stored));
  Stored element[kSize];

  static __device__ __forceinline__ Pack read(const Stored* from) {
    const Word bits = __ldcs(reinterpret_cast<const Word*>(from));
    Pack pack;
    memcpy(&pack, &bits, sizeof pack);
    return pack;
  }
  __device__ __forceinline__ void write(Stored* to) const {
    Word bits;
    memcpy(&bits, this, sizeof bits);
    __stcs(reinterpret_cast<Word*>(to), bits);
  }
};

// How kCount elements are moved at once: 16 bytes at a time, or 8 if they have no more, or not at all.
template <int kCount, class Stored>
constexpr int kPackBytes = kCount * sizeof(Stored) >= 16 ? 16 : (kCount * sizeof(Stored) == 8 ? 8 : 0);

// Reads `n` of kCount elements from `from` on, as Real. The others are zero. `whole` says that n is kCount and `from`
// is aligned to 16 bytes (to 8, if kCount elements have no more).
template <int kCount, class Stored, class Real>
__device__ __forceinline__ void load(const Stored* from, int n, bool whole, Real (&to)[kCount]) {
  if constexpr (kPackBytes<kCount, Stored> > 0) {
    using P = Pack<Stored, kPackBytes<kCount, Stored>>;
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
  if constexpr (kPackBytes<kCount, Stored> > 0) {
    using P = Pack<Stored, kPackBytes<kCount, Stored>>;
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
