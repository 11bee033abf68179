// The PTX instructions in use, each in a small wrapper with a body for the emulator.
//
// cp.async: copies from global to shared memory that run on while the thread does; a thread waits
// for its own copies only, a barrier makes them visible to others.
// bar.sync: warps of a block may wait at different places.
// ldmatrix and mma.sync: all 32 lanes of a warp together. HAS_TENSOR_CORES tells where they and
// real cp.async exist (sm_80 on); before that, cp.async copies at once and mma is missing.
#pragma once
#include "prelude.cuh"

#if defined(GPUCONV_EMULATOR) || __CUDA_ARCH__ >= 800
#define HAS_TENSOR_CORES 1
#endif

#ifndef GPUCONV_EMULATOR
__device__ __forceinline__ unsigned shared_address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}
#endif

// Copy BYTES (4, 8 or 16, both ends aligned to that), or zeros where `inside` is false: `global`
// is not read then.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool inside = true) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async moves 4, 8 or 16 bytes");
#if defined(GPUCONV_EMULATOR)
    emulator::copy_async(shared, global, BYTES, inside ? BYTES : 0);
#elif defined(HAS_TENSOR_CORES)
    const int given = inside ? BYTES : 0;
    if constexpr (BYTES == 16) {  // .cg passes the L1 cache by
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                     "l"(global), "r"(given)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                     "l"(global), "n"(BYTES), "r"(given)
                     : "memory");
    }
#else
    if constexpr (BYTES == 16)
        *static_cast<uint4*>(shared) =
            inside ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
    else if constexpr (BYTES == 8)
        *static_cast<uint2*>(shared) =
            inside ? *static_cast<const uint2*>(global) : make_uint2(0, 0);
    else
        *static_cast<unsigned*>(shared) = inside ? *static_cast<const unsigned*>(global) : 0u;
#endif
}

// Wait for all warps of the block, wherever they call it; every lane of a warp at the same place.
__device__ __forceinline__ void meet() {
#if defined(GPUCONV_EMULATOR)
    __syncthreads();
#else
    asm volatile("bar.sync 0;" ::: "memory");
#endif
}

// Close a group of copies; wait until at most GROUPS_LEFT of the closed groups are under way.
__device__ __forceinline__ void commit_copies() {
#if defined(GPUCONV_EMULATOR)
    emulator::commit_copies();
#elif defined(HAS_TENSOR_CORES)
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int GROUPS_LEFT>
__device__ __forceinline__ void wait_copies() {
#if defined(GPUCONV_EMULATOR)
    emulator::wait_copies(GROUPS_LEFT);
#elif defined(HAS_TENSOR_CORES)
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
#endif
}

// 8×8 matrices of 16-bit elements. Lane 8 * m + r gives the address of row r of matrix m, 16 bytes
// aligned to 16; the lane gets of each matrix the elements (lane / 4, lane % 4 * 2) and the next,
// or, TRANSPOSED, those of the matrix's transpose.
#ifdef GPUCONV_EMULATOR
template <bool TRANSPOSED = false, int MATRICES>
__device__ __forceinline__ void load_matrices(unsigned (&out)[MATRICES], const void* row) {
    emulator::load_matrices<MATRICES, TRANSPOSED>(out, row, emulator::here());
}
#else
template <bool TRANSPOSED = false>
__device__ __forceinline__ void load_matrices(unsigned (&out)[1], const void* row) {
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                     : "=r"(out[0])
                     : "r"(shared_address(row))
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                     : "=r"(out[0])
                     : "r"(shared_address(row))
                     : "memory");
}
template <bool TRANSPOSED = false>
__device__ __forceinline__ void load_matrices(unsigned (&out)[2], const void* row) {
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(out[0]), "=r"(out[1])
                     : "r"(shared_address(row))
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                     : "=r"(out[0]), "=r"(out[1])
                     : "r"(shared_address(row))
                     : "memory");
}
template <bool TRANSPOSED = false>
__device__ __forceinline__ void load_matrices(unsigned (&out)[4], const void* row) {
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(shared_address(row))
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(shared_address(row))
                     : "memory");
}
#endif

// d (16×8) = c, or d itself, + a (16×K, by rows) · b (K×8, by columns). With group = lane / 4, member = lane % 4:
//
//   d[0], d[1]     row group,     columns 2 * member, 2 * member + 1     d[2], d[3]  row group + 8
//   a[0], a[1]     rows group and group + 8, the E columns from E * member on
//   a[2], a[3]     the same rows, 4 * E columns further
//   b[0], b[1]     column group, the E rows from E * member on, and 4 * E rows further
//
// where a register holds E elements: 1 (tf32, K = 8), 2 (f16, bf16, K = 16) or 4 (s8, u8, K = 32).
// mma(T(), ...) takes the one whose b is of that type.
#ifdef HAS_TENSOR_CORES
#ifdef GPUCONV_EMULATOR
#define MMA_WRAPPER(NAME, TYPE, SUM, KIND, INSTRUCTION, A, B)                               \
    __device__ __forceinline__ void NAME(SUM(&d)[4], const unsigned (&a)[4],                \
                                         const unsigned (&b)[2], const SUM(&c)[4]) {        \
        SUM sums[4] = {c[0], c[1], c[2], c[3]};                                             \
        emulator::mma<emulator::A, emulator::B>(sums, a, b, emulator::here());              \
        for (int i = 0; i < 4; ++i) d[i] = sums[i];                                         \
    }                                                                                       \
    MMA_IN_PLACE(NAME, TYPE, SUM)
#else
#define MMA_WRAPPER(NAME, TYPE, SUM, KIND, INSTRUCTION, A, B)                               \
    __device__ __forceinline__ void NAME(SUM(&d)[4], const unsigned (&a)[4],                \
                                         const unsigned (&b)[2], const SUM(&c)[4]) {        \
        asm volatile(INSTRUCTION                                                            \
                     " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};" \
                     : "=" KIND(d[0]), "=" KIND(d[1]), "=" KIND(d[2]), "=" KIND(d[3])       \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),    \
                       KIND(c[0]), KIND(c[1]), KIND(c[2]), KIND(c[3]));                     \
    }                                                                                       \
    MMA_IN_PLACE(NAME, TYPE, SUM)
#endif
#define MMA_IN_PLACE(NAME, TYPE, SUM)                                             \
    __device__ __forceinline__ void NAME(SUM(&d)[4], const unsigned (&a)[4],      \
                                         const unsigned (&b)[2]) {                \
        NAME(d, a, b, d);                                                         \
    }                                                                             \
    __device__ __forceinline__ void mma(TYPE, SUM(&d)[4], const unsigned (&a)[4], \
                                        const unsigned (&b)[2]) {                 \
        NAME(d, a, b);                                                            \
    }
MMA_WRAPPER(mma_tf32, float, float, "f", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
            Tf32, Tf32)
MMA_WRAPPER(mma_f16, float16, float, "f", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
            F16, F16)
MMA_WRAPPER(mma_bf16, bfloat16, float, "f", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
            Bf16, Bf16)
MMA_WRAPPER(mma_s8, int8, int, "r", "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", S8, S8)
MMA_WRAPPER(mma_s8_u8, uint8, int, "r", "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32", S8, U8)
#undef MMA_IN_PLACE
#undef MMA_WRAPPER

// A float as tf32: 10 bits of mantissa, halves away from zero.
__device__ __forceinline__ unsigned to_tf32(float value) {
#ifdef GPUCONV_EMULATOR
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) return value != value ? 0x7fffffffu : bits;
    return (bits + 0x1000u) & 0xffffe000u;
#else
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
#endif
}
#endif
