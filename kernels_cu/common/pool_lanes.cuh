// What a thread does to many neighbours of a row at once for an operation of common/pool.cuh: two
// of 8 or 16 bits by one instruction where that is exact.
//
//   Lanes<Op>            Op on neighbours; `all` is a value of one element, told by its bits
//   Columns<L, N>        the same on N channels of each column, channels last
//   reduce_row           the windows of a row → `row`
//   Averaged             what a thread's sums are divided by, each a Count
//
// Neighbours come apart into even and odd ones, H values of LANES neighbours each: what lies beside
// an even one is odd.
//
//   e0 o0 e1 o1 e2 o2 e3 o3    LANES 2, H 2:  even (e0, e1), (e2, e3)   odd (o0, o1), (o2, o3)
//
// Windows that are 2 apart are as many as even neighbours and lie in `row` like these; those that
// are 1 apart begin with the even ones, and the odd follow.
#pragma once
#include "pairs.cuh"
#include "pool.cuh"
#include "strip.cuh"

// The larger of both, for each half of a word; NaN wins.
template <typename T>
__device__ __forceinline__ uint32 maximum_halves(uint32 a, uint32 b) {
    if constexpr (Scalar<T>::integer) {
        return maximum_pair(a, b);
    } else {
#if !defined(GPUCONV_EMULATOR) && __CUDA_ARCH__ >= 800
        uint32 result;
        if constexpr (same_type<T, float16>) {
            asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
        } else {
            asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
        }
        return result;
#else
        Pack<T, 2> left, right;
        memcpy(&left, &a, 4);
        memcpy(&right, &b, 4);
        left.values[0] = maximum(left.values[0], right.values[0]);
        left.values[1] = maximum(left.values[1], right.values[1]);
        memcpy(&a, &left, 4);
        return a;
#endif
    }
}
__device__ __forceinline__ float maximum_float(float a, float b) {
#if !defined(GPUCONV_EMULATOR) && __CUDA_ARCH__ >= 800
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
#else
    return maximum(a, b);
#endif
}

// What sums are divided by. An inverse and one step of Newton give the quotient that division
// rounds to (Markstein 1990), of whole numbers below 2^24 too: their ties are floats, and no other
// quotient lies as near to a tie as it may be off. Twin of COUNT in gpuconv/backends/cuda/pool.py.
struct Count {
    float count, inverse;

    template <bool WHOLE>
    __device__ __forceinline__ float divide(float sum) const {
        const float near = sum * inverse;
        const float exact = __fmaf_rn(__fmaf_rn(-near, count, sum), inverse, near);
        return WHOLE || fabsf(near) < __int_as_float(0x7f800000) ? exact : near;
    }
};

// The counts of a thread's row of windows: only its first and its last may reach outside.
template <int SIZE, int STRIDE, int PAD>
struct Averaged {
    const Count (&counts)[10];
    int first_x, last_x;
    Count first, middle, last;

    __device__ __forceinline__ Averaged(const Count (&all)[10], const PoolAxis& x, int window,
                                        int windows)
        : counts(all), first_x(counted(x, window)), last_x(counted(x, window + windows - 1)) {}
    __device__ __forceinline__ void set(const PoolAxis& y, int window) {
        const int along_y = counted(y, window);
        first = counts[along_y * first_x];
        middle = counts[along_y * SIZE];
        last = counts[along_y * last_x];
    }
    __device__ __forceinline__ const Count& of(int window, int windows) const {
        return window == 0 ? first : window == windows - 1 ? last : middle;
    }

private:
    // 0: a window beyond the last.
    static __device__ __forceinline__ int counted(const PoolAxis& axis, int window) {
        const int begin = window * STRIDE - PAD;
        return max(min(begin + SIZE, axis.high) - max(begin, axis.low), 0);
    }
};

// The masks of an Operation for each element of a word.
template <typename T>
struct WordMasks {
    uint32 keep, flip;

    __device__ __forceinline__ explicit WordMasks(const Operation& operation) {
        constexpr uint32 EACH = sizeof(T) == 1 ? 0x01010101u : sizeof(T) == 2 ? 0x00010001u : 1u;
        keep = uint32(operation.keep) * EACH;
        flip = uint32(operation.flip) * EACH;
    }
    __device__ __forceinline__ uint32 key(uint32 word) const { return (word & keep) ^ flip; }
};

template <typename Op>
struct Lanes;

