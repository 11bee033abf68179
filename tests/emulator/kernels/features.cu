// One small kernel for each thing of CUDA that the emulator stands in for; all are correct.
#include "common/border.cuh"
#include "common/prelude.cuh"

// Twelve numbers a thread: who it is and how large its surroundings are.
__global__ void identities(unsigned* out) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned* mine = out + 12 * (block * blockDim.x * blockDim.y * blockDim.z + thread);
    const uint3 thread_index = threadIdx, block_index = blockIdx;
    const dim3 block_size = blockDim, grid_size = gridDim;
    mine[0] = thread_index.x, mine[1] = thread_index.y, mine[2] = thread_index.z;
    mine[3] = block_index.x, mine[4] = block_index.y, mine[5] = block_index.z;
    mine[6] = block_size.x, mine[7] = block_size.y, mine[8] = block_size.z;
    mine[9] = grid_size.x, mine[10] = grid_size.y, mine[11] = grid_size.z;
}

// The turn in which each thread of the grid started.
__global__ void turns(int* counter, int* out) {
    out[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1);
}

__global__ void block_votes(const int* in, int* out) {
    const int t = threadIdx.x, count = blockDim.x;
    out[t] = __syncthreads_count(in[t] > 0);
    out[count + t] = __syncthreads_and(in[t] > 0);
    out[2 * count + t] = __syncthreads_or(in[t] > 0);
}

template <typename T>
__global__ void shuffles(const T* in, T* out, int width) {
    const int t = threadIdx.x, count = blockDim.x;
    out[t] = __shfl_sync(FULL_WARP, in[t], 3, width);
    out[count + t] = __shfl_up_sync(FULL_WARP, in[t], 2, width);
    out[2 * count + t] = __shfl_down_sync(FULL_WARP, in[t], 2, width);
    out[3 * count + t] = __shfl_xor_sync(FULL_WARP, in[t], 5, width);
}

// Each half of the warp by itself.
__global__ void warp_votes(const int* in, unsigned* out) {
    const int t = threadIdx.x, count = blockDim.x;
    const unsigned half = t % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
    out[4 * count + t] = __activemask();
    out[t] = __ballot_sync(half, in[t] > 0);
    out[count + t] = __any_sync(half, in[t] > 0);
    out[2 * count + t] = __all_sync(half, in[t] > 0);
    out[3 * count + t] = __match_any_sync(half, in[t]);
}
// sm_80 on.
#if defined(GPUCONV_EMULATOR) || __CUDA_ARCH__ >= 800
__global__ void warp_reductions(const int* in, int* out) {
    const int t = threadIdx.x, count = blockDim.x;
    out[t] = __reduce_add_sync(FULL_WARP, in[t]);
    out[count + t] = __reduce_min_sync(FULL_WARP, in[t]);
    out[2 * count + t] = __reduce_max_sync(FULL_WARP, in[t]);
    out[3 * count + t] = int(__reduce_and_sync(FULL_WARP, unsigned(in[t])));
    out[4 * count + t] = int(__reduce_or_sync(FULL_WARP, unsigned(in[t])));
    out[5 * count + t] = int(__reduce_xor_sync(FULL_WARP, unsigned(in[t])));
}
#endif

// Lanes read each other through shared memory, ordered by __syncwarp of each half.
__global__ void warp_exchange(const float* in, float* out) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x;
    const unsigned half = t % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
    for (int step = 8; step > 0; step /= 2) {
        part[t] = step == 8 ? in[t] : out[t];
        __syncwarp(half);
        out[t] = part[t] + part[t ^ step];
        __syncwarp(half);
    }
}

__global__ void integer_atomics(const int* in, int* out) {
    const int value = in[blockIdx.x * blockDim.x + threadIdx.x];
    atomicAdd(out + 0, value);
    atomicSub(out + 1, value);
    atomicMin(out + 2, value);
    atomicMax(out + 3, value);
    atomicAnd(out + 4, value);
    atomicOr(out + 5, value);
    atomicXor(out + 6, value);
    if (value == 7) atomicExch(out + 7, value);
    atomicCAS(out + 8, value, value + 1);
    atomicInc(reinterpret_cast<unsigned*>(out + 9), 4u);
}
template <typename T>
__global__ void sum_atomics(const T* in, T* out) {
    atomicAdd(out, in[blockIdx.x * blockDim.x + threadIdx.x]);
}

// A block's sum by halving, in dynamic shared memory.
template <typename T>
__global__ void block_sums(const T* in, T* out) {
    DYNAMIC_SHARED(T, part);
    const int t = threadIdx.x;
    part[t] = in[blockIdx.x * blockDim.x + t];
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (t < half) part[t] += part[t + half];
        __syncthreads();
    }
    if (t == 0) out[blockIdx.x] = part[0];
}

