// What follows the sum of a convolution: the bias, the activation, the conversion to the result.
// Twin of `Ending` in gpuconv/backends/numpy/correlation.py.
#pragma once
#include "access.cuh"

// Twin of ACTIVATIONS in gpuconv/backends/cuda/conv.py.
enum class Activation : int { None, Relu, LeakyRelu, Sigmoid, Tanh, Silu, Gelu, Clamp };

// Twin of ENDING in gpuconv/backends/cuda/conv.py.
struct Ending {
    Number low, high;    // of a clamp; the relu of integers is one
    int64 bias_stride;
    Activation activation;
    Kind bias_kind, output_kind;
    int has_bias;
};

// Sums of integers are 32 or 64 bits wide, their bias and activation always 64.
template <typename Sum, bool integer = Scalar<Sum>::integer>
struct FinishedSum {
    using type = Sum;
};
template <typename Sum>
struct FinishedSum<Sum, true> {
    using type = int64;
};
template <typename Sum>
using Finished = typename FinishedSum<Sum>::type;

// Element `index` as a number of a sum: exact but for a bias of more bits, which is rounded once;
// 64-bit integers wrap.
template <typename Sum, typename Stored>
__device__ __forceinline__ Sum operand(const Stored* base, int64 index, Kind) {
    return Sum(widen(base[index]));
}
template <typename Sum>
__device__ __forceinline__ Sum operand(const void* base, int64 index, Kind kind) {
    switch (kind) {
#define CASE(NAME, TYPE)                                                  \
    case Kind::NAME:                                                      \
        if constexpr (Scalar<TYPE>::integer == Scalar<Sum>::integer &&    \
                      (sizeof(TYPE) == 1 || !same_type<Sum, int>))        \
            return Sum(widen(static_cast<const TYPE*>(base)[index]));     \
        break;
        EACH_KIND(CASE)
#undef CASE
    }
    return Sum(0);
}

template <typename F>
__device__ __forceinline__ F sigmoid(F x) {
    return F(1) / (F(1) + exp(-x));
}

// x Φ(x), by the complementary error function, which keeps small results exact.
template <typename F>
__device__ __forceinline__ F gelu(F x) {
    return F(0.5) * x * erfc(F(-0.70710678118654752440) * x);
}

template <typename F>
__device__ __forceinline__ F activate(F x, const Ending& ending) {
    switch (ending.activation) {
        case Activation::None:
            return x;
        case Activation::Relu:
            return maximum(x, F(0));
        case Activation::LeakyRelu:
            return x > F(0) ? x : F(0.01) * x;
        case Activation::Sigmoid:
            return sigmoid(x);
        case Activation::Tanh:
            return tanh(x);
        case Activation::Silu:
            return x * sigmoid(x);
        case Activation::Gelu:
            return gelu(x);
        case Activation::Clamp: {
            const F low = ending.low.as<F>(), high = ending.high.as<F>();
            return x < low ? low : x > high ? high : x;
        }
    }
    return x;
}

// The result for a sum of output channel `channel`, before its one conversion to the dtype.
template <typename Sum>
__device__ __forceinline__ Finished<Sum> finish(Sum sum, int channel, const void* bias,
                                                const Ending& ending) {
    if constexpr (Scalar<Sum>::integer) {
        int64 whole = sum;
        if (ending.has_bias) {
            const int64 more = operand<int64>(bias, channel * ending.bias_stride, ending.bias_kind);
            whole = int64(uint64(whole) + uint64(more));
        }
        if (ending.activation == Activation::Clamp)
            whole = min(max(whole, ending.low.whole), ending.high.whole);
        return whole;
    } else {
        if (ending.has_bias)
            sum += operand<Sum>(bias, channel * ending.bias_stride, ending.bias_kind);
        return activate(sum, ending);
    }
}
