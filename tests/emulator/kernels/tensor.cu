// Matrix products of one warp, D[16][8] += A[16][depth] · B[depth][8], through cp.async, ldmatrix
// and mma.sync.
#include "common/ptx.cuh"
#ifdef HAS_TENSOR_CORES

template <typename T>
__device__ __forceinline__ void store_sums(const T (&d)[4], T* out) {
    const int group = threadIdx.x / 4, member = threadIdx.x % 4;
    for (int r = 0; r < 4; r++) out[(group + r / 2 * 8) * 8 + member * 2 + r % 2] = d[r];
}

__global__ void product_tf32(const float* a, const float* b, float* out, int depth) {
    const int group = threadIdx.x / 4, member = threadIdx.x % 4;
    float d[4] = {};
    for (int k = 0; k < depth; k += 8) {
        unsigned left[4], right[2];
        for (int r = 0; r < 4; r++)
            left[r] = to_tf32(a[(group + r % 2 * 8) * depth + k + member + r / 2 * 4]);
        for (int r = 0; r < 2; r++) right[r] = to_tf32(b[(k + member + r * 4) * 8 + group]);
        mma_tf32(d, left, right);
    }
    store_sums(d, out);
}

// Two buffers: while one is multiplied, the next 16 columns of A and rows of B are on their way.
template <typename T>
__global__ void product_half(const T* a, const T* b, float* out, int depth) {
    SHARED_ARRAY(T, left, [2][16][24]);  // rows of 48 bytes: eight of them meet all banks
    SHARED_ARRAY(T, right, [2][16][8]);
    const int lane = threadIdx.x;
    const auto fetch = [&](int k) {
        const int buffer = k / 16 % 2;
        if (k < depth) {
            copy_async<16>(&left[buffer][lane / 2][lane % 2 * 8],
                           a + lane / 2 * depth + k + lane % 2 * 8);
            if (lane < 16) copy_async<16>(&right[buffer][lane][0], b + (k + lane) * 8);
        }
        commit_copies();
    };
    float d[4] = {};
    fetch(0);
    for (int k = 0; k < depth; k += 16) {
        const int buffer = k / 16 % 2;
        fetch(k + 16);
        wait_copies<1>();
        __syncwarp();
        unsigned m[4], n[2];
        load_matrices(m, &left[buffer][lane % 16][lane / 16 * 8]);
        load_matrices<true>(n, &right[buffer][lane % 16][0]);
        mma(T(), d, m, n);
        __syncwarp();
    }
    store_sums(d, out);
}

// 8-bit: A by rows as ldmatrix reads it in pairs of bytes, B given by columns ([8][depth]).
template <typename T>
__global__ void product_8bit(const int8* a, const T* b, int* out, int depth) {
    SHARED_ARRAY(int8, left, [16][48]);
    SHARED_ARRAY(T, right, [8][48]);
    const int lane = threadIdx.x;
    int d[4] = {};
    for (int k = 0; k < depth; k += 32) {
        copy_async<16>(&left[lane / 2][lane % 2 * 16], a + lane / 2 * depth + k + lane % 2 * 16);
        copy_async<8>(&right[lane / 4][lane % 4 * 8], b + lane / 4 * depth + k + lane % 4 * 8);
        commit_copies();
        wait_copies<0>();
        __syncwarp();
        unsigned m[4], n[2];
        load_matrices(m, &left[lane % 16][lane / 16 * 16]);
        load_matrices(n, &right[lane % 8][lane / 8 % 2 * 16]);
        mma(T(), d, m, n);
        __syncwarp();
    }
    store_sums(d, out);
}

// One product of registers as they are: those of lane 0, of lane 1, ...
template <typename T, typename Sum>
__global__ void product_of_registers(const unsigned* a, const unsigned* b, Sum* out) {
    const int lane = threadIdx.x;
    unsigned left[4], right[2];
    for (int r = 0; r < 4; r++) left[r] = a[4 * lane + r];
    for (int r = 0; r < 2; r++) right[r] = b[2 * lane + r];
    Sum d[4] = {};
    mma(T(), d, left, right);
    for (int r = 0; r < 4; r++) out[4 * lane + r] = d[r];
}

// 4 bytes at a time with zeros beyond `count`, and one matrix turned round.
__global__ void padded_copy(const float* in, float* out, int count) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x;
    copy_async<4>(&part[t], in + t, t < count);
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    out[t] = part[63 - t];
}
template <bool TRANSPOSED>
__global__ void matrix_halves(const uint16* in, uint16* out) {
    SHARED_ARRAY(uint16, tile, [8][8]);
    const int t = threadIdx.x;
    tile[t / 4][t % 4 * 2] = in[2 * t];
    tile[t / 4][t % 4 * 2 + 1] = in[2 * t + 1];
    __syncwarp();
    unsigned pair[1];
    load_matrices<TRANSPOSED>(pair, &tile[t % 8][0]);
    out[2 * t] = uint16(pair[0]);
    out[2 * t + 1] = uint16(pair[0] >> 16);
}
#endif
