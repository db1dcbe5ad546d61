// Runs CUDA kernels on the host, to test the very text that GPUs get.
//
// Blocks run one after another. Every thread of a block is a fiber that runs until it meets a barrier or a shuffle.
// Warps run in the order asked for, each as far as it comes. Reported as errors: a barrier that not all threads
// of the block reach, or not the same one; a shuffle that is not met by all 32 lanes alike; a grid or block that no GPU
// takes. Not modelled: blocks that race, memory ordering, speed.
#pragma once

#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__ inline  // those that nobody names are not compiled
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __shared__ static thread_local  // every block runs in a thread of its own, so nothing is left from another
#define __ldg(address) (*(address))
#define __syncthreads() emulator::barrier(__LINE__)
#define __shfl_xor_sync(mask, value, lanes) emulator::shuffle(mask, value, [](int lane, int by) { return lane ^ by; }, lanes, __LINE__)
#define __shfl_down_sync(mask, value, lanes) \
  emulator::shuffle(mask, value, [](int lane, int by) { return lane + by < 32 ? lane + by : lane; }, lanes, __LINE__)

struct Index {
  unsigned x, y, z;
  unsigned long long count() const { return 1ull * x * y * z; }
};
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr size_t kStack = 64 * 1024;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStack);
  enum { kReady, kAtBarrier, kAtShuffle, kDone } state;
  Index index;
  int line;                   // of the barrier or shuffle
  int partner;                // the lane whose value a shuffle brings
  char value[8], brought[8];  // of a shuffle
  void* fake_stack;           // AddressSanitizer's
};

static std::vector<Fiber> fibers;  // of the block, kept for the next
static Fiber* current;
static ucontext_t scheduler;
static std::function<void()> kernel;

// AddressSanitizer must be told of every change of stack.
static void leaves([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* bottom,
                   [[maybe_unused]] size_t size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake_stack, bottom, size);
#endif
}
static void arrives([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** bottom,
                    [[maybe_unused]] size_t* size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, bottom, size);
#endif
}
static const void* scheduler_stack;
static size_t scheduler_stack_size;

inline void resume(Fiber& fiber) {
  void* fake_stack = nullptr;
  current = &fiber;
  threadIdx = fiber.index;
  leaves(&fake_stack, fiber.stack.data(), kStack);
  swapcontext(&scheduler, &fiber.context);
  arrives(fake_stack, nullptr, nullptr);
}

inline void wait() {
  Fiber& self = *current;
  leaves(self.state == Fiber::kDone ? nullptr : &self.fake_stack, scheduler_stack, scheduler_stack_size);
  swapcontext(&self.context, &scheduler);
  arrives(self.fake_stack, &scheduler_stack, &scheduler_stack_size);
}

inline void life() {
  arrives(nullptr, &scheduler_stack, &scheduler_stack_size);
  kernel();
  current->state = Fiber::kDone;
  wait();
}

inline void barrier(int line) {
  current->state = Fiber::kAtBarrier;
  current->line = line;
  wait();
}

template <class T> T shuffle(unsigned mask, T value, int (*partner)(int, int), int lanes, int line) {
  if (mask != ~0u) throw std::runtime_error("only shuffles of whole warps are emulated");
  Fiber& self = *current;
  self.state = Fiber::kAtShuffle;
  self.line = line;
  self.partner = partner((int)((&self - fibers.data()) % 32), lanes);
  memcpy(self.value, &value, sizeof(T));
  wait();
  memcpy(&value, self.brought, sizeof(T));
  return value;
}

// Lets a warp go on if all of its lanes have met the same shuffle; says whether they have.
inline bool release_shuffle(size_t first, size_t end) {
  const auto waits = [&](const Fiber& f) { return f.state == Fiber::kAtShuffle && f.line == fibers[first].line; };
  if (end - first < 32 || !std::all_of(fibers.begin() + first, fibers.begin() + end, waits)) return false;
  for (size_t i = first; i < end; ++i) {
    memcpy(fibers[i].brought, fibers[first + fibers[i].partner].value, 8);
    fibers[i].state = Fiber::kReady;
  }
  return true;
}

