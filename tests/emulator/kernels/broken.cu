// Kernels with one fault each: BROKEN makes the fault, without it the same kernel is correct.
//
// A line that the emulator must name ends in a mark, "// <- name" or "// <- name, other" for the
// second line of a conflict; tests/test_emulator_faults.py looks for the marks.
#include "common/ptx.cuh"
#include "common/scalar.cuh"

// Reverse each block's part through shared memory.
template <bool BROKEN>
__global__ void missing_barrier(const float* in, float* out) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x, first = blockIdx.x * 64;
    part[t] = in[first + t];  // <- missing_barrier, other
    if (!BROKEN) __syncthreads();
    out[first + t] = part[63 - t];  // <- missing_barrier
}

// The same round after round: the next round's write must wait for this round's reads.
template <bool BROKEN>
__global__ void write_after_read(const float* in, float* out, int rounds) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x;
    float sum = 0;
    for (int round = 0; round < rounds; round++) {
        part[t] = in[round * 64 + t];  // <- write_after_read
        __syncthreads();
        sum += part[63 - t];  // <- write_after_read, other
        if (!BROKEN) __syncthreads();
    }
    out[t] = sum;
}

// Two buffers: a round writes one while slow threads may still read the other. With one barrier a
// round that is right, with the buffers confused it is not.
template <bool BROKEN>
__global__ void double_buffer(const float* in, float* out, int rounds) {
    SHARED_ARRAY(float, buffers, [2][64]);
    const int t = threadIdx.x;
    float sum = 0;
    buffers[0][t] = in[t];
    __syncthreads();
    for (int round = 0; round < rounds; round++) {
        const int now = round % 2, next = BROKEN ? now : 1 - now;
        if (round + 1 < rounds) buffers[next][t] = in[(round + 1) * 64 + t];  // <- double_buffer
        sum += buffers[now][63 - t];  // <- double_buffer, other
        __syncthreads();
    }
    out[t] = sum;
}

// In the last block, element `count` is read, or written: one behind the end.
template <bool BROKEN>
__global__ void global_read(const float* in, float* out, int count) {
    const int i = blockIdx.x * 64 + threadIdx.x;
    if (i < count - 1 + BROKEN) out[i] = in[i + 1];  // <- global_read
}
template <bool BROKEN>
__global__ void global_write(const float* in, float* out, int count) {
    const int i = blockIdx.x * 64 + threadIdx.x;
    if (i < count + BROKEN) out[i] = 2 * in[min(i, count - 1)];  // <- global_write
}

// A row of 64 and a halo of one at each end, in 66 elements or in two too few.
template <bool BROKEN>
__global__ void shared_write(const float* in, float* out) {
    SHARED_ARRAY(float, row, [BROKEN ? 64 : 66]);
    const int t = threadIdx.x;
    row[t] = in[t];
    if (t < 2) row[64 + t] = 0;  // <- shared_write
    __syncthreads();
    out[t] = row[t] + (BROKEN ? 0 : row[t + 2]);
}
template <bool BROKEN>
__global__ void dynamic_read(const float* in, float* out) {
    DYNAMIC_SHARED(float, row);
    const int t = threadIdx.x;
    row[t] = in[t];
    __syncthreads();
    out[t] = row[BROKEN ? t + 1 : 63 - t];  // <- dynamic_read
}

// Only half of the elements are written before all are read.
template <bool BROKEN>
__global__ void uninitialised(const float* in, float* out) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x;
    if (!BROKEN || t < 32) part[t] = in[t];
    __syncthreads();
    out[t] = part[63 - t];  // <- uninitialised
}

template <bool BROKEN>
__global__ void histogram(const uint8* in, int* out, int count) {
    SHARED_ARRAY(int, bins, [16]);
    const int t = threadIdx.x;
    if (t < 16) bins[t] = 0;
    __syncthreads();
    for (int i = t; i < count; i += blockDim.x) {
        if (BROKEN)
            bins[in[i] % 16] += 1;  // <- histogram
        else
            atomicAdd(&bins[in[i] % 16], 1);
    }
    __syncthreads();
    if (t < 16) atomicAdd(&out[t], bins[t]);
}

// Neighbouring blocks write one element in common.
template <bool BROKEN>
__global__ void block_overlap(float* out) {
    out[blockIdx.x * (BROKEN ? 31 : 32) + threadIdx.x] = 1.0f;  // <- block_overlap
}

