// Enough of CUDA C++ for g++ to compile the kernels of tinygpt_accel/cuda and run them on a CPU, one block after the other.
//
// A CUDA thread is a fiber. A fiber runs until it meets a barrier (or a shuffle, which is one here) or returns; when all have, the next
// phase begins, in the opposite order, so that a missing barrier shows as a wrong result. Fibers of one block that stop at different
// barriers, or of which some have returned, are an error: on a GPU they would hang or read what is not there.
#pragma once
#define TINYGPT_ON_CPU
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>
#include <setjmp.h>
#include <ucontext.h>

#define __global__
#define __launch_bounds__(threads)
#define __device__
#define __shared__ static
#define SHARED_ROOM(name) static double name##_room[1 << 14]; float* name = (float*)name##_room

struct Place { unsigned x, y, z; };
static Place threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
// A fiber is made once, by makecontext, and then waits for the next block; it is left and entered by longjmp, which asks no kernel.
struct Fiber { jmp_buf jump; Place index; bool started, done; const char* stopped_at; };
static Fiber fibers[1024];
static jmp_buf scheduler;
static unsigned current;
static double slots[2][1024];
static unsigned phase;
static void (*body)(void**);
static void** arguments;
const size_t STACK = 1 << 16;

inline void leave() {
    if (!_setjmp(fibers[current].jump)) _longjmp(scheduler, 1);
}

inline void entry() {
    for (;;) {
        body(arguments);
        fibers[current].done = true;
        leave();
    }
}

inline void enter() {
    Fiber& fiber = fibers[current];
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.jump, 1);
    fiber.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = std::malloc(STACK);
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
    setcontext(&context);
}

inline void stop(const char* where) {
    fibers[current].stopped_at = where;
    leave();
}

inline void fail(const char* message) {
    std::fprintf(stderr, "cuda on cpu: %s\n", message);
    std::abort();
}

inline void run_block(unsigned count) {
    for (unsigned i = 0; i < count; i++) fibers[i].index = {i, 0, 0}, fibers[i].done = false, fibers[i].stopped_at = nullptr;
    for (phase = 0;; phase++) {
        for (unsigned i = 0; i < count; i++) {
            current = phase % 2 ? count - 1 - i : i;
            threadIdx = fibers[current].index;
            if (!fibers[current].done) enter();
        }
        unsigned done = 0;
        for (unsigned i = 0; i < count; i++) {
            done += fibers[i].done;
            if (!fibers[i].done && fibers[i].stopped_at != fibers[0].stopped_at) fail("threads of a block wait at different barriers");
        }
        if (done == count) return;
        if (done) fail("some threads of a block returned while others wait at a barrier");
    }
}

template <auto F> struct Export;
template <typename... A, void (*F)(A...)> struct Export<F> {
    template <size_t... I> static void call_with(void** values, std::index_sequence<I...>) { F(*(A*)values[I]...); }
    static void call(void** values) { call_with(values, std::index_sequence_for<A...>()); }
    static int launch(void** values, unsigned count, const unsigned* grid, unsigned block) {
        if (count != sizeof...(A)) return (int)sizeof...(A);
        body = call, arguments = values, gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block, 1, 1};
        for (unsigned z = 0; z < grid[2]; z++)
            for (unsigned y = 0; y < grid[1]; y++)
                for (unsigned x = 0; x < grid[0]; x++) {
                    blockIdx = {x, y, z};
                    run_block(block);
                }
        return -1;
    }
};
}  // namespace emulation

#define EXPORT(number, ...)                                                                                                     \
    extern "C" int kernel_##number(void** values, unsigned count, const unsigned* grid, unsigned block) {                       \
        return emulation::Export<&__VA_ARGS__>::launch(values, count, grid, block);                                             \
    }

inline void __syncthreads() { emulation::stop("__syncthreads"); }

template <typename T> inline T __shfl_xor_sync(unsigned mask, T value, int lane) {
    if (mask != 0xffffffffu) emulation::fail("a shuffle of part of a warp");
    double* slots = emulation::slots[emulation::phase % 2];
    unsigned mine = threadIdx.x;
    slots[mine] = (double)value;
    emulation::stop("__shfl_xor_sync");
    return (T)slots[mine ^ lane];
}

inline int atomicAdd(int* place, int value) {
    int old = *place;
    *place += value;
    return old;
}

inline float __uint_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline unsigned __float_as_uint(float value) { unsigned bits; std::memcpy(&bits, &value, 4); return bits; }
inline float half_to_float(unsigned short bits) { _Float16 value; std::memcpy(&value, &bits, 2); return (float)value; }
inline unsigned short float_to_half(float value) { _Float16 half = (_Float16)value; unsigned short bits; std::memcpy(&bits, &half, 2); return bits; }
