// total[ids[i]] += values[i], row by row in the order of i: the gradient of an embedding, the same bits each time. Floating-point atomics
// would be faster for a few long segments, and would give other bits in every run; so only integers are counted with atomics, whose order
// does not matter, and each segment of equal ids is put in order before it is added up.
#include "common.cuh"

__global__ void count_ids(const int64* ids, int* counts, int64 size) {
    for (int64 i = first_index(); i < size; i += index_step()) atomicAdd(counts + ids[i], 1);
}

// starts[i] = the sum of counts before i, for i <= classes; counts become 0 again. One block.
__global__ void scan_counts(int* counts, int* starts, int64 classes) {
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
        counts[i] = 0;
    }
    if (threadIdx.x == blockDim.x - 1) starts[classes] = before;
}

__global__ void place_ids(const int64* ids, const int* starts, int* counts, int* places, int64 size) {
    for (int64 i = first_index(); i < size; i += index_step()) places[starts[ids[i]] + atomicAdd(counts + ids[i], 1)] = (int)i;
}

// Each segment in ascending order, by rank: places are all different. One block a segment.
__global__ void sort_segments(const int* starts, const int* places, int* sorted) {
    int start = starts[blockIdx.x], length = starts[blockIdx.x + 1] - start;
    for (int i = threadIdx.x; i < length; i += blockDim.x) {
        int place = places[start + i], rank = 0;
        for (int j = 0; j < length; j++) rank += places[start + j] < place;
        sorted[start + rank] = place;
    }
}

// One block for a segment (x) and a tile of columns (y).
template <typename T>
__global__ void add_rows(Wide<T>* total, const T* values, const int* starts, const int* sorted, int64 columns) {
    int start = starts[blockIdx.x], stop = starts[blockIdx.x + 1];
    int64 column = (int64)blockIdx.y * blockDim.x + threadIdx.x;
    if (start == stop || column >= columns) return;
    Wide<T> sum = total[blockIdx.x * columns + column];
    for (int i = start; i < stop; i++) sum += load(values, sorted[i] * columns + column);
    total[blockIdx.x * columns + column] = sum;
}