// Lanes exchange through shared memory: the warp must be told.
template <bool BROKEN>
__global__ void missing_syncwarp(const float* in, float* out) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x;
    part[t] = in[t];  // <- missing_syncwarp, other
    if (!BROKEN) __syncwarp();
    out[t] = part[t ^ 1];  // <- missing_syncwarp
}

// Half of the warp shuffles with a mask that names all of it.
template <bool BROKEN>
__global__ void divergent_shuffle(const float* in, float* out) {
    const int t = threadIdx.x;
    float sum = in[t];
    if (!BROKEN || t % 32 < 16) {
        for (int step = 16; step > 0; step /= 2)
            sum += __shfl_xor_sync(FULL_WARP, sum, step);  // <- divergent_shuffle
    }
    __syncthreads();  // <- divergent_shuffle, other
    out[t] = sum;
}
// The mask leaves a lane out that is read.
template <bool BROKEN>
__global__ void absent_lane(const float* in, float* out) {
    const int t = threadIdx.x;
    float value = in[t];
    if (t < 16) value = __shfl_sync(0x0000ffffu, value, BROKEN ? 16 : 15);  // <- absent_lane
    out[t] = value;
}
template <bool BROKEN>
__global__ void not_in_mask(const float* in, float* out) {
    const int t = threadIdx.x;
    out[t] = __shfl_xor_sync(BROKEN ? 0x7fffffffu : FULL_WARP, in[t], 1);  // <- not_in_mask
}

template <bool BROKEN>
__global__ void divergent_barrier(const float* in, float* out) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x;
    part[t] = in[t];
    if (BROKEN && t < 32)
        __syncthreads();  // <- divergent_barrier, other
    else
        __syncthreads();  // <- divergent_barrier
    out[t] = part[63 - t];
}
template <bool BROKEN>
__global__ void skipped_barrier(const float* in, float* out) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x;
    part[t] = in[t];
    if (!BROKEN || t != 5) __syncthreads();  // <- skipped_barrier
    out[t] = BROKEN && t == 5 ? 0 : part[t];
}
template <bool BROKEN>
__global__ void early_return(const float* in, float* out, int count) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x, i = blockIdx.x * 64 + t;
    if (BROKEN && i >= count) return;
    part[t] = i < count ? in[i] : 0;
    __syncthreads();  // <- early_return
    if (i < count) out[i] = part[t];
}

template <bool BROKEN>
__global__ void misaligned(const float* in, float* out) {
    const float* from = in + 4 * threadIdx.x + BROKEN;
    const float4 v = *reinterpret_cast<const float4*>(from);  // <- misaligned
    *reinterpret_cast<float4*>(out + 4 * threadIdx.x) = make_float4(v.w, v.z, v.y, v.x);
}

template <bool BROKEN>
__global__ void write_to_const(const float* in, float* out) {
    const int t = threadIdx.x;
    out[t] = in[t];
    if (BROKEN) const_cast<float*>(in)[t] = 0;  // <- write_to_const
}

// A pitch that is not the array's: elements between the rows of a view are touched.
template <bool BROKEN>
__global__ void wrong_pitch(const float* in, float* out, int pitch) {
    const int x = threadIdx.x, y = blockIdx.x;
    out[y * blockDim.x + x] = in[y * (pitch + BROKEN) + x];  // <- wrong_pitch
}

// The copy is committed but not waited for.
template <bool BROKEN>
__global__ void missing_wait(const float* in, float* out, int rounds) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x;
    float sum = 0;
    for (int round = 0; round < rounds; round++) {
        copy_async<4>(&part[t], in + round * 64 + t);  // <- missing_wait, other
        commit_copies();
        wait_copies<BROKEN ? 1 : 0>();
        __syncthreads();
        sum += part[63 - t];  // <- missing_wait
        __syncthreads();
    }
    out[t] = sum;
    if (BROKEN) wait_copies<0>();
}
template <bool BROKEN>
__global__ void copy_not_awaited(const float* in, float* out) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x;
    copy_async<4>(&part[t], in + t);  // <- copy_not_awaited
    commit_copies();
    if (!BROKEN) wait_copies<0>();
    out[t] = in[t];
}

