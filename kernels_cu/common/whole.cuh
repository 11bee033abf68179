// Whole numbers: exact sums of any width, rounded once, half to even.
//
//   int128, uint128           for sums that outgrow 64 bits (NVRTC: --device-int128)
//   drop_bits(v, n)           v / 2^n
//   divide(v, count)          v / count, of either sign
//   round_root(n)             the square root of n
//   narrow_whole<T>(v)        the nearest number that T holds
#pragma once
#include "scalar.cuh"

using int128 = __int128;
using uint128 = unsigned __int128;

template <typename I>
__device__ __forceinline__ I drop_bits(I value, int bits) {
    if (bits == 0) return value;
    const I floor = value >> bits, rest = value - (floor << bits), half = I(1) << (bits - 1);
    return floor + I(rest > half || (rest == half && (floor & 1)));
}

template <typename I>
__device__ __forceinline__ I divide(I value, I count) {
    if (count < 0) {
        value = -value;
        count = -count;
    }
    I quotient = value / count;
    I rest = value - quotient * count;
    if (rest < 0) {
        rest += count;
        --quotient;
    }
    return quotient + I(rest > count - rest || (rest == count - rest && (quotient & 1)));
}

// No whole number's root lies halfway between two others, so that rounding it has no ties.
__device__ __forceinline__ uint64 round_root(uint128 square) {
    const bool small = square < (uint128(1) << 52);
    uint128 root = uint128(small ? sqrt(double(uint64(square)))
                                 : sqrt(double(uint64(square >> 64)) * 18446744073709551616.0 +
                                        double(uint64(square))));
    // Newton's steps from a double are exact to 53 bits: one more, then the last unit.
    if (!small && root) root = (root + square / root) >> 1;
    const uint128 most = ~uint64(0);
    if (root > most) root = most;
    while (root * root > square) --root;
    while (root < most && (root + 1) * (root + 1) <= square) ++root;
    // Above the middle of root and root + 1, whose square is root^2 + root + 1/4.
    return root < most && square - root * root > root ? uint64(root + 1) : uint64(root);
}

template <typename T, typename I>
__device__ __forceinline__ T narrow_whole(I value) {
    if constexpr (!Scalar<T>::integer) {
        return narrow<T>(double(value));
    } else if constexpr (sizeof(I) == 16) {
        const int128 low = Scalar<T>::lowest(), high = Scalar<T>::highest();
        return T(value < low ? low : value > high ? high : value);
    } else {
        return narrow<T>(value);
    }
}
