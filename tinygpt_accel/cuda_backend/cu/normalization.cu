// Layer norm (centre = 1) and RMS norm (centre = 0) over rows: y = n w + b with n = (x - mean) / sqrt(mean of (x - mean)^2 + eps).
// X is the residual stream, float32; Y what goes out to a product, and comes back from it as a gradient.
#include "common.cuh"

// One block a row, and two passes for the variance: the row is in the cache by then, and nothing cancels. Where there is a `branch`,
// x + branch takes the place of x first and is written to `sum`: the residual's addition costs no walk of its own.
template <typename Y>
__global__ void normalize(const float* x, const Y* branch, const float* weight, const float* bias, float* sum, Y* y, float* means,
                          float* scales, int64 rows, int64 columns, double eps, int64 centre) {
    __shared__ float room[32];
    for (int64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* in = x + row * columns;
        float mean = 0, squares = 0;
        if (branch) {
            float* out = sum + row * columns;
            #pragma unroll 4
            for (int64 i = threadIdx.x; i < columns; i += blockDim.x) out[i] = in[i] + load(branch + row * columns, i);
            in = out;  // of which each thread reads what it wrote
        }
        if (centre) {
            #pragma unroll 4
            for (int64 i = threadIdx.x; i < columns; i += blockDim.x) mean += in[i];
            mean = block_sum(mean, room) / (float)columns;
        }
        #pragma unroll 4
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) squares += (in[i] - mean) * (in[i] - mean);
        float scale = 1.0f / sqrtf(block_sum(squares, room) / (float)columns + (float)eps);
        #pragma unroll 4
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            store(y + row * columns, i, (in[i] - mean) * scale * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f));
        }
        if (threadIdx.x == 0) means[row] = mean, scales[row] = scale;
    }
}

// All gradients in one walk. dL/dx = r (h - mean h - n mean(h n)) with h = g w (without mean h where the norm does not centre), to which
// `residual` (or null) is added: the gradient that went past the norm. It is written as float32, and as Y to `low` (or null), as the next
// product reads it. A block takes every gridDim-th row; each thread adds up its columns of g n and of g in shared memory, in the order of
// the rows, and `partial` gets (blocks, 2, columns), which `column_sums` adds up: the same bits in every run.
template <typename Y>
__global__ void normalize_gradient(const float* x, const float* weight, const Y* grad, const float* means, const float* scales,
                                   const float* residual, float* result, Y* low, float* partial, int64 rows, int64 columns,
                                   int64 centre) {
    SHARED_ROOM(sums);
    __shared__ float room[32];
    for (int64 i = threadIdx.x; i < columns; i += blockDim.x) sums[i] = sums[columns + i] = 0.0f;
    for (int64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* in = x + row * columns;
        const Y* g = grad + row * columns;
        float mean = means[row], scale = scales[row], sum = 0, dot = 0;
        #pragma unroll 4
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            float given = load(g, i), n = (in[i] - mean) * scale, h = given * (weight ? weight[i] : 1.0f);
            sum += h, dot += h * n;
            sums[i] += given * n, sums[columns + i] += given;
        }
        sum = centre ? block_sum(sum, room) / (float)columns : 0.0f;
        dot = block_sum(dot, room) / (float)columns;
        #pragma unroll 4
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            float n = (in[i] - mean) * scale, h = load(g, i) * (weight ? weight[i] : 1.0f);
            float value = scale * (h - sum - n * dot) + (residual ? residual[row * columns + i] : 0.0f);
            result[row * columns + i] = value;
            if (low) store(low + row * columns, i, value);
        }
    }
    for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
        partial[blockIdx.x * 2 * columns + i] = sums[i];
        partial[(blockIdx.x * 2 + 1) * columns + i] = sums[columns + i];
    }
}

// The sums down the columns of a chunk of rows, in a fixed order: a block takes 32 columns (y) of a chunk (x), a warp every so many rows
// of it. Rows begin `stride` elements apart. partial: (chunks, columns).
template <typename T>
__global__ void column_sums(const T* x, float* partial, int64 rows, int64 columns, int64 stride, int64 chunk) {
    __shared__ float sums[1024];
    int64 column = (int64)blockIdx.y * 32 + threadIdx.x % 32, warps = blockDim.x / 32;
    int64 start = (int64)blockIdx.x * chunk, stop = start + chunk < rows ? start + chunk : rows;
    float sum = 0;
    if (column < columns) {
        #pragma unroll 4
        for (int64 row = start + threadIdx.x / 32; row < stop; row += warps) sum += load(x, row * stride + column);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < 32 && column < columns) {
        for (int64 warp = 1; warp < warps; warp++) sum += sums[warp * 32 + threadIdx.x];
        partial[(int64)blockIdx.x * columns + column] = sum;
    }
}