inline void release_barrier(size_t threads) {
  for (size_t i = 0; i < threads; ++i) {
    const Fiber& fiber = fibers[i];
    if (fiber.state == Fiber::kAtShuffle)
      throw std::runtime_error("line " + std::to_string(fiber.line) + ": a shuffle that not all lanes of a warp meet");
    const bool gone = fiber.state == Fiber::kDone;
    if (gone || fiber.line != fibers[0].line)
      throw std::runtime_error("a barrier that not all threads of a block meet: thread " + std::to_string(i) +
                               (gone ? " has ended" : " is in line " + std::to_string(fiber.line)));
  }
  for (size_t i = 0; i < threads; ++i) fibers[i].state = Fiber::kReady;
}

// In which order threads run, and blocks.
enum Order { kForward, kBackward, kShuffled };

inline std::vector<size_t> ordered(size_t count, int order, std::mt19937& random) {
  std::vector<size_t> indices(count);
  for (size_t i = 0; i < count; ++i) indices[i] = i;
  if (order == kBackward) std::reverse(indices.begin(), indices.end());
  if (order == kShuffled) std::shuffle(indices.begin(), indices.end(), random);
  return indices;
}

inline void run_block(size_t threads, int order, std::mt19937& random) {
  for (size_t i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    const unsigned thread = (unsigned)i;
    fiber.index = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
    fiber.state = Fiber::kReady;
    fiber.fake_stack = nullptr;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = kStack;
    makecontext(&fiber.context, life, 0);
  }
  const auto gone = [](const Fiber& fiber) { return fiber.state == Fiber::kDone; };
  for (;;) {
    for (size_t warp : ordered((threads + 31) / 32, order, random)) {  // each as far as it comes
      const size_t first = warp * 32, end = std::min(first + 32, threads);
      do {
        for (size_t lane : ordered(end - first, order, random))
          if (fibers[first + lane].state == Fiber::kReady) resume(fibers[first + lane]);
      } while (release_shuffle(first, end));
    }
    if (std::all_of(fibers.begin(), fibers.begin() + threads, gone)) return;
    release_barrier(threads);
  }
}

inline void run(std::function<void()> what, Index grid, Index block, int order) {
  if (block.count() == 0 || block.count() > 1024 || block.z > 64) throw std::runtime_error("no GPU takes this block");
  if (grid.count() == 0 || grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error("no GPU takes this grid");
  kernel = std::move(what);
  gridDim = grid;
  blockDim = block;
  if (fibers.size() < block.count()) fibers.resize(block.count());
  std::mt19937 random(1);
  for (size_t i : ordered(grid.count(), order, random)) {
    const unsigned number = (unsigned)i;
    blockIdx = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    std::exception_ptr problem;
    std::thread([&] {
      try {
        run_block(block.count(), order, random);
      } catch (...) {
        problem = std::current_exception();
      }
    }).join();
    if (problem) std::rethrow_exception(problem);
  }
}

struct Entry {
  const char* name;
  void (*call)(const void* params);
};
extern const std::vector<Entry> entries;

}  // namespace emulator

#define EMULATED(NAME, PARAMS) {#NAME, [](const void* q) { NAME(*(const PARAMS*)q); }}

// Runs a kernel by name. Returns 0, or 1 with what went wrong in `error`.
extern "C" int emulate(const char* name, const void* params, const Index* grid, const Index* block, int order,
                       char* error, size_t size) {
  try {
    for (const emulator::Entry& entry : emulator::entries)
      if (!strcmp(entry.name, name)) {
        emulator::run([&] { entry.call(params); }, *grid, *block, order);
        return 0;
      }
    throw std::runtime_error("there is no such kernel");
  } catch (const std::exception& problem) {
    snprintf(error, size, "%s: %s", name, problem.what());
    return 1;
  }
}
