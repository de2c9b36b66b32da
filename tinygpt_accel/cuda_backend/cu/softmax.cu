// Softmax over rows, as attention and as a layer want it. One block a row.
#include "common.cuh"

// y = softmax(x scale). Of `queries` rows a matrix, row i sees its first `offset` + i columns, the rest become 0; queries = 0: all.
template <typename T>
__global__ void softmax(const T* x, T* y, int64 rows, int64 columns, double scale, int64 queries, int64 offset) {
    __shared__ float room[32];
    for (int64 row = blockIdx.x; row < rows; row += gridDim.x) {
        int64 seen = queries ? offset + row % queries : columns;
        float top = -infinity(), sum = 0;
        for (int64 i = threadIdx.x; i < seen; i += blockDim.x) top = larger(top, load(x, row * columns + i) * (float)scale);
        top = block_max(top, room);
        for (int64 i = threadIdx.x; i < seen; i += blockDim.x) sum += expf(load(x, row * columns + i) * (float)scale - top);
        float factor = 1.0f / block_sum(sum, room);
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            float value = i < seen ? expf(load(x, row * columns + i) * (float)scale - top) * factor : 0.0f;
            store(y, row * columns + i, value);
        }
    }
}

// dL/dx = scale y (g - sum(g y)).
template <typename T>
__global__ void softmax_gradient(const T* y, const T* grad, T* result, int64 rows, int64 columns, double scale, int64 queries,
                                 int64 offset) {
    __shared__ float room[32];
    for (int64 row = blockIdx.x; row < rows; row += gridDim.x) {
        int64 seen = queries ? offset + row % queries : columns;
        const T *p = y + row * columns, *g = grad + row * columns;
        float dot = 0;
        for (int64 i = threadIdx.x; i < seen; i += blockDim.x) dot += load(p, i) * load(g, i);
        dot = block_sum(dot, room);
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            store(result + row * columns, i, i < seen ? (float)scale * load(p, i) * (load(g, i) - dot) : 0.0f);
        }
    }
}
