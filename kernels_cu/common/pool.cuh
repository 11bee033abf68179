// Pools: where the windows of a feature map lie, and what is done to the elements of one.
//
//   PoolAxis            the windows along one spatial axis: sliding ones, or cells that share it
//   Extreme<T>          the largest element; NaN wins
//   Choice<T, Index>    the same, and where it stands: of equals the first, of several NaN the last
//   Mean<T, Sum>        the sum over a count; integers exactly, rounded half to even
//   Norm<T>             (Σ|x|^p)^(1/p), in double
//
// An operation has a State that starts empty, takes elements in the order of their positions
// (`add`), meets other states in any order (`join`) and becomes a result (`store`). Minima are
// maxima of keys whose order is turned round: -x of floats, ~x of integers.
#pragma once
#include "map.cuh"

// Division by a number known to the host; without a division instruction for n below 2^31
// (Granlund and Montgomery, PLDI 1994). Twin of DIVIDER in gpuconv/backends/cuda/adaptive.py.
struct Divider {
    uint32 divisor, magic;
    int shift;

    // n = answer * divisor + rest
    __device__ __forceinline__ int64 split(int64 n, int& rest) const {
        const int64 quotient = n >> 31 == 0 ? int64(uint64(n) * magic >> shift) : n / divisor;
        rest = int(n - quotient * divisor);
        return quotient;
    }
};

// Strides or offsets in the three arrays of a pool, in elements.
struct Places {
    int64 input, output, index;

    __device__ __forceinline__ void move(const Places& step, int64 count) {
        input += step.input * count;
        output += step.output * count;
        index += step.index * count;
    }
};

// The elements first, first + dilation, ... of a window that lie inside the input.
struct Taps {
    int first, count;
};

// Twin of POOL_AXIS in gpuconv/backends/cuda/adaptive.py.
struct PoolAxis {
    Places step;
    int64 weight;  // of a position in the flat index of an element
    int length;
    Divider outputs;
    int size, stride, dilation, pad;  // size 0: output i has the cell of its share (PyTorch's rule)
    int low, high;                    // what an average counts; not what lies beyond

    __device__ __forceinline__ int count() const { return int(outputs.divisor); }
    __device__ __forceinline__ Taps taps(int output) const {
        if (size == 0) {
            const uint64 begin = uint64(output) * length, end = begin + length + count() - 1;
            const int first = int(quotient(begin)), stop = int(quotient(end));
            return {first, stop - first};
        }
        const int first = output * stride - pad;
        if (first >= 0 && first + (size - 1) * dilation < length) return {first, size};
        const int skipped = taps_before(first, 0);
        return {first + skipped * dilation, taps_before(first, length) - skipped};
    }
    __device__ __forceinline__ int counted(int output) const {
        if (size == 0) return taps(output).count;
        const int first = output * stride - pad;
        if (first >= low && first + (size - 1) * dilation < high) return size;
        return taps_before(first, high) - taps_before(first, low);
    }
    __device__ __forceinline__ bool holds(int position) const {
        return unsigned(position) < unsigned(length);
    }

private:
    __device__ __forceinline__ uint64 quotient(uint64 n) const {
        return n >> 32 ? n / outputs.divisor : uint32(n) / outputs.divisor;
    }
    __device__ __forceinline__ int taps_before(int first, int edge) const {
        return edge <= first ? 0 : min(size, (edge - first - 1) / dilation + 1);
    }
};

// Twin of OPERATION in gpuconv/backends/cuda/adaptive.py.
struct Operation {
    uint64 keep, flip;             // an element's bits become those of its key: (x & keep) ^ flip
    int64 divisor_high;            // of what replaces the count of an average, 0 if nothing does
    uint64 divisor_low;
    double real_divisor;
    double power;                  // of a norm
    int wide_indices;              // int64, not int32
    int block;                     // sums of more terms than this are made of sums of so many

    __device__ __forceinline__ int128 divisor() const {
        return int128(divisor_high) << 64 | int128(divisor_low);
    }
};

template <int BYTES>
struct BitsOf;
#define BITS_OF(T)                \
    template <>                   \
    struct BitsOf<sizeof(T)> {    \
        using type = T;           \
    };
BITS_OF(uint8) BITS_OF(uint16) BITS_OF(uint32) BITS_OF(uint64)
#undef BITS_OF

template <typename T>
__device__ __forceinline__ T masked(T value, uint64 keep, uint64 flip) {
    using Bits = typename BitsOf<sizeof(T)>::type;
    Bits bits;
    memcpy(&bits, &value, sizeof(T));
    bits = Bits((bits & Bits(keep)) ^ Bits(flip));
    memcpy(&value, &bits, sizeof(T));
    return value;
}

template <typename T>
struct Extreme {
    using Element = T;
    struct State {
        T best;
    };
    static constexpr bool has_index = false, has_count = false;

