// Chains of elementwise steps, one walk each: casts, the residual's addition, a bias, GELU and SiLU, dropout, rotary positions.
#include "common.cuh"

template <typename A, typename B> __global__ void cast(const A* x, B* y, int64 size) {
    for (int64 i = first_index(); i < size; i += index_step()) store(y, i, load(x, i));
}

// y = a + b of two types: the residual stream in float32, what a product adds to it in 16 bits, and the product's bias where one waits.
template <typename A, typename B, typename Y>
__global__ void add(const A* a, const B* b, const Wide<B>* bias, Y* y, int64 size, int64 columns) {
    for (int64 i = first_index(); i < size; i += index_step()) {
        store(y, i, load(a, i) + (bias ? load(b, i) + bias[i % columns] : load(b, i)));
    }
}

// x += bias, down rows that begin `stride` elements apart.
template <typename T> __global__ void add_bias(T* x, const Wide<T>* bias, int64 rows, int64 columns, int64 stride) {
    for (int64 i = first_index(); i < rows * columns; i += index_step()) {
        int64 place = i / columns * stride + i % columns;
        store(x, place, load(x, place) + bias[i % columns]);
    }
}

template <typename W> struct Slope { W value, slope; };

// GELU with its derivative, in the tanh form or the exact one; see tinygpt_core.kernels.GELU.
template <typename W> __device__ inline Slope<W> gelu_of(W x, bool exact) {
    if (exact) {
        W share = (W)0.5 * ((W)1 + error_function(x * (W)0.70710678118654752440));
        return {x * share, share + x * exponential((W)-0.5 * x * x) * (W)0.39894228040143267794};
    }
    const W factor = (W)0.79788456080286535588, cubic = (W)0.044715;
    W t = hyperbolic(factor * (x + cubic * x * x * x));
    return {(W)0.5 * x * ((W)1 + t), (W)0.5 * ((W)1 + t) + (W)0.5 * x * ((W)1 - t * t) * factor * ((W)1 + (W)3 * cubic * x * x)};
}

template <typename W> __device__ inline Slope<W> silu_of(W x) {
    W s = (W)0.5 * hyperbolic((W)0.5 * x) + (W)0.5;
    return {x * s, s * ((W)1 + x * ((W)1 - s))};
}

// y = gelu(x), where x + bias takes the place of x first if there is a bias: so the bias of a product costs no walk of its own.
template <typename T> __global__ void bias_gelu(T* x, const Wide<T>* bias, T* y, int64 size, int64 columns, int64 exact) {
    for (int64 i = first_index(); i < size; i += index_step()) {
        if (bias) store(x, i, load(x, i) + bias[i % columns]);
        store(y, i, gelu_of(load(x, i), exact).value);
    }
}

template <typename T> __global__ void gelu_gradient(const T* x, const T* grad, T* result, int64 size, int64 exact) {
    for (int64 i = first_index(); i < size; i += index_step()) store(result, i, load(grad, i) * gelu_of(load(x, i), exact).slope);
}

template <typename T> __global__ void silu(const T* x, T* y, int64 size) {
    for (int64 i = first_index(); i < size; i += index_step()) store(y, i, silu_of(load(x, i)).value);
}

template <typename T> __global__ void silu_gradient(const T* x, const T* grad, T* result, int64 size) {
    for (int64 i = first_index(); i < size; i += index_step()) store(result, i, load(grad, i) * silu_of(load(x, i)).slope);
}

// y = x m / (1 - p): element i is kept where its number of the stream is >= p. The mask is drawn again in the backward rather than kept.
// `moved` (or null) holds how many blocks the stream has moved on since the launch was recorded: a CUDA graph replays its arguments.
template <typename T>
__global__ void dropout(const T* x, T* y, int64 size, int64 seed, int64 stream, int64 block, const int64* moved, double probability) {
    typedef Wide<T> W;
    const float limit = (float)probability;
    const W scale = (W)(1.0 / (1.0 - probability));
    for (int64 four = first_index(); four < (size + 3) / 4; four += index_step()) {
        Words words = philox((uint64)seed, (uint64)stream, (uint64)(block + (moved ? *moved : 0) + four));
        for (int64 i = 4 * four; i < 4 * four + 4 && i < size; i++) {
            float uniform = (float)(words.w[i % 4] >> 8) * 5.9604644775390625e-08f;  // 2^-24
            store(y, i, load(x, i) * (uniform >= limit ? scale : (W)0));
        }
    }
}

// Rotates pairs (x_i, x_{i + half}) of each head by an angle a position: x (B, H, T, 2 half) with strides for B, H and T, the result
// alike. cosine, sine: (T, half). sign -1 rotates back.
template <typename T>
__global__ void rotate(const T* x, T* y, const Wide<T>* cosine, const Wide<T>* sine, int64 size, int64 heads, int64 length, int64 half,
                       int64 x_batch, int64 x_head, int64 x_position, int64 y_batch, int64 y_head, int64 y_position, double sign) {
    typedef Wide<T> W;
    for (int64 i = first_index(); i < size; i += index_step()) {
        int64 pair = i % half, head = i / half % heads, position = i / half / heads % length, batch = i / half / heads / length;
        const T* in = x + batch * x_batch + head * x_head + position * x_position;
        T* out = y + batch * y_batch + head * y_head + position * y_position;
        W a = load(in, pair), b = load(in, pair + half), c = cosine[position * half + pair], s = (W)sign * sine[position * half + pair];
        store(out, pair, a * c - b * s);
        store(out, pair + half, b * c + a * s);
    }
}
