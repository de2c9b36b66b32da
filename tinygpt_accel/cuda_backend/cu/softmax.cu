// Softmax over rows, as attention and as a layer want it, and the cross-entropy of rows of logits. One block a row.
#include "common.cuh"

// y = softmax(x scale). Of `queries` rows a matrix, row i sees its first `offset` + i columns, the rest become 0; queries = 0: all.
template <typename T>
__global__ void softmax(const T* x, T* y, int64 rows, int64 columns, double scale, int64 queries, int64 offset) {
    typedef Wide<T> W;
    __shared__ W room[32];
    for (int64 row = blockIdx.x; row < rows; row += gridDim.x) {
        int64 seen = queries ? offset + row % queries : columns;
        W top = -infinity<W>(), sum = 0;
        for (int64 i = threadIdx.x; i < seen; i += blockDim.x) top = larger(top, load(x, row * columns + i) * (W)scale);
        top = block_max(top, room);
        for (int64 i = threadIdx.x; i < seen; i += blockDim.x) sum += exponential(load(x, row * columns + i) * (W)scale - top);
        W factor = (W)1 / block_sum(sum, room);
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            W value = i < seen ? exponential(load(x, row * columns + i) * (W)scale - top) * factor : (W)0;
            store(y, row * columns + i, value);
        }
    }
}

// dL/dx = scale y (g - sum(g y)).
template <typename T>
__global__ void softmax_gradient(const T* y, const T* grad, T* result, int64 rows, int64 columns, double scale, int64 queries,
                                 int64 offset) {
    typedef Wide<T> W;
    __shared__ W room[32];
    for (int64 row = blockIdx.x; row < rows; row += gridDim.x) {
        int64 seen = queries ? offset + row % queries : columns;
        const T *p = y + row * columns, *g = grad + row * columns;
        W dot = 0;
        for (int64 i = threadIdx.x; i < seen; i += blockDim.x) dot += load(p, i) * load(g, i);
        dot = block_sum(dot, room);
        for (int64 i = threadIdx.x; i < columns; i += blockDim.x) {
            W value = i < seen ? (W)scale * load(p, i) * (load(g, i) - dot) : (W)0;
            store(result + row * columns, i, value);
        }
    }
}

// loss = log sum exp(x - max) - (x_target - max), reading each logit once: every thread keeps the largest so far and the sum relative to
// it, which it rescales when a larger one comes among the next eight (Milakov, Gimelshein, "Online normalizer calculation for softmax",
// 2018). Kept for the backward are the maximum and the sum of each row, not the probabilities. Rows begin `stride` elements apart.
template <typename T>
__global__ void cross_entropy(const T* logits, const int64* targets, Wide<T>* losses, Wide<T>* maxima, Wide<T>* sums, int64 columns,
                              int64 stride, int64 has_ignored, int64 ignored) {
    typedef Wide<T> W;
    __shared__ W room[32];
    int64 row = blockIdx.x, target = targets[row];
    const T* x = logits + row * stride;
    W top = -infinity<W>(), sum = 0;
    const int64 packs = aligned(x) ? columns / 8 : 0;
    for (int64 j = threadIdx.x; j < packs; j += blockDim.x) {
        Eight<T> values = load_eight(x, j);
        W most = top;
        for (int k = 0; k < 8; k++) most = load(values.v, k) > most ? load(values.v, k) : most;
        if (most > top) sum *= exponential(top - most), top = most;
        for (int k = 0; k < 8; k++) sum += load(values.v, k) == -infinity<W>() ? (W)0 : exponential(load(values.v, k) - top);
    }
    for (int64 i = 8 * packs + threadIdx.x; i < columns; i += blockDim.x) {
        W value = load(x, i);
        if (value > top) sum *= exponential(top - value), top = value;
        sum += value == -infinity<W>() ? (W)0 : exponential(value - top);
    }
    W whole = block_max(top, room);
    sum = block_sum(top == -infinity<W>() ? sum : sum * exponential(top - whole), room);
    if (threadIdx.x == 0) {
        maxima[row] = whole, sums[row] = sum;
        bool skipped = has_ignored && target == ignored;
        losses[row] = skipped ? (W)0 : logarithm(sum) - (load(x, target) - whole);
    }
}

// dL/dlogits = g (exp(x - max) / sum - [column is the target]); 0 in a row that is ignored.
template <typename T>
__global__ void cross_entropy_gradient(const T* logits, const int64* targets, const Wide<T>* grad, const Wide<T>* maxima,
                                       const Wide<T>* sums, T* result, int64 columns, int64 stride, int64 has_ignored, int64 ignored) {
    typedef Wide<T> W;
    int64 row = blockIdx.x, target = targets[row];
    bool skipped = has_ignored && target == ignored;
    W g = grad[row], top = maxima[row], factor = (W)1 / sums[row];
    const T* x = logits + row * stride;
    T* out = result + row * stride;
    auto gradient = [=](W value, int64 i) {
        return skipped ? (W)0 : g * (exponential(value - top) * factor - (i == target ? (W)1 : (W)0));
    };
    const int64 packs = aligned(x) && aligned(out) ? columns / 8 : 0;
    for (int64 j = threadIdx.x; j < packs; j += blockDim.x) {
        Eight<T> values = load_eight(x, j);
        for (int k = 0; k < 8; k++) store(values.v, k, gradient(load(values.v, k), 8 * j + k));
        store_eight(out, j, values);
    }
    for (int64 i = 8 * packs + threadIdx.x; i < columns; i += blockDim.x) store(out, i, gradient(load(x, i), i));
}
