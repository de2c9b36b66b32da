// What all kernels share: number types, loads that widen and stores that round, sums over a warp and a block, and Philox.
//
// Conventions: every integer argument is a `long long`, every scalar a `double`, every missing array a null pointer. A kernel reads
// float32, bfloat16 or float16 and computes in float32 (float64 is served by the composed kernels of the core). Blocks have whole warps.
// Nothing is included, so NVRTC needs no toolkit's headers; on a CPU (tests/cuda_on_cpu) the same text compiles behind a small shim.
// Lambdas name the types of their arguments: NVRTC before 13.2 refuses generic ones.
#pragma once

typedef long long int64;
typedef unsigned long long uint64;

struct bf16 { unsigned short bits; };
struct fp16 { unsigned short bits; };

#ifndef TINYGPT_ON_CPU
// Shared memory of the size that the launch says.
#define SHARED_ROOM(name) extern __shared__ __align__(16) float name[]

__device__ inline float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ inline unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ inline float load(const float* p, int64 i) { return p[i]; }
__device__ inline double load(const double* p, int64 i) { return p[i]; }
__device__ inline float load(const fp16* p, int64 i) { return half_to_float(p[i].bits); }
__device__ inline float load(const bf16* p, int64 i) { return __uint_as_float((unsigned)p[i].bits << 16); }

__device__ inline void store(float* p, int64 i, float v) { p[i] = v; }
__device__ inline void store(double* p, int64 i, double v) { p[i] = v; }
__device__ inline void store(fp16* p, int64 i, float v) { p[i].bits = float_to_half(v); }
__device__ inline void store(bf16* p, int64 i, float v) {
    unsigned bits = __float_as_uint(v);
    // To the nearest, ties to even; a NaN stays one, although its low bits alone may have said so.
    p[i].bits = v != v ? 0x7fc0 : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Eight neighbours, which a thread reads or writes at once: 16 bytes an instruction, the most there is. With one 16-bit number a thread
// too few bytes would be under way to keep the memory busy. Only where the address allows it: a view may begin anywhere.
template <typename T> struct alignas(16) Eight { T v[8]; };

__device__ inline bool aligned(const void* p) { return ((uint64)p & 15) == 0; }
template <typename T> __device__ inline Eight<T> load_eight(const T* p, int64 pack) { return ((const Eight<T>*)p)[pack]; }
template <typename T> __device__ inline void store_eight(T* p, int64 pack, const Eight<T>& values) { ((Eight<T>*)p)[pack] = values; }

// Division by 64 bits is a call of some dozens of instructions, and hardly any index needs it.
__device__ inline int64 quotient(int64 a, int64 b) { return (a | b) >> 32 ? a / b : (int64)((unsigned)a / (unsigned)b); }

__device__ inline float infinity() { return __uint_as_float(0x7f800000u); }
template <typename T> __device__ inline T larger(T a, T b) { return b > a || b != b ? b : a; }

template <typename T> __device__ inline T warp_sum(T value) {
    for (int lane = 16; lane; lane >>= 1) value += __shfl_xor_sync(0xffffffffu, value, lane);
    return value;
}

template <typename T> __device__ inline T warp_max(T value) {
    for (int lane = 16; lane; lane >>= 1) value = larger(value, __shfl_xor_sync(0xffffffffu, value, lane));
    return value;
}

// The sum over a block, the same bits in every thread: warps by butterfly, then their sums in order. `room` has 32 places in shared memory.
template <typename T> __device__ inline T block_sum(T value, T* room) {
    value = warp_sum(value);
    __syncthreads();  // the room may still be read from the last time
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    T total = 0;
    for (int warp = 0; warp < blockDim.x / 32; warp++) total += room[warp];
    return total;
}

template <typename T> __device__ inline T block_max(T value, T* room) {
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    T result = room[0];
    for (int warp = 1; warp < blockDim.x / 32; warp++) result = larger(result, room[warp]);
    return result;
}

// Philox4x32-10 as tinygpt_core.random has it: the counter is (block, stream), the key the seed. Salmon et al. 2011.
struct Words { unsigned w[4]; };

__device__ inline Words philox(uint64 seed, uint64 stream, uint64 block) {
    unsigned c0 = (unsigned)block, c1 = (unsigned)(block >> 32), c2 = (unsigned)stream, c3 = (unsigned)(stream >> 32);
    unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64 p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        unsigned h0 = (unsigned)(p1 >> 32) ^ c1 ^ k0, h2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c0 = h0, c1 = (unsigned)p1, c2 = h2, c3 = (unsigned)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}

__device__ inline int64 first_index() { return (int64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline int64 index_step() { return (int64)gridDim.x * blockDim.x; }
