// Elementwise steps, one walk each: casts, the residual's addition, a bias, GELU and SiLU, dropout, rotary positions.
#include "common.cuh"

// y = f(x) for all elements, eight at a time.
template <typename X, typename Y, typename F> __device__ inline void map(const X* x, Y* y, int64 size, F f) {
    int64 packs = aligned(x) && aligned(y) ? size / 8 : 0;
    for (int64 j = first_index(); j < packs; j += index_step()) {
        Eight<X> in = load_eight(x, j);
        Eight<Y> out;
        for (int k = 0; k < 8; k++) store(out.v, k, f(load(in.v, k)));
        store_eight(y, j, out);
    }
    for (int64 i = 8 * packs + first_index(); i < size; i += index_step()) store(y, i, f(load(x, i)));
}

// y = f(a, b) likewise.
template <typename A, typename B, typename Y, typename F>
__device__ inline void map(const A* a, const B* b, Y* y, int64 size, F f) {
    int64 packs = aligned(a) && aligned(b) && aligned(y) ? size / 8 : 0;
    for (int64 j = first_index(); j < packs; j += index_step()) {
        Eight<A> first = load_eight(a, j);
        Eight<B> second = load_eight(b, j);
        Eight<Y> out;
        for (int k = 0; k < 8; k++) store(out.v, k, f(load(first.v, k), load(second.v, k)));
        store_eight(y, j, out);
    }
    for (int64 i = 8 * packs + first_index(); i < size; i += index_step()) store(y, i, f(load(a, i), load(b, i)));
}

template <typename A, typename B> __global__ void cast(const A* x, B* y, int64 size) {
    map(x, y, size, [](float v) { return v; });
}

// y = a + b of two types: the residual stream in float32, and what a product adds to it in 16 bits.
template <typename A, typename B, typename Y> __global__ void add(const A* a, const B* b, Y* y, int64 size) {
    map(a, b, y, size, [](float v, float w) { return v + w; });
}

// x += bias, down rows that begin `stride` elements apart.
template <typename T> __global__ void add_bias(T* x, const T* bias, int64 rows, int64 columns, int64 stride) {
    const int64 width = aligned(x) && columns % 8 == 0 && stride % 8 == 0 ? 8 : 1, parts = columns / width;
    for (int64 j = first_index(); j < rows * parts; j += index_step()) {
        int64 row = quotient(j, parts), column = (j - row * parts) * width, place = row * stride + column;
        if (width == 1) {
            store(x, place, load(x, place) + load(bias, column));
            continue;
        }
        Eight<T> values = load_eight(x, place / 8);
        for (int k = 0; k < 8; k++) store(values.v, k, load(values.v, k) + load(bias, column + k));
        store_eight(x, place / 8, values);
    }
}

struct Slope { float value, slope; };

// 1 / (1 + e^-x), which keeps the digits of a tiny result; where e^-x is infinite it is the right 0.
__device__ inline float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

// GELU with its derivative, in the tanh form or the exact one; see tinygpt_core.kernels.GELU.
__device__ inline Slope gelu_of(float x, bool exact) {
    if (exact) {
        float share = 0.5f * erfcf(x * -0.70710678118654752440f);  // which keeps the digits of a tiny share
        return {x * share, share + x * expf(-0.5f * x * x) * 0.39894228040143267794f};
    }
    const float factor = 0.79788456080286535588f, cubic = 0.044715f;
    float s = logistic(2.0f * factor * (x + cubic * x * x * x));  // (1 + tanh(half of it)) / 2
    return {x * s, s + 2.0f * x * s * (1.0f - s) * factor * (1.0f + 3.0f * cubic * x * x)};
}

__device__ inline Slope silu_of(float x) {
    float s = logistic(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
}

template <typename T> __global__ void gelu(const T* x, T* y, int64 size, int64 exact) {
    map(x, y, size, [exact](float v) { return gelu_of(v, exact).value; });
}

template <typename T> __global__ void gelu_gradient(const T* x, const T* grad, T* result, int64 size, int64 exact) {
    map(x, grad, result, size, [exact](float v, float g) { return g * gelu_of(v, exact).slope; });
}

template <typename T> __global__ void silu(const T* x, T* y, int64 size) {
    map(x, y, size, [](float v) { return silu_of(v).value; });
}

template <typename T> __global__ void silu_gradient(const T* x, const T* grad, T* result, int64 size) {
    map(x, grad, result, size, [](float v, float g) { return g * silu_of(v).slope; });
}

// y = x m / (1 - p): element i is kept where its number of the stream is >= p. The mask is drawn again in the backward rather than kept.
// `moved` (or null) holds how many blocks the stream has moved on since the launch was recorded: a CUDA graph replays its arguments.
template <typename T>
__global__ void dropout(const T* x, T* y, int64 size, int64 seed, int64 stream, int64 block, const int64* moved, double probability) {
    const float limit = (float)probability;
    const float scale = (float)(1.0 / (1.0 - probability));
    const uint64 first = (uint64)(block + (moved ? *moved : 0));
    // A choice, not a product with 0: what is dropped is 0, also where it was infinite. 5.96e-08 is 2^-24
    auto kept = [limit, scale](unsigned word, float value) { return (float)(word >> 8) * 5.9604644775390625e-08f >= limit ? value * scale : 0.0f; };
    int64 packs = aligned(x) && aligned(y) ? size / 8 : 0;
    for (int64 j = first_index(); j < packs; j += index_step()) {
        Eight<T> values = load_eight(x, j);
        for (int half = 0; half < 2; half++) {
            Words words = philox((uint64)seed, (uint64)stream, first + 2 * j + half);
            for (int k = 0; k < 4; k++) store(values.v, 4 * half + k, kept(words.w[k], load(values.v, 4 * half + k)));
        }
        store_eight(y, j, values);
    }
    for (int64 four = 2 * packs + first_index(); four < (size + 3) / 4; four += index_step()) {
        Words words = philox((uint64)seed, (uint64)stream, first + four);
        for (int64 i = 4 * four; i < 4 * four + 4 && i < size; i++) store(y, i, kept(words.w[i % 4], load(x, i)));
    }
}

// Rotates pairs (x_i, x_{i + half}) of each head by an angle a position: x (B, H, T, 2 half) with strides for B, H and T, the result
// alike. cosine, sine: (T, half). sign -1 rotates back.
template <typename T>
__global__ void rotate(const T* x, T* y, const float* cosine, const float* sine, int64 size, int64 heads, int64 length, int64 half,
                       int64 x_batch, int64 x_head, int64 x_position, int64 y_batch, int64 y_head, int64 y_position, double sign) {
    for (int64 i = first_index(); i < size; i += index_step()) {
        int64 above = quotient(i, half), pair = i - above * half, outer = quotient(above, heads), head = above - outer * heads;
        int64 batch = quotient(outer, length), position = outer - batch * length;
        const T* in = x + batch * x_batch + head * x_head + position * x_position;
        T* out = y + batch * y_batch + head * y_head + position * y_position;
        float a = load(in, pair), b = load(in, pair + half), c = cosine[position * half + pair], s = (float)sign * sine[position * half + pair];
        store(out, pair, a * c - b * s);
        store(out, pair + half, b * c + a * s);
    }
}