// Bytes are the upper halves of numbers of 16 bits, over any other bits: see common/packed.cuh.
template <typename T>
struct Lanes<Extreme<T>> {
    static_assert(sizeof(T) <= 2, "floats have their own");
    using Element = T;
    using Value = uint32;
    using Context = WordMasks<T>;
    static constexpr int LANES = 2;
    static constexpr bool has_count = false;

    static __device__ __forceinline__ Value join(Value a, Value b) {
        return maximum_halves<Halves>(a, b);
    }
    static __device__ __forceinline__ Value all(uint32 bits, const Context& masks) {
        return masks.key(__byte_perm(bits, 0, sizeof(T) == 1 ? 0x0000 : 0x1010));
    }
    template <int N, int H>
    static __device__ __forceinline__ void split(Value (&even)[H], Value (&odd)[H],
                                                 const Words<T, N>& raw, const Context& masks) {
#pragma unroll
        for (int j = 0; j < H; ++j) {
            if constexpr (sizeof(T) == 1) {
                odd[j] = masks.key(raw.words[j]);
                even[j] = odd[j] << 8;
            } else {
                const uint32 low = masks.key(raw.words[2 * j]);
                const uint32 high = masks.key(raw.words[2 * j + 1]);
                even[j] = __byte_perm(low, high, 0x5410);
                odd[j] = __byte_perm(low, high, 0x7632);
            }
        }
    }
    template <int STRIDE, int W, typename CountOf>
    static __device__ __forceinline__ Words<T, 2 * W> close(const Value (&row)[W],
                                                            const Context& masks, CountOf) {
        constexpr int H = W / 2;
        Words<T, 2 * W> results;
#pragma unroll
        for (int j = 0; j < H; ++j) {
            if constexpr (sizeof(T) == 1) {
                results.words[j] = STRIDE == 1 ? __byte_perm(row[j], row[H + j], 0x7351)
                                               : __byte_perm(row[2 * j], row[2 * j + 1], 0x7531);
            } else {
                results.words[2 * j] =
                    STRIDE == 1 ? __byte_perm(row[j], row[H + j], 0x5410) : row[2 * j];
                results.words[2 * j + 1] =
                    STRIDE == 1 ? __byte_perm(row[j], row[H + j], 0x7632) : row[2 * j + 1];
            }
        }
#pragma unroll
        for (int w = 0; w < results.COUNT; ++w) results.words[w] ^= masks.flip;
        return results;
    }

private:
    using Halves = either<sizeof(T) == 1, uint16, T>;
};

template <>
struct Lanes<Extreme<float>> {
    using Element = float;
    using Value = float;
    using Context = WordMasks<float>;
    static constexpr int LANES = 1;
    static constexpr bool has_count = false;

    static __device__ __forceinline__ Value join(Value a, Value b) { return maximum_float(a, b); }
    static __device__ __forceinline__ Value all(uint32 bits, const Context& masks) {
        return __uint_as_float(masks.key(bits));
    }
    template <int N, int H>
    static __device__ __forceinline__ void split(Value (&even)[H], Value (&odd)[H],
                                                 const Words<float, N>& raw,
                                                 const Context& masks) {
#pragma unroll
        for (int j = 0; j < H; ++j) {
            even[j] = __uint_as_float(masks.key(raw.words[2 * j]));
            odd[j] = __uint_as_float(masks.key(raw.words[2 * j + 1]));
        }
    }
    template <int STRIDE, int W, typename CountOf>
    static __device__ __forceinline__ Words<float, W> close(const Value (&row)[W],
                                                            const Context& masks, CountOf) {
        Words<float, W> results;
#pragma unroll
        for (int w = 0; w < W; ++w)
            results.words[w] =
                __float_as_uint(row[STRIDE == 1 ? w % 2 * (W / 2) + w / 2 : w]) ^ masks.flip;
        return results;
    }
};

// Sums of bytes are summed two at a time, in 16 bits each; all others as floats, which hold sums of
// whole numbers exactly.
template <typename T, typename Sum>
struct Lanes<Mean<T, Sum>> {
    static constexpr bool PAIRED = sizeof(T) == 1;
    using Element = T;
    using Value = either<PAIRED, uint32, float>;
    struct Context {
        __device__ __forceinline__ explicit Context(const Operation&) {}
    };
    static constexpr int LANES = PAIRED ? 2 : 1;
    static constexpr bool has_count = true;

