// Elements compared as they lie in words: one of 32 bits, or two of 16; bytes stand twice in
// theirs.
//
//   Boxes              what openings, closings and gradients make of two boxes
//   MorphSmallParams   the parameters of their kernels
//   Order<T>           higher, lower, difference: of words; NaN wins
//   join               the same by a template argument, of two or three
//   Compared<T>        a lane's elements of a row as such words, and back
#pragma once
#include "keys.cuh"
#include "pairs.cuh"
#include "scalar.cuh"
#include "strip.cuh"

// Twice: the highest, then the lowest of these. Range: the highest less the lowest.
enum class Boxes : int { Twice, Range };

// Twin of MORPH_SMALL in gpuconv/backends/cuda/morph_small.py.
struct MorphSmallParams {
    Images images;  // the value's bits are its number
    Strips strips;
    uint32 mask;      // toggled in words of pixels: they order as the first step wants them then
    uint32 most;      // differences of integers saturate there, in each part of a word
    uint32 outside;   // answers outside the image for what the first step has found, likewise,
    int has_outside;  // if any; else windows there meet what they meet in the image, turned over
    int factor;  // bytes of two steps over blocks: 1, or -1 where all bits are toggled besides
};

// How words of elements compare; NaN wins.
template <typename T>
struct Order {
    static constexpr bool THREE = true;  // one instruction compares three
    static __device__ __forceinline__ uint32 higher(uint32 a, uint32 b) {
        if constexpr (sizeof(T) == 4) return max(a, b);
        if constexpr (PAIRS) return maximum_pair(a, b);
        return pick(a, b, a, b);
    }
    static __device__ __forceinline__ uint32 lower(uint32 a, uint32 b) {
        if constexpr (sizeof(T) == 4) return min(a, b);
        if constexpr (PAIRS) return minimum_pair(a, b);
        return pick(b, a, a, b);
    }
    // Where there is no instruction for it: a where x is above y. Fewer registers than `__vmaxu2`.
    static __device__ __forceinline__ uint32 pick(uint32 x, uint32 y, uint32 a, uint32 b) {
#ifdef GPUCONV_EMULATOR
        return PAIRS ? 0 : x + y + a + b;
#else
        const uint32 mask = __vcmpgtu2(x, y);
        return (a & mask) | (b & ~mask);
#endif
    }
    // No half borrows from the other: its own low is no higher.
    static __device__ __forceinline__ uint32 difference(uint32 high, uint32 low, uint32 most) {
        return lower(high - low, most);
    }
};

#if !defined(GPUCONV_EMULATOR) && __CUDA_ARCH__ >= 800
#define FLOAT_EXTREME(NAME, INSTRUCTION, OTHERWISE)                     \
    static __device__ __forceinline__ uint32 NAME(uint32 a, uint32 b) { \
        uint32 found;                                                   \
        asm(INSTRUCTION " %0, %1, %2;" : "=r"(found) : "r"(a), "r"(b)); \
        return found;                                                   \
    }
#else
#define FLOAT_EXTREME(NAME, INSTRUCTION, OTHERWISE) \
    static __device__ __forceinline__ uint32 NAME(uint32 a, uint32 b) { return OTHERWISE; }
#endif

template <>
struct Order<float> {
    static constexpr bool THREE = false;
    FLOAT_EXTREME(higher, "max.NaN.f32",
                  __float_as_uint(maximum(__uint_as_float(a), __uint_as_float(b))))
    FLOAT_EXTREME(lower, "min.NaN.f32",
                  __float_as_uint(minimum(__uint_as_float(a), __uint_as_float(b))))
    static __device__ __forceinline__ uint32 difference(uint32 high, uint32 low, uint32) {
        return __float_as_uint(__uint_as_float(high) - __uint_as_float(low));
    }
};

