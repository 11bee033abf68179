// Elements: what a type can hold, how it is widened to be computed with and narrowed to be stored.
//
//   Wide<T>          the type that T is computed in: int, int64, uint64, float or double
//   widen(x)         exact
//   narrow<T>(x)     integers: half to even, saturating, NaN becomes 0; floats: to nearest even
//   lowest<T>(), highest<T>()    the neutral elements of max and min: infinities where there are
//   maximum(a, b), minimum(a, b) NaN wins
//   Pack<T, N>       N neighbours, loaded and stored as one (sizeof(T) * N bytes, aligned to that)
#pragma once
#include "prelude.cuh"

template <typename T>
struct Scalar;

#define INTEGER_SCALAR(T, WIDE, LOWEST, HIGHEST)                                    \
    template <>                                                                     \
    struct Scalar<T> {                                                              \
        using Wide = WIDE;                                                          \
        static constexpr bool integer = true;                                       \
        static __device__ __forceinline__ constexpr T lowest() { return LOWEST; }   \
        static __device__ __forceinline__ constexpr T highest() { return HIGHEST; } \
    };
INTEGER_SCALAR(uint8, int, 0, 255)
INTEGER_SCALAR(int8, int, -128, 127)
INTEGER_SCALAR(uint16, int, 0, 65535)
INTEGER_SCALAR(int16, int, -32768, 32767)
INTEGER_SCALAR(uint32, int64, 0, 0xffffffffu)
INTEGER_SCALAR(int32, int64, -0x7fffffff - 1, 0x7fffffff)
INTEGER_SCALAR(uint64, uint64, 0, 0xffffffffffffffffull)
INTEGER_SCALAR(int64, int64, -0x7fffffffffffffffll - 1, 0x7fffffffffffffffll)
#undef INTEGER_SCALAR

#define FLOAT_SCALAR(T, WIDE, INFINITE)                                    \
    template <>                                                            \
    struct Scalar<T> {                                                     \
        using Wide = WIDE;                                                 \
        static constexpr bool integer = false;                             \
        static __device__ __forceinline__ T lowest() { return -INFINITE; } \
        static __device__ __forceinline__ T highest() { return INFINITE; } \
    };
FLOAT_SCALAR(float16, float, __ushort_as_half(0x7c00))
FLOAT_SCALAR(bfloat16, float, __ushort_as_bfloat16(0x7f80))
FLOAT_SCALAR(float, float, __int_as_float(0x7f800000))
FLOAT_SCALAR(double, double, __longlong_as_double(0x7ff0000000000000ll))
#undef FLOAT_SCALAR

template <typename T>
using Wide = typename Scalar<T>::Wide;

template <typename T>
__device__ __forceinline__ T lowest() {
    return Scalar<T>::lowest();
}
template <typename T>
__device__ __forceinline__ T highest() {
    return Scalar<T>::highest();
}

template <typename T>
__device__ __forceinline__ Wide<T> widen(T value) {
    return Wide<T>(value);
}
__device__ __forceinline__ float widen(float16 value) { return __half2float(value); }
__device__ __forceinline__ float widen(bfloat16 value) { return __bfloat162float(value); }

// A whole number in T's range, the nearest end outside it.
template <typename T>
__device__ __forceinline__ T saturate(int64 value) {
    static_assert(sizeof(T) < 8 || T(-1) < 0, "an int64 is below every uint64 range's end");
    const int64 low = Scalar<T>::lowest(), high = Scalar<T>::highest();
    return T(value < low ? low : value > high ? high : value);
}
template <typename T>
__device__ __forceinline__ T saturate(int value) {
    if constexpr (sizeof(T) >= 4) {
        return T(-1) < T(0) || value > 0 ? T(value) : T(0);
    } else {
        return T(min(max(value, int(Scalar<T>::lowest())), int(Scalar<T>::highest())));
    }
}

// T from what was computed; one struct a kind of T, so that each says all its sources at once.
template <typename T, bool integer = Scalar<T>::integer>
struct Narrow {
    static __device__ __forceinline__ T from(int value) { return saturate<T>(value); }
    static __device__ __forceinline__ T from(int64 value) {
        if constexpr (sizeof(T) == 8 && T(-1) > T(0)) {
            return value < 0 ? T(0) : T(value);
        } else {
            return saturate<T>(value);
        }
    }
    static __device__ __forceinline__ T from(uint64 value) {
        return value > uint64(Scalar<T>::highest()) ? Scalar<T>::highest() : T(value);
    }
    static __device__ __forceinline__ T from(float value) {
        if (value != value) return T(0);
        if constexpr (sizeof(T) < 4) {
            return saturate<T>(__float2int_rn(value));
        } else if constexpr (sizeof(T) == 4) {
            return T(-1) < T(0) ? T(__float2int_rn(value)) : T(__float2uint_rn(value));
        } else {
            return T(-1) < T(0) ? T(__float2ll_rn(value)) : T(__float2ull_rn(value));
        }
    }
    static __device__ __forceinline__ T from(double value) {
        if (value != value) return T(0);
        if constexpr (sizeof(T) < 4) {
            return saturate<T>(__double2int_rn(value));
        } else if constexpr (sizeof(T) == 4) {
            return T(-1) < T(0) ? T(__double2int_rn(value)) : T(__double2uint_rn(value));
        } else {
            return T(-1) < T(0) ? T(__double2ll_rn(value)) : T(__double2ull_rn(value));
        }
    }
};
template <typename T>
struct Narrow<T, false> {  // float and double: the compiler's own conversions round to nearest even
    template <typename From>
    static __device__ __forceinline__ T from(From value) {
        return T(value);
    }
};
#define NARROW_TO_16_BITS(T, FROM_FLOAT, FROM_DOUBLE)                                         \
    template <>                                                                               \
    struct Narrow<T, false> { /* integers by way of float, as NumPy has it */                 \
        static __device__ __forceinline__ T from(float value) { return FROM_FLOAT(value); }   \
        static __device__ __forceinline__ T from(double value) { return FROM_DOUBLE(value); } \
        static __device__ __forceinline__ T from(int value) { return from(float(value)); }    \
        static __device__ __forceinline__ T from(int64 value) { return from(float(value)); }  \
        static __device__ __forceinline__ T from(uint64 value) { return from(float(value)); } \
    };
NARROW_TO_16_BITS(float16, __float2half_rn, __double2half)
NARROW_TO_16_BITS(bfloat16, __float2bfloat16_rn, __double2bfloat16)
#undef NARROW_TO_16_BITS

template <typename T, typename From>
__device__ __forceinline__ T narrow(From value) {
    return Narrow<T>::from(value);
}

template <typename T>
__device__ __forceinline__ T maximum(T a, T b) {
    const auto x = widen(a), y = widen(b);
    return x > y || x != x ? a : b;
}
template <typename T>
__device__ __forceinline__ T minimum(T a, T b) {
    const auto x = widen(a), y = widen(b);
    return x < y || x != x ? a : b;
}

template <typename T, int N>
struct __align__(sizeof(T) * N) Pack {
    static_assert(sizeof(T) * N <= 16, "one access moves at most 16 bytes");
    T values[N];
};
template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* place) {
    return *reinterpret_cast<const Pack<T, N>*>(place);
}
template <typename T, int N>
__device__ __forceinline__ void store_pack(T* place, const Pack<T, N>& pack) {
    *reinterpret_cast<Pack<T, N>*>(place) = pack;
}
