// Keys: unsigned numbers that order as the pixels do, with every NaN above the rest. What only
// compares is one kernel for all pixels of a size.
//
//   Key<T>          the unsigned type of T's size
//   Keys            how pixels become keys (told at run time) and back: of(pixel), bits(key), or
//                   number_bits(key) where there is no NaN
//   pixel_of<T>     the pixel that has these bits
//   turn_to_keys    all of a tile
#pragma once
#include "access.cuh"

// The unsigned number of so many bytes, and the smallest signed one that holds both signs' range.
template <int BYTES>
struct WholeOf;
#define WHOLE_OF(BYTES, UNSIGNED, BOTH_SIGNS) \
    template <>                               \
    struct WholeOf<BYTES> {                   \
        using Unsigned = UNSIGNED;            \
        using BothSigns = BOTH_SIGNS;         \
    };
WHOLE_OF(1, uint8, int)
WHOLE_OF(2, uint16, int)
WHOLE_OF(4, uint32, int64)
WHOLE_OF(8, uint64, int128)
#undef WHOLE_OF
template <typename T>
using Key = typename WholeOf<sizeof(T)>::Unsigned;

template <typename T>
__device__ __forceinline__ T pixel_of(Key<T> bits) {
    T pixel;
    memcpy(&pixel, &bits, sizeof(T));
    return pixel;
}

// Twin of KEYS in gpuconv/backends/cuda/keys.py.
struct Keys {
    uint64 mask;      // toggled: in an integer's bits, in a float's after they are put in order
    uint64 infinity;  // its bits; 0 over integers

    __device__ __forceinline__ bool trivial() const { return mask == 0 && infinity == 0; }
    template <typename U>
    __device__ __forceinline__ bool is_nan(U key) const {
        return sizeof(U) > 1 && infinity && key == U(~U(0));
    }

    template <typename T>
    __device__ __forceinline__ Key<T> of(T pixel) const {
        using U = Key<T>;
        constexpr U top = U(U(1) << (sizeof(U) * 8 - 1));
        U bits;
        memcpy(&bits, &pixel, sizeof(U));
        if (sizeof(U) == 1 || !infinity) return U(bits ^ U(mask));
        if (U(bits & U(~top)) > U(infinity)) return U(~U(0));
        return U((bits & top ? U(~bits) : U(bits | top)) ^ U(mask));
    }
    // The bits of a key that is no NaN's, without a branch.
    template <typename U>
    __device__ __forceinline__ U number_bits(U key) const {
        constexpr U top = U(U(1) << (sizeof(U) * 8 - 1));
        const U turned = key & top ? top : U(~U(0));
        return U(key ^ (sizeof(U) > 1 && infinity ? turned : U(mask)));
    }
    template <typename U>
    __device__ __forceinline__ U bits(U key) const {
        constexpr U top = U(U(1) << (sizeof(U) * 8 - 1));
        if (sizeof(U) == 1 || !infinity) return U(key ^ U(mask));
        if (key == U(~U(0))) return U(~top);
        key = U(key ^ U(mask));
        return key & top ? U(key & U(~top)) : U(~key);
    }
};

// A tile of pixels → a tile of keys in its place, warp by warp in packs of 4 bytes. Its rows begin
// at multiples of 16 bytes. The keys are readable after the next barrier; true where a thread has
// met a NaN.
template <typename T>
__device__ __forceinline__ bool turn_to_keys(T* tile, int pitch, int rows, int columns,
                                             const Keys& keys) {
    constexpr int N = sizeof(T) < 4 ? 4 / sizeof(T) : 1;
    const int lane = threadIdx.x, packed = columns / N * N;
    bool has_nan = false;
    for (int r = threadIdx.y; r < rows; r += blockDim.y) {
        T* row = tile + r * pitch;
        for (int c = lane * N; c < packed; c += 32 * N) {
            const Pack<T, N> pixels = load_pack<N>(row + c);
            Pack<Key<T>, N> found;
#pragma unroll
            for (int i = 0; i < N; ++i) {
                found.values[i] = keys.of(pixels.values[i]);
                has_nan |= keys.is_nan(found.values[i]);
            }
            store_pack(reinterpret_cast<Key<T>*>(row + c), found);
        }
        if (packed + lane < columns) {
            const Key<T> key = keys.of(row[packed + lane]);
            has_nan |= keys.is_nan(key);
            *reinterpret_cast<Key<T>*>(row + packed + lane) = key;
        }
    }
    return has_nan;
}
