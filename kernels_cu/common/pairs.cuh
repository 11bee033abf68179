// Keys compared one by one, or two of 16 bits by one instruction where the GPU has it (sm_90 on).
//
//   Comparand<U>     WIDTH keys of at most 16 bits each, or one; lower(a, b), higher(a, b)
#pragma once
#include "prelude.cuh"

#if defined(GPUCONV_EMULATOR) || __CUDA_ARCH__ >= 900
constexpr bool PAIRS = true;
#else
constexpr bool PAIRS = false;
#endif

__device__ __forceinline__ uint32 minimum_pair(uint32 a, uint32 b) {
#ifdef GPUCONV_EMULATOR
    return min(a & 0xffffu, b & 0xffffu) | min(a >> 16, b >> 16) << 16;
#else
    return __vminu2(a, b);
#endif
}
__device__ __forceinline__ uint32 maximum_pair(uint32 a, uint32 b) {
#ifdef GPUCONV_EMULATOR
    return max(a & 0xffffu, b & 0xffffu) | max(a >> 16, b >> 16) << 16;
#else
    return __vmaxu2(a, b);
#endif
}

template <typename U, bool pairs = PAIRS && sizeof(U) <= 2>
struct Comparand {
    static constexpr int WIDTH = 1;
    U key;

    __device__ __forceinline__ U part(int) const { return key; }
    static __device__ __forceinline__ Comparand lower(Comparand a, Comparand b) {
        return {a.key < b.key ? a.key : b.key};
    }
    static __device__ __forceinline__ Comparand higher(Comparand a, Comparand b) {
        return {a.key < b.key ? b.key : a.key};
    }
};
template <typename U>
struct Comparand<U, true> {
    static constexpr int WIDTH = 2;
    uint32 keys;

    __device__ __forceinline__ U part(int i) const { return U(i ? keys >> 16 : keys); }
    static __device__ __forceinline__ Comparand lower(Comparand a, Comparand b) {
        return {minimum_pair(a.keys, b.keys)};
    }
    static __device__ __forceinline__ Comparand higher(Comparand a, Comparand b) {
        return {maximum_pair(a.keys, b.keys)};
    }
};
