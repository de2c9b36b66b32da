// total[ids[i]] += values[i], the same bits each time: the gradient of an embedding. Floating-point atomics would add in another order in
// every run. So the places of each id are put side by side, in ascending order, by counting; and of that list every block adds up one
// piece, however often an id stands in it: in a text some stand at every fourth place, and most nowhere.
#include "common.cuh"

// What sums of T are kept in.
template <typename T> struct WideOf { typedef float type; };
template <> struct WideOf<double> { typedef double type; };
template <typename T> using Wide = typename WideOf<T>::type;

// For chunks of at most 1024 places, a block each: ranks[i] = how many places of the chunk before i have its id, and
// counts[chunk, id] = how many places have it in all.
__global__ void rank_ids(const int64* ids, int* counts, int* ranks, int64 size, int64 classes, int64 chunk) {
    __shared__ int those[1024];
    const int64 begin = blockIdx.x * chunk;
    const int count = (int)(size - begin < chunk ? size - begin : chunk);
    for (int i = threadIdx.x; i < count; i += blockDim.x) those[i] = (int)ids[begin + i];
    for (int64 id = threadIdx.x; id < classes; id += blockDim.x) counts[blockIdx.x * classes + id] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const int id = those[i];
        int before = 0, same = 0;
        for (int j = 0; j < count; j++) {
            same += those[j] == id;
            before += those[j] == id && j < i;
        }
        ranks[begin + i] = before;
        if (before == same - 1) counts[blockIdx.x * classes + id] = same;
    }
}

// counts[chunk, id] = in how many places of the chunks before the id stands; totals[id]: of all chunks.
__global__ void scan_chunks(int* counts, int* totals, int64 chunks, int64 classes) {
    for (int64 id = first_index(); id < classes; id += index_step()) {
        int before = 0;
        for (int64 chunk = 0; chunk < chunks; chunk++) {
            int here = counts[chunk * classes + id];
            counts[chunk * classes + id] = before;
            before += here;
        }
        totals[id] = before;
    }
}

// starts[i] = the sum of counts before i, for i <= classes. One block.
__global__ void scan_counts(const int* counts, int* starts, int64 classes) {
    __shared__ int sums[1024];
    int64 share = (classes + blockDim.x - 1) / blockDim.x, begin = threadIdx.x * share;
    int64 end = begin + share < classes ? begin + share : classes;
    int sum = 0;
    for (int64 i = begin; i < end; i++) sum += counts[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    int before = 0;
    for (int thread = 0; thread < threadIdx.x; thread++) before += sums[thread];
    for (int64 i = begin; i < end; i++) {
        starts[i] = before;
        before += counts[i];
    }
    if (threadIdx.x == blockDim.x - 1) starts[classes] = before;
}

// sorted: the places in the order of their ids, and those of one id in ascending order.
__global__ void place_ids(const int64* ids, const int* starts, const int* counts, const int* ranks, int* sorted, int64 size, int64 classes,
                          int64 chunk) {
    for (int64 i = first_index(); i < size; i += index_step()) {
        sorted[starts[ids[i]] + counts[quotient(i, chunk) * classes + ids[i]] + ranks[i]] = (int)i;
    }
}

// One block for a piece of `sorted` (x) and a tile of columns (y). What stands in one piece is added to total; of an id that goes on into
// the next pieces, each keeps a sum in `partial` (pieces, 2, columns): at 1 where it begins, at 0 in the others.
template <typename T>
__global__ void add_rows(Wide<T>* total, const T* __restrict__ values, const int64* __restrict__ ids, const int* __restrict__ sorted,
                         Wide<T>* partial, int64 size, int64 columns, int64 piece) {
    const int64 begin = blockIdx.x * piece, end = begin + piece < size ? begin + piece : size;
    const int64 column = (int64)blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    int64 id = ids[sorted[begin]];
    bool began_before = begin > 0 && ids[sorted[begin - 1]] == id;
    Wide<T> sum = 0;
    for (int64 i = begin; i < end; i++) {
        sum += load(values, sorted[i] * columns + column);
        const int64 next = i + 1 < size ? ids[sorted[i + 1]] : -1;
        if (next == id && i + 1 < end) continue;
        if (began_before || next == id) {
            partial[(2 * blockIdx.x + (began_before ? 0 : 1)) * columns + column] = sum;
        } else {
            total[id * columns + column] += sum;
        }
        id = next, began_before = false, sum = 0;
    }
}

// Adds up what the pieces kept of the id that begins in piece x and goes on.
template <typename W>
__global__ void join_rows(W* total, const W* partial, const int64* ids, const int* sorted, const int* starts, int64 size, int64 columns,
                          int64 piece) {
    const int64 begin = blockIdx.x * piece, end = begin + piece;
    const int64 column = (int64)blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= columns || end >= size) return;
    const int64 id = ids[sorted[end]], last = (starts[id + 1] - 1) / piece;
    if (starts[id] < begin || starts[id] >= end) return;
    double sum = partial[(2 * blockIdx.x + 1) * columns + column];  // in doubles, as there may be many pieces
    for (int64 other = blockIdx.x + 1; other <= last; other++) sum += partial[2 * other * columns + column];
    total[id * columns + column] += (W)sum;
}
