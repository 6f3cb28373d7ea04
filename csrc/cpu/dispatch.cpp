#include <cstdlib>
#include <stdexcept>
#include <string>

#include "chunk.h"

namespace srft::cpu {
namespace {

const Loops* widest() {
#if defined(SRFT_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
    return &avx512::loops;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2::loops;
#endif
  return &baseline::loops;
}

const Loops* choose() {
  const Loops* best = widest();
  const char* wanted = std::getenv("SRFT_CPU_CAPABILITY");
  if (!wanted || !*wanted) return best;
  const std::string name(wanted);
  if (name == "baseline") return &baseline::loops;
#if defined(SRFT_X86)
  const bool has_avx512 = best == &avx512::loops;
  if (name == "avx2" && (has_avx512 || best == &avx2::loops)) return &avx2::loops;
  if (name == "avx512" && has_avx512) return &avx512::loops;
#endif
  throw std::runtime_error("SRFT_CPU_CAPABILITY is '" + name +
                           "', which this machine or build does not have; its widest is '" + best->name +
                           "', and 'baseline' always works");
}

}  // namespace

const Loops& loops() {
  static const Loops* const chosen = choose();
  return *chosen;
}

}  // namespace srft::cpu