// One row too far: the last lane of a matrix reads behind the tile, or between two rows.
template <bool BROKEN>
__global__ void matrix_rows(const uint16* in, unsigned* out) {
    SHARED_ARRAY(uint16, tile, [8][8]);
    const int t = threadIdx.x;
    tile[t / 4][t % 4 * 2] = in[2 * t];
    tile[t / 4][t % 4 * 2 + 1] = in[2 * t + 1];
    __syncwarp();
    unsigned pair[1];
    load_matrices(pair, &tile[t % 8 + BROKEN][0]);  // <- matrix_rows
    out[t] = pair[0];
}
template <bool BROKEN>
__global__ void matrix_alignment(const uint16* in, unsigned* out) {
    SHARED_ARRAY(uint16, tile, [8][16]);
    const int t = threadIdx.x;
    for (int i = t; i < 128; i += 32) tile[i / 16][i % 16] = in[i];
    __syncwarp();
    unsigned pair[1];
    load_matrices(pair, &tile[t % 8][BROKEN ? 4 : 8]);  // <- matrix_alignment
    out[t] = pair[0];
}

// The next round's copy starts while slow threads still read this round's values.
template <bool BROKEN>
__global__ void copy_overtakes(const float* in, float* out, int rounds) {
    SHARED_ARRAY(float, part, [64]);
    const int t = threadIdx.x;
    float sum = 0;
    for (int round = 0; round < rounds; round++) {
        copy_async<4>(&part[t], in + round * 64 + t);  // <- copy_overtakes
        commit_copies();
        wait_copies<0>();
        __syncthreads();
        sum += part[63 - t];  // <- copy_overtakes, other
        if (!BROKEN) __syncthreads();
    }
    out[t] = sum;
}

// A lane reads what a lane of the other half wrote; only halves are synchronised.
template <bool BROKEN>
__global__ void partial_syncwarp(const float* in, float* out) {
    SHARED_ARRAY(float, part, [32]);
    const int t = threadIdx.x;
    part[t] = in[t];  // <- partial_syncwarp, other
    __syncwarp(!BROKEN ? FULL_WARP : t < 16 ? 0x0000ffffu : 0xffff0000u);
    out[t] = part[31 - t];  // <- partial_syncwarp
}

// A plain read beside atomics.
template <bool BROKEN>
__global__ void atomic_beside_read(const float* in, float* out) {
    SHARED_ARRAY(int, counter, [1]);
    if (threadIdx.x == 0) counter[0] = 0;
    __syncthreads();
    atomicAdd(counter, in[threadIdx.x] > 0);  // <- atomic_beside_read
    if (!BROKEN) __syncthreads();
    out[threadIdx.x] = float(counter[0]);  // <- atomic_beside_read, other
}

// Blocks add to one place, each with a plain read and write.
template <bool BROKEN>
__global__ void block_sum(const float* in, float* out) {
    if (threadIdx.x == 0) {
        if (BROKEN)
            out[0] += in[blockIdx.x];  // <- block_sum
        else
            atomicAdd(out, in[blockIdx.x]);
    }
}

// Behind a helper of another file: the line is the kernel's, the helper's stands beside it.
template <bool BROKEN>
__global__ void misaligned_pack(const float* in, float* out) {
    const auto pack = load_pack<4>(in + 4 * threadIdx.x + BROKEN);  // <- misaligned_pack
    store_pack(out + 4 * threadIdx.x, pack);
}

// Faults of the counters: right answers, bad access. A column of a 32-wide tile lies in one bank.
template <bool BROKEN>
__global__ void bank_conflict(const float* in, float* out) {
    SHARED_ARRAY(float, tile, [32][BROKEN ? 32 : 33]);
    const int x = threadIdx.x, y = threadIdx.y;
    tile[y][x] = in[y * 32 + x];
    __syncthreads();
    out[y * 32 + x] = tile[x][y];  // <- bank_conflict
}
template <bool BROKEN>
__global__ void uncoalesced(const float* in, float* out) {
    const int x = threadIdx.x, y = threadIdx.y;
    if (BROKEN)
        out[x * 32 + y] = in[y * 32 + x];  // <- uncoalesced
    else
        out[y * 32 + x] = in[y * 32 + x];
}

// Faults that a plain build meets as signals.
template <bool BROKEN>
__global__ void division_by_zero(int* out, int divisor) {
    out[threadIdx.x] = int(threadIdx.x) / (BROKEN ? divisor : 1);  // <- division_by_zero
}
template <bool BROKEN>
__global__ void wild_pointer(float* out, int64 far) {
    out[(BROKEN ? far : 0) + threadIdx.x] = 1;  // <- wild_pointer
}
