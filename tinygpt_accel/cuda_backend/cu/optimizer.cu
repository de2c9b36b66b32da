// AdamW over all parameters in one launch, and the global norm of their gradients without asking the host.
//
// `table` holds for each tensor seven words: the addresses of p, g, m and v, the size, the bits of its weight decay (a double), and the
// address of p's copy in 16 bits, or null.
// `chunks` holds for each block a tensor and where in it the block's chunk begins.
#include "common.cuh"

// The sum of the squares of a chunk, in float64.
__global__ void squares(const int64* table, const int64* chunks, int64 chunk, double* partial) {
    __shared__ double room[32];
    const int64* entry = table + 7 * chunks[2 * blockIdx.x];
    int64 start = chunks[2 * blockIdx.x + 1], stop = start + chunk < entry[4] ? start + chunk : entry[4];
    const float* g = (const float*)entry[1];
    double sum = 0;
    #pragma unroll 4
    for (int64 i = start + threadIdx.x; i < stop; i += blockDim.x) sum += (double)g[i] * (double)g[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// result = (norm, factor, finite): the norm of the gradients times `unscale`; by what the gradients are to be multiplied so that it is at
// most `limit`, `unscale` included (a norm that is not finite changes nothing); and 1 where it is finite. One block.
__global__ void finish_norm(const double* partial, int64 count, double limit, double unscale, double* result) {
    __shared__ double room[32];
    double sum = 0;
    for (int64 i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) {
        double norm = sqrt(sum) * unscale;
        bool finite = norm < (double)infinity();
        result[0] = norm;
        result[1] = finite && norm > limit ? unscale * (limit / norm) : unscale;
        result[2] = finite ? 1.0 : 0.0;
    }
}

// beta mean + (1 - beta) next, where 1 - beta in float32 has digits of its own: mean + (1 - beta) (next - mean).
__device__ inline float moving_mean(float mean, float next, double beta) {
    return beta < 0.5 ? (float)beta * mean + (float)(1.0 - beta) * next : mean + (float)(1.0 - beta) * (next - mean);
}

// m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, p = (1 - lr decay) p - rate m / (sqrt v + small), and p's copy in 16 bits (L).
// numbers = (b1, b2, rate, small, lr), with Adam's corrections for the early steps moved into rate and small. `clip` (or null) is what
// `finish_norm` found: gradients are multiplied by its factor, and nothing is changed where skip_infinite says so and they are not finite.
template <typename L>
__global__ void adamw(const int64* table, const int64* chunks, int64 chunk, const double* numbers, const double* clip, int64 skip_infinite) {
    const int64* entry = table + 7 * chunks[2 * blockIdx.x];
    int64 start = chunks[2 * blockIdx.x + 1], stop = start + chunk < entry[4] ? start + chunk : entry[4];
    float *p = (float*)entry[0], *m = (float*)entry[2], *v = (float*)entry[3];
    const float* grad = (const float*)entry[1];
    L* copy = (L*)entry[6];
    const double b1 = numbers[0], b2 = numbers[1];
    const float rate = (float)numbers[2], small = (float)numbers[3];
    const float keep = (float)(1.0 - numbers[4] * *(const double*)(entry + 5)), factor = clip ? (float)clip[1] : 1.0f;
    if (skip_infinite && clip && clip[2] == 0.0) return;
    #pragma unroll 4
    for (int64 i = start + threadIdx.x; i < stop; i += blockDim.x) {
        float g = grad[i] * factor;
        float first = moving_mean(m[i], g, b1), second = moving_mean(v[i], g * g, b2);
        float next = keep * p[i] - rate * first / (sqrtf(second) + small);
        m[i] = first, v[i] = second, p[i] = next;
        if (copy) store(copy, i, next);
    }
}
