// The cross-entropy of rows of logits, and its gradient. One block a row.
#include "common.cuh"

struct Normalizer { float top, sum; };

// The largest of a row and sum exp(x - largest), reading each logit once: every thread keeps the largest so far and the sum relative to
// it, which it rescales when a larger one comes among the next eight (Milakov, Gimelshein, "Online normalizer calculation for softmax",
// 2018). What is read is left in `kept`, too, if there is room for it in shared memory.
template <typename T> __device__ inline Normalizer normalizer_of(const T* x, T* kept, int64 columns, float* room) {
    float top = -infinity(), sum = 0;
    const int64 packs = aligned(x) ? columns / 8 : 0;
    for (int64 j = threadIdx.x; j < packs; j += blockDim.x) {
        Eight<T> values = load_eight(x, j);
        if (kept) store_eight(kept, j, values);
        float most = top;
        for (int k = 0; k < 8; k++) most = load(values.v, k) > most ? load(values.v, k) : most;
        if (most > top) sum *= expf(top - most), top = most;
        for (int k = 0; k < 8; k++) sum += load(values.v, k) == -infinity() ? 0.0f : expf(load(values.v, k) - top);
    }
    for (int64 i = 8 * packs + threadIdx.x; i < columns; i += blockDim.x) {
        if (kept) kept[i] = x[i];
        float value = load(x, i);
        if (value > top) sum *= expf(top - value), top = value;
        sum += value == -infinity() ? 0.0f : expf(value - top);
    }
    float whole = block_max(top, room);
    return {whole, block_sum(top == -infinity() ? sum : sum * expf(top - whole), room)};
}

// out = g (exp(x - top) / sum - [column is the target]) for a row; x and out may be one.
template <typename T>
__device__ inline void write_gradient(const T* x, T* out, int64 columns, int64 target, Normalizer of, float g) {
    const float factor = 1.0f / of.sum;
    auto gradient = [=](float value, int64 i) { return g * (expf(value - of.top) * factor - (i == target ? 1.0f : 0.0f)); };
    const int64 packs = aligned(x) && aligned(out) ? columns / 8 : 0;
    for (int64 j = threadIdx.x; j < packs; j += blockDim.x) {
        Eight<T> values = load_eight(x, j);
        for (int k = 0; k < 8; k++) store(values.v, k, gradient(load(values.v, k), 8 * j + k));
        store_eight(out, j, values);
    }
    for (int64 i = 8 * packs + threadIdx.x; i < columns; i += blockDim.x) store(out, i, gradient(load(x, i), i));
}

template <typename T> __device__ inline void write_zeros(T* out, int64 columns) {
    for (int64 i = threadIdx.x; i < columns; i += blockDim.x) store(out, i, 0.0f);
}

// loss = log sum exp(x - max) - (x_target - max), 0 in a row that is ignored. Kept for the backward are the maximum and the sum of each
// row, not the probabilities. Rows begin `stride` elements apart.
template <typename T>
__global__ void cross_entropy(const T* logits, const int64* targets, float* losses, float* maxima, float* sums, int64 columns,
                              int64 stride, int64 has_ignored, int64 ignored) {
    __shared__ float room[32];
    int64 row = blockIdx.x, target = targets[row];
    const T* x = logits + row * stride;
    Normalizer of = normalizer_of(x, (T*)0, columns, room);
    if (threadIdx.x == 0) {
        maxima[row] = of.top, sums[row] = of.sum;
        losses[row] = has_ignored && target == ignored ? 0.0f : logf(of.sum) - (load(x, target) - of.top);
    }
}

// dL/dlogits = g (exp(x - max) / sum - [column is the target]); 0 in a row that is ignored.
template <typename T>
__global__ void cross_entropy_gradient(const T* logits, const int64* targets, const float* grad, const float* maxima, const float* sums,
                                       T* result, int64 columns, int64 stride, int64 has_ignored, int64 ignored) {
    int64 row = blockIdx.x, target = targets[row];
    T* out = result + row * stride;
    if (has_ignored && target == ignored) {
        write_zeros(out, columns);
    } else {
        write_gradient(logits + row * stride, out, columns, target, Normalizer{maxima[row], sums[row]}, grad[row]);
    }
}

// Both in one: the loss, and over the logits their gradient, where the gradient of each loss will be `scale`. A row is read once if it
// fits in shared memory (`staged`), else its second reading finds it in the cache.
template <typename T>
__global__ __launch_bounds__(1024) void cross_entropy_both(T* logits, const int64* targets, float* losses, int64 columns, int64 stride, int64 has_ignored,
                                   int64 ignored, double scale, int64 staged) {
    SHARED_ROOM(space);
    __shared__ float room[32];
    int64 row = blockIdx.x, target = targets[row];
    T *x = logits + row * stride, *kept = staged ? (T*)space : (T*)0;
    bool skipped = has_ignored && target == ignored;
    Normalizer of = normalizer_of((const T*)x, kept, columns, room);
    if (threadIdx.x == 0) losses[row] = skipped ? 0.0f : logf(of.sum) - (load(x, target) - of.top);
    __syncthreads();  // before anybody writes over the target's logit
    if (skipped) {
        write_zeros(x, columns);
    } else {
        write_gradient((const T*)(kept ? kept : x), x, columns, target, of, (float)scale);
    }
}

// What `cross_entropy_both` left, where the gradient of a loss turns out to be another than `scale`.
template <typename T> __global__ void rescale_rows(T* x, const float* grad, int64 columns, int64 stride, double scale) {
    int64 row = blockIdx.x;
    if (grad[row] == (float)scale) return;
    const float factor = grad[row] / (float)scale;
    for (int64 i = threadIdx.x; i < columns; i += blockDim.x) store(x + row * stride, i, load(x + row * stride, i) * factor);
}