// What lies in shared memory that nobody wrote: the poison. Wrong on purpose.
__global__ void poison(unsigned* out) {
    SHARED_ARRAY(unsigned, part, [32]);
    DYNAMIC_SHARED(unsigned, rest);
    out[2 * threadIdx.x] = part[threadIdx.x];
    out[2 * threadIdx.x + 1] = rest[threadIdx.x];
    part[threadIdx.x] = rest[threadIdx.x] = 5;
}

// Correct, and hard on a checker: one memory in accesses of 1, 4 and 8 bytes, words whose bytes
// belong to different threads, a buffer used twice.
__global__ void mixed_widths(const uint8* in, uint8* out) {
    SHARED_ARRAY(uint8, bytes, [256]);
    SHARED_ARRAY(unsigned, words, [64]);
    const int t = threadIdx.x;
    if (t < 64) reinterpret_cast<uchar4*>(bytes)[t] = reinterpret_cast<const uchar4*>(in)[t];
    __syncthreads();
    reinterpret_cast<uint8*>(words)[t] = bytes[255 - t];
    __syncthreads();
    if (t < 32) reinterpret_cast<uint2*>(bytes)[t] = make_uint2(words[2 * t + 1], words[2 * t]);
    __syncthreads();
    out[t] = bytes[t ^ 3];
}

// One warp that parts and comes together again: its requests are counted where it does.
__global__ void divergence(const float* in, float* out) {
    SHARED_ARRAY(float, tile, [3][40]);
    const int t = threadIdx.x;
    for (int y = 0; y < 3; y++)
        for (int x = t; x < 40; x += 32) tile[y][x] = in[y * 40 + x];  // <- nested
    __syncthreads();
    float sum = 0;
    if (t % 2) {
        sum = tile[0][t];  // <- odd
    } else {
        for (int i = 0; i < t; i++) sum += tile[2][i];  // <- even
    }
    out[t] = sum;  // <- joined
}

struct Affine {
    double scale;
    float shift[2];
    int count;
    uint8 flag;
};
__global__ void affine(const float* in, float* out, const __grid_constant__ Affine by) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < by.count) out[i] = float(in[i] * by.scale) + by.shift[by.flag];
}
__global__ void scalars(double* out, int a, unsigned b, int64 c, float d, double e, bool f,
                        uint8 g) {
    out[0] = a, out[1] = b, out[2] = double(c), out[3] = d, out[4] = e, out[5] = f, out[6] = g;
}
// `optional` may be a null pointer.
__global__ void optional_input(const float* optional, float* out) {
    out[threadIdx.x] = optional ? optional[threadIdx.x] : -1.0f;
}

__global__ void vectors(const float4* in, float4* out, const uchar4* bytes, int2* sums) {
    const int t = threadIdx.x;
    const float4 v = in[t];
    out[t] = make_float4(v.w, v.z, v.y, v.x);
    const uchar4 b = __ldg(bytes + t);
    sums[t] = make_int2(b.x + b.y, b.z + b.w);
}

__constant__ int PRIMES[8] = {2, 3, 5, 7, 11, 13, 17, 19};
__global__ void table(const int* in, int* out) { out[threadIdx.x] = PRIMES[in[threadIdx.x] & 7]; }

// One value for each template argument and define: which instance ran?
#ifndef FACTOR
#define FACTOR 1
#endif
template <int N, typename T>
__global__ void instance(T* out) {
    out[threadIdx.x] = T(N * FACTOR);
}

// A 3×3 filter over a tile with its halo, any border: a small whole kernel.
template <typename T, int WIDTH, int HEIGHT>
__global__ void __launch_bounds__(WIDTH* HEIGHT)
    filter3x3(const T* __restrict__ in, const T* __restrict__ taps, T* __restrict__ out, int2 size,
              int border) {
    SHARED_ARRAY(T, tile, [HEIGHT + 2][WIDTH + 2]);
    const int x0 = blockIdx.x * WIDTH, y0 = blockIdx.y * HEIGHT;
    for (int i = threadIdx.y * WIDTH + threadIdx.x; i < (WIDTH + 2) * (HEIGHT + 2);
         i += WIDTH * HEIGHT) {
        const int y = map_index(Border(border), y0 + i / (WIDTH + 2) - 1, size.y);
        const int x = map_index(Border(border), x0 + i % (WIDTH + 2) - 1, size.x);
        tile[i / (WIDTH + 2)][i % (WIDTH + 2)] = y < 0 || x < 0 ? T(0) : in[(int64)y * size.x + x];
    }
    __syncthreads();
    const int x = x0 + threadIdx.x, y = y0 + threadIdx.y;
    T sum = 0;
#pragma unroll
    for (int i = 0; i < 3; i++)
#pragma unroll
        for (int j = 0; j < 3; j++) sum += tile[threadIdx.y + i][threadIdx.x + j] * taps[3 * i + j];
    if (x < size.x && y < size.y) out[(int64)y * size.x + x] = sum;
}