    static __device__ __forceinline__ State start() { return {lowest<T>()}; }
    static __device__ __forceinline__ void add(State& state, T value, int64,
                                               const Operation& operation) {
        state.best = maximum(state.best, masked(value, operation.keep, operation.flip));
    }
    static __device__ __forceinline__ void join(State& state, const State& other) {
        state.best = maximum(state.best, other.best);
    }
    static __device__ __forceinline__ void store(const State& state, const Operation& operation,
                                                 int64, T* output, void*, const Places& place) {
        output[place.output] = masked(state.best, ~uint64(0), operation.flip);
    }
};

template <typename T, typename Index>
struct Choice {
    using Element = T;
    struct State {
        T best;
        Index at;  // -1: nothing yet
    };
    static constexpr bool has_index = true, has_count = false;

    static __device__ __forceinline__ State start() { return {lowest<T>(), Index(-1)}; }
    static __device__ __forceinline__ void add(State& state, T value, int64 at,
                                               const Operation& operation) {
        follow(state, {masked(value, operation.keep, operation.flip), Index(at)});
    }
    // What stands behind all that the state has seen.
    static __device__ __forceinline__ void follow(State& state, const State& next) {
        const auto mine = widen(state.best), other = widen(next.best);
        if (state.at < 0 || other > mine || other != other) state = next;
    }
    static __device__ __forceinline__ void join(State& state, const State& other) {
        if (other.at < 0) return;
        const auto mine = widen(state.best), theirs = widen(other.best);
        const bool earlier = other.at < state.at;
        const bool better = theirs != theirs ? mine == mine || !earlier
                                             : theirs > mine || (theirs == mine && earlier);
        if (state.at < 0 || better) state = other;
    }
    static __device__ __forceinline__ void store(const State& state, const Operation& operation,
                                                 int64, T* output, void* indices,
                                                 const Places& place) {
        output[place.output] = masked(state.best, ~uint64(0), operation.flip);
        if (operation.wide_indices)
            static_cast<int64*>(indices)[place.index] = state.at;
        else
            static_cast<int32*>(indices)[place.index] = int32(state.at);
    }
};

template <typename T, typename Sum>
struct Mean {
    using Element = T;
    struct State {
        Sum sum;
    };
    static constexpr bool has_index = false, has_count = true;

    static __device__ __forceinline__ State start() { return {Sum(0)}; }
    static __device__ __forceinline__ void add(State& state, T value, int64, const Operation&) {
        state.sum += Sum(widen(value));
    }
    static __device__ __forceinline__ void join(State& state, const State& other) {
        state.sum += other.sum;
    }
    static __device__ __forceinline__ void store(const State& state, const Operation& operation,
                                                 int64 count, T* output, void*,
                                                 const Places& place) {
        if constexpr (Scalar<T>::integer) {
            const int128 divisor = operation.divisor();
            output[place.output] = divide_sum(state.sum, divisor != 0 ? divisor : int128(count));
        } else {
            const Sum divisor =
                operation.real_divisor != 0 ? Sum(operation.real_divisor) : Sum(count);
            output[place.output] = narrow<T>(state.sum / divisor);
        }
    }

private:
    // In the narrowest numbers that hold both: a wide division is many instructions.
    static __device__ __forceinline__ T divide_sum(Sum sum, int128 divisor) {
        if (fits<int>(sum) && fits<int>(divisor))
            return narrow<T>(divide(int(sum), int(divisor)));
        if constexpr (sizeof(Sum) > 4) {
            if (fits<int64>(sum) && fits<int64>(divisor))
                return narrow<T>(divide(int64(sum), int64(divisor)));
            if constexpr (sizeof(Sum) > 8) return narrow_whole<T>(divide(sum, divisor));
        }
        return T(0);  // sums of this type are far below half of such a divisor
    }
    template <typename I, typename From>
    static __device__ __forceinline__ bool fits(From value) {
        return value > From(Scalar<I>::lowest()) && value <= From(Scalar<I>::highest());
    }
};

template <typename T>
struct Norm {
    using Element = T;
    struct State {
        double sum;
    };
    static constexpr bool has_index = false, has_count = false;

    static __device__ __forceinline__ State start() { return {0.0}; }
    static __device__ __forceinline__ void add(State& state, T value, int64,
                                               const Operation& operation) {
        const double x = double(widen(value));
        state.sum += operation.power == 2.0 ? x * x : pow(fabs(x), operation.power);
    }
    static __device__ __forceinline__ void join(State& state, const State& other) {
        state.sum += other.sum;
    }
    static __device__ __forceinline__ void store(const State& state, const Operation& operation,
                                                 int64, T* output, void*, const Places& place) {
        output[place.output] = narrow<T>(operation.power == 2.0
                                             ? sqrt(state.sum)
                                             : pow(state.sum, 1.0 / operation.power));
    }
};
