#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_on_host.h"

namespace cuda_on_host {

Index thread, block, grid;

namespace {

constexpr size_t kStack = 256 * 1024;
constexpr unsigned kWarp = 32;
enum class At { kRunning, kBarrier, kExchange, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  At at;
  double value;
  int offset;
};

std::vector<Fiber> fibers;
ucontext_t scheduler;
const std::function<void()>* body_of_block;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "cuda_on_host: %s (block %u, thread %u)\n", what, block.x, thread.x);
  std::abort();
}

void leave(At at) {
  Fiber& self = fibers[thread.x];
  self.at = at;
  const unsigned mine = thread.x;
  swapcontext(&self.context, &scheduler);
  thread.x = mine;
}

void start() {
  (*body_of_block)();
  fibers[thread.x].at = At::kDone;
}

// Every fiber goes on until each has met a barrier or come to its end; the two must not mix, except that a whole block
// ends together.
void run_block(unsigned threads) {
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& f = fibers[t];
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = kStack;
    f.context.uc_link = &scheduler;
    f.at = At::kRunning;
    makecontext(&f.context, start, 0);
  }
  for (;;) {
    for (unsigned warp = 0; warp < threads; warp += kWarp) {
      // Lanes go on together from shuffle to shuffle.
      for (;;) {
        for (unsigned t = warp; t < warp + kWarp; ++t) {
          if (fibers[t].at != At::kRunning) continue;
          thread.x = t;
          swapcontext(&scheduler, &fibers[t].context);
        }
        const auto exchanging = std::count_if(fibers.begin() + warp, fibers.begin() + warp + kWarp,
                                              [](const Fiber& f) { return f.at == At::kExchange; });
        if (exchanging == 0) break;
        if (exchanging != kWarp) fail("not every lane of a warp came to a shuffle");
        for (unsigned t = warp; t < warp + kWarp; ++t) fibers[t].at = At::kRunning;
      }
    }
    const auto waiting = size_t(
        std::count_if(fibers.begin(), fibers.begin() + threads, [](const Fiber& f) { return f.at == At::kBarrier; }));
    if (waiting == 0) return;
    if (waiting != threads) fail("not every thread of a block came to a barrier");
    for (unsigned t = 0; t < threads; ++t) fibers[t].at = At::kRunning;
  }
}

}  // namespace

void barrier() { leave(At::kBarrier); }

double exchange(double value, int offset) {
  const unsigned mine = thread.x;
  fibers[mine].value = value;
  leave(At::kExchange);
  const int lane = int(mine % kWarp) + offset;
  const double got = lane < 0 || lane >= int(kWarp) ? value : fibers[mine - mine % kWarp + unsigned(lane)].value;
  leave(At::kExchange);  // all have read before anybody writes again
  return got;
}

void run(unsigned blocks, unsigned threads, const std::function<void()>& body) {
  if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
  body_of_block = &body;
  grid.x = blocks;
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  const char* seed = std::getenv("SRFT_CUDA_ON_HOST_ORDER");
  if (seed) std::shuffle(order.begin(), order.end(), std::mt19937(unsigned(std::atoi(seed))));
  for (unsigned b : order) {
    block.x = b;
    run_block(threads);
  }
}

}  // namespace cuda_on_host
