// Layer norm (centre = 1) and RMS norm (centre = 0) over rows: y = n w + b with n = (x - mean) / sqrt(mean of (x - mean)^2 + eps).
// One block a row, and two passes for the variance: the row is in the cache by then, and nothing cancels. X is the type of what comes in
// (the residual stream), Y of what goes out to a product. Forward keeps the mean and the scale of each row.
#include "common.cuh"

template <typename X, typename Y>
__global__ void normalize(const X* x, const Wide<X>* weight, const Wide<X>* bias, Y* y, Wide<X>* means, Wide<X>* scales, int64 rows,
                          int64 columns, double eps, int64 centre) {
    typedef Wide<X> W;
    __shared__ W room[32];
    for (int64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const X* in = x + row * columns;
        W mean = 0, squares = 0;
        if (centre) {
            #pragma unroll 4
            for (int64 i = threadIdx.x; i < columns; i += blockDim.x) mean += load(in, i);
            mean = block_sum(mean, room) / (W)columns;
        }
        #pragma unroll 4
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            W d = load(in, i) - mean;
            squares += d * d;
        }
        W scale = (W)1 / root(block_sum(squares, room) / (W)columns + (W)eps);
        #pragma unroll 4
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            W n = (load(in, i) - mean) * scale;
            store(y + row * columns, i, n * (weight ? weight[i] : (W)1) + (bias ? bias[i] : (W)0));
        }
        if (threadIdx.x == 0) means[row] = mean, scales[row] = scale;
    }
}

// dL/dx = r (h - mean h - n mean(h n)) with h = g w; without mean h where the norm does not centre.
template <typename X, typename Y>
__global__ void normalize_gradient(const X* x, const Wide<X>* weight, const Y* grad, const Wide<X>* means, const Wide<X>* scales, X* result,
                                   int64 rows, int64 columns, int64 centre) {
    typedef Wide<X> W;
    __shared__ W room[32];
    for (int64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const X* in = x + row * columns;
        const Y* g = grad + row * columns;
        W mean = means[row], scale = scales[row], sum = 0, dot = 0;
        #pragma unroll 4
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            W h = load(g, i) * (weight ? weight[i] : (W)1);
            sum += h;
            dot += h * ((load(in, i) - mean) * scale);
        }
        sum = centre ? block_sum(sum, room) / (W)columns : (W)0;
        dot = block_sum(dot, room) / (W)columns;
        #pragma unroll 4
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            W h = load(g, i) * (weight ? weight[i] : (W)1);
            store(result + row * columns, i, scale * (h - sum - (load(in, i) - mean) * scale * dot));
        }
    }
}

// Sums down the columns of g n and of g, in two stages of fixed order. A block takes 32 columns (x) of a chunk of rows (y), a warp every
// so many rows of it; `partial` gets (chunks, 2, columns), which `column_sums` adds up.
template <typename X, typename Y>
__global__ void normalize_parameter_gradients(const X* x, const Y* grad, const Wide<X>* means, const Wide<X>* scales, Wide<X>* partial,
                                              int64 rows, int64 columns, int64 chunk) {
    typedef Wide<X> W;
    __shared__ W of_weight[1024], of_bias[1024];
    int64 column = (int64)blockIdx.x * 32 + threadIdx.x % 32, warps = blockDim.x / 32;
    int64 start = (int64)blockIdx.y * chunk, stop = start + chunk < rows ? start + chunk : rows;
    W weight_sum = 0, bias_sum = 0;
    if (column < columns) {
        #pragma unroll 4
        for (int64 row = start + threadIdx.x / 32; row < stop; row += warps) {
            W g = load(grad, row * columns + column);
            weight_sum += g * ((load(x, row * columns + column) - means[row]) * scales[row]);
            bias_sum += g;
        }
    }
    of_weight[threadIdx.x] = weight_sum, of_bias[threadIdx.x] = bias_sum;
    __syncthreads();
    if (threadIdx.x < 32 && column < columns) {
        for (int64 warp = 1; warp < warps; warp++) {
            weight_sum += of_weight[warp * 32 + threadIdx.x];
            bias_sum += of_bias[warp * 32 + threadIdx.x];
        }
        partial[(int64)blockIdx.y * 2 * columns + column] = weight_sum;
        partial[((int64)blockIdx.y * 2 + 1) * columns + column] = bias_sum;
    }
}

// The sums down the columns of a chunk of rows, laid out as above; rows begin `stride` elements apart. partial: (chunks, columns).
template <typename T>
__global__ void column_sums(const T* x, Wide<T>* partial, int64 rows, int64 columns, int64 stride, int64 chunk) {
    typedef Wide<T> W;
    __shared__ W sums[1024];
    int64 column = (int64)blockIdx.x * 32 + threadIdx.x % 32, warps = blockDim.x / 32;
    int64 start = (int64)blockIdx.y * chunk, stop = start + chunk < rows ? start + chunk : rows;
    W sum = 0;
    if (column < columns) {
        #pragma unroll 4
        for (int64 row = start + threadIdx.x / 32; row < stop; row += warps) sum += load(x, row * stride + column);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < 32 && column < columns) {
        for (int64 warp = 1; warp < warps; warp++) sum += sums[warp * 32 + threadIdx.x];
        partial[(int64)blockIdx.y * columns + column] = sum;
    }
}