    static __device__ __forceinline__ Value join(Value a, Value b) { return a + b; }
    static __device__ __forceinline__ Value all(uint32 bits, const Context&) {
        if constexpr (PAIRED) {
            return bits * 0x00010001u;
        } else {
            return widen_word<float>(Words<T, 4 / sizeof(T)>{{bits}}, 0);
        }
    }
    template <int N, int H>
    static __device__ __forceinline__ void split(Value (&even)[H], Value (&odd)[H],
                                                 const Words<T, N>& raw, const Context&) {
#pragma unroll
        for (int j = 0; j < H; ++j) {
            if constexpr (PAIRED) {
                even[j] = __byte_perm(raw.words[j], 0, 0x4240);
                odd[j] = __byte_perm(raw.words[j], 0, 0x4341);
            } else {
                even[j] = widen_word<float>(raw, 2 * j);
                odd[j] = widen_word<float>(raw, 2 * j + 1);
            }
        }
    }
    template <int STRIDE, int W, typename CountOf>
    static __device__ __forceinline__ Words<T, LANES * W> close(const Value (&row)[W],
                                                                const Context&,
                                                                CountOf count_of) {
        constexpr int WINDOWS = LANES * W;
        float means[WINDOWS];
#pragma unroll
        for (int w = 0; w < WINDOWS; ++w) {
            const int k = STRIDE == 1 ? w / 2 : w;
            const Value value = row[(STRIDE == 1 ? w % 2 * (W / 2) : 0) + k / LANES];
            float sum;
            if constexpr (PAIRED) {  // beneath the bits of 2^23
                sum = __uint_as_float(__byte_perm(value, 0x4b000000u, k % 2 ? 0x7632 : 0x7610)) -
                      8388608.0f;
            } else {
                sum = value;
            }
            means[w] = count_of(w).template divide<Scalar<T>::integer>(sum);
        }
        return round_words<T>(means);
    }
};

// Channels last: a column is N channels, whose values are those of Lanes, even ones first.
template <typename L, int N>
struct Columns {
    using Element = typename L::Element;
    using Context = typename L::Context;
    static constexpr int LANES = 1, H = N / (2 * L::LANES);
    static constexpr bool has_count = L::has_count;
    struct Value {
        typename L::Value values[2 * H];
    };

    static __device__ __forceinline__ Value join(const Value& a, const Value& b) {
        Value result;
#pragma unroll
        for (int i = 0; i < 2 * H; ++i) result.values[i] = L::join(a.values[i], b.values[i]);
        return result;
    }
    static __device__ __forceinline__ Value open(const Words<Element, N>& raw,
                                                 const Context& context) {
        typename L::Value even[H], odd[H];
        L::split(even, odd, raw, context);
        Value result;
#pragma unroll
        for (int i = 0; i < H; ++i) {
            result.values[i] = even[i];
            result.values[H + i] = odd[i];
        }
        return result;
    }
};

// What lies before `b`, and behind `a`, where `a` and `b` are neighbouring values of one parity.
template <int LANES, typename Value>
__device__ __forceinline__ Value one_before(const Value& a, const Value& b) {
    if constexpr (LANES == 2) {
        return __byte_perm(a, b, 0x5432);
    } else {
        return a;
    }
}
template <int LANES, typename Value>
__device__ __forceinline__ Value one_behind(const Value& a, const Value& b) {
    if constexpr (LANES == 2) {
        return __byte_perm(a, b, 0x5432);
    } else {
        return b;
    }
}

// Windows of SIZE, STRIDE apart, the first of which begins PAD before the first even neighbour.
// `before` is the odd one before it, `behind` the even one after the last. Elements are joined in
// their order: sums of floats are those of any other kernel.
template <typename L, int SIZE, int STRIDE, int PAD, int H, int W, typename Value>
__device__ __forceinline__ void reduce_row(Value (&row)[W], const Value (&even)[H],
                                           const Value (&odd)[H], const Value& before,
                                           const Value& behind) {
    static_assert(W == (STRIDE == 1 ? 2 * H : H), "a window for each neighbour, or two");
    constexpr int LANES = L::LANES;
#pragma unroll
    for (int j = 0; j < H; ++j) {
        Value begin = even[j];
        if constexpr (PAD == 1)
            begin = L::join(one_before<LANES>(j ? odd[j ? j - 1 : 0] : before, odd[j]), begin);
        row[j] = L::join(begin, odd[j]);
        if constexpr (SIZE == 3 && (PAD == 0 || STRIDE == 1)) {
            const Value next =
                one_behind<LANES>(even[j], j + 1 < H ? even[j + 1 < H ? j + 1 : 0] : behind);
            if constexpr (STRIDE == 1) {
                row[H + j] = L::join(L::join(even[j], odd[j]), next);
            } else {
                row[j] = L::join(row[j], next);
            }
        }
    }
}
