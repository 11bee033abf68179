// CUDA's keywords, vector types, built-in variables, shared memory and barriers.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

// Shared memory that is not declared by the two macros below could not be watched.
#define __shared__ \
    static_assert(false, "declare shared memory with SHARED_ARRAY or DYNAMIC_SHARED");

// SHARED_ARRAY(float, tile, [8][33]): `tile` is the block's own float[8][33].
#define SHARED_ARRAY(T, name, ...)               \
    static emulator::SharedSite name##_site;     \
    auto& name = *static_cast<T(*) __VA_ARGS__>( \
        emulator::shared_array(name##_site, #name, sizeof(T __VA_ARGS__), sizeof(T)))

// DYNAMIC_SHARED(float, rows): the bytes given at launch, as a float pointer.
#define DYNAMIC_SHARED(T, name) \
    T* name = static_cast<T*>(emulator::dynamic_shared(#name, sizeof(T)))

// float1, float2, float3, float4 with their makers. Only 2 and 4 are aligned as a whole.
#define EMULATOR_VECTORS(T, N, ALIGN2, ALIGN4)                            \
    struct N##1 { T x; };                                                 \
    struct __attribute__((aligned(ALIGN2))) N##2 { T x, y; };             \
    struct N##3 { T x, y, z; };                                           \
    struct __attribute__((aligned(ALIGN4))) N##4 { T x, y, z, w; };       \
    EMULATOR_INLINE N##1 make_##N##1(T x) { return {x}; }                 \
    EMULATOR_INLINE N##2 make_##N##2(T x, T y) { return {x, y}; }         \
    EMULATOR_INLINE N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; } \
    EMULATOR_INLINE N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTORS(signed char, char, 2, 4)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(unsigned, uint, 8, 16)
EMULATOR_VECTORS(long long, longlong, 16, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
#undef EMULATOR_VECTORS

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace emulator {
template <typename Index>
EMULATOR_INLINE Index index_at(int first) {
    return {register_value(first), register_value(first + 1), register_value(first + 2)};
}
}  // namespace emulator

#define threadIdx (emulator::index_at<uint3>(emulator::THREAD_INDEX))
#define blockIdx (emulator::index_at<uint3>(emulator::BLOCK_INDEX))
#define blockDim (emulator::index_at<dim3>(emulator::BLOCK_SIZE))
#define gridDim (emulator::index_at<dim3>(emulator::GRID_SIZE))
constexpr int warpSize = emulator::WARP;

EMULATOR_INLINE void __syncthreads(emulator::Site site = emulator::here()) {
    emulator::block_barrier(0, emulator::Vote::Or, site);
}
EMULATOR_INLINE int __syncthreads_count(int predicate, emulator::Site site = emulator::here()) {
    return emulator::block_barrier(predicate, emulator::Vote::Count, site);
}
EMULATOR_INLINE int __syncthreads_and(int predicate, emulator::Site site = emulator::here()) {
    return emulator::block_barrier(predicate, emulator::Vote::And, site);
}
EMULATOR_INLINE int __syncthreads_or(int predicate, emulator::Site site = emulator::here()) {
    return emulator::block_barrier(predicate, emulator::Vote::Or, site);
}
EMULATOR_INLINE void __syncwarp(unsigned mask = ~0u, emulator::Site site = emulator::here()) {
    emulator::warp_barrier(mask, site);
}
// Fences order memory, not threads: the emulator runs one thread at a time and needs none.
EMULATOR_INLINE void __threadfence() {}
EMULATOR_INLINE void __threadfence_block() {}