// Two numbers of 16 bits.
template <typename T>
struct OrderOfTwo {
    static constexpr bool THREE = true;
    template <typename Work>
    static __device__ __forceinline__ uint32 each(uint32 a, uint32 b, Work work) {
        Pack<T, 2> x, y;
        memcpy(&x, &a, 4);
        memcpy(&y, &b, 4);
        const Pack<T, 2> both = {{work(x.values[0], y.values[0]), work(x.values[1], y.values[1])}};
        uint32 found;
        memcpy(&found, &both, 4);
        return found;
    }
    static __device__ __forceinline__ uint32 difference(uint32 high, uint32 low, uint32) {
        return each(high, low, [](T x, T y) { return narrow<T>(widen(x) - widen(y)); });
    }
};
#define ORDER_OF_TWO(T, NAME)                                             \
    template <>                                                           \
    struct Order<T> : OrderOfTwo<T> {                                     \
        FLOAT_EXTREME(higher, "max.NaN." NAME,                            \
                      each(a, b, [](T x, T y) { return maximum(x, y); })) \
        FLOAT_EXTREME(lower, "min.NaN." NAME,                             \
                      each(a, b, [](T x, T y) { return minimum(x, y); })) \
    };
ORDER_OF_TWO(float16, "f16x2")
ORDER_OF_TWO(bfloat16, "bf16x2")
#undef ORDER_OF_TWO
#undef FLOAT_EXTREME

// A lane's elements of a row as they are compared. A word holds one of 32 bits, or elements i and
// i + N / 2; bytes stand twice in their 16 bits: what is compared is 257 times the pixel.
template <typename T>
struct Compared {
    static constexpr int N = 16 / int(sizeof(T)), EACH = 4 / int(sizeof(T));
    static constexpr int COUNT = EACH == 1 ? N : N / 2;

    template <int REACH, typename Row>
    static __device__ __forceinline__ void open(uint32 (&line)[COUNT + 2 * REACH], const Row& row,
                                                uint32 mask) {
        constexpr int SIDE = Row::HALO / EACH, PACK = Row::PACK / EACH;
        uint32 words[4 + 2 * SIDE];
#pragma unroll
        for (int w = 0; w < 4 + 2 * SIDE; ++w) {
            const int behind = w - SIDE - 4;
            words[w] = mask ^ (w < SIDE       ? row.before[w / PACK].words[w % PACK]
                               : behind < 0 ? row.own.words[w - SIDE]
                                            : row.behind[behind / PACK].words[behind % PACK]);
        }
#pragma unroll
        for (int i = 0; i < COUNT + 2 * REACH; ++i) {
            const int at = Row::HALO - REACH + i, other = at + N / 2;
            if constexpr (EACH == 1) {
                line[i] = words[at];
            } else {
                const int low = EACH == 4 ? at % 4 * 0x11 : at % 2 * 0x22 + 0x10;
                const int high = EACH == 4 ? other % 4 * 0x11 : other % 2 * 0x22 + 0x10;
                line[i] =
                    __byte_perm(words[at / EACH], words[other / EACH], low | (high + 0x44) << 8);
            }
        }
    }

    // A lane's own elements alone.
    struct OwnRow {
        static constexpr int HALO = 0, PACK = EACH;
        Words<Key<T>, N> own;
        const Words<Key<T>, EACH>*before, *behind;
    };
    static __device__ __forceinline__ void open(uint32 (&line)[COUNT], const Words<Key<T>, N>& own,
                                                uint32 mask) {
        open<0>(line, OwnRow{own, nullptr, nullptr}, mask);
    }

    static __device__ __forceinline__ Words<Key<T>, N> close(const uint32 (&line)[COUNT],
                                                             uint32 mask) {
        Words<Key<T>, N> result;
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            if constexpr (EACH == 1) {
                result.words[w] = line[w];
            } else if constexpr (EACH == 2) {
                result.words[w] = __byte_perm(line[w % 2 * 2], line[w % 2 * 2 + 1],
                                              w < 2 ? 0x5410 : 0x7632);
            } else {
                const int i = w % 2 * 4;
                result.words[w] = __byte_perm(__byte_perm(line[i], line[i + 1], 0x6240),
                                              __byte_perm(line[i + 2], line[i + 3], 0x6240),
                                              w < 2 ? 0x5410 : 0x7632);
            }
            result.words[w] ^= mask;
        }
        return result;
    }
};

template <typename T, bool HIGHEST>
__device__ __forceinline__ uint32 join(uint32 a, uint32 b) {
    return HIGHEST ? Order<T>::higher(a, b) : Order<T>::lower(a, b);
}
template <typename T, bool HIGHEST>
__device__ __forceinline__ uint32 join(uint32 a, uint32 b, uint32 c) {
    return join<T, HIGHEST>(join<T, HIGHEST>(a, b), c);
}
