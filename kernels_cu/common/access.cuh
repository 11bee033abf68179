// Elements in memory, of a type known when the kernel is compiled or only when it is launched.
//
//   Any                       stands for the second; a Kind then tells the type
//   Memory<Stored>            what a pointer to it points to: Stored, or void for Any
//   fetch<T>(base, i, kind)   element i as T: exact, or rounded once and saturated
//   put(base, i, kind, x)     x as element i, rounded once and saturated
//
// Most calls have one type all through. Those that convert on the way (`out_dtype`, a tensor of
// other floats) would ask for a kernel a pair of types: they share one, whose Kind is uniform.
#pragma once
#include "whole.cuh"

struct Any;

// Twin of KINDS in gpuconv/backends/cuda/launch.py.
enum class Kind : int {
    Uint8, Int8, Uint16, Int16, Uint32, Int32, Uint64, Int64, Float16, Bfloat16, Float32, Float64
};

template <typename Stored>
struct MemoryOf {
    using type = Stored;
};
template <>
struct MemoryOf<Any> {
    using type = void;
};
template <typename Stored>
using Memory = typename MemoryOf<Stored>::type;

template <typename T, typename U>
struct SameType {
    static constexpr bool value = false;
};
template <typename T>
struct SameType<T, T> {
    static constexpr bool value = true;
};
template <typename T, typename U>
constexpr bool same_type = SameType<T, U>::value;

// A where CHOICE is true, else B.
template <bool CHOICE, typename A, typename B>
struct Either {
    using type = A;
};
template <typename A, typename B>
struct Either<false, A, B> {
    using type = B;
};
template <bool CHOICE, typename A, typename B>
using either = typename Either<CHOICE, A, B>::type;

// One number as another type: unchanged, or rounded once and saturated.
template <typename T, typename From>
__device__ __forceinline__ T convert(From value) {
    if constexpr (same_type<T, From>) {
        return value;
    } else if constexpr (sizeof(From) == 16) {
        return narrow_whole<T>(value);
    } else if constexpr (same_type<From, int> || same_type<From, int64> ||
                         same_type<From, uint64> || same_type<From, float> ||
                         same_type<From, double>) {
        return narrow<T>(value);
    } else {
        return narrow<T>(widen(value));
    }
}

#define EACH_KIND(DO)                                                                          \
    DO(Uint8, uint8) DO(Int8, int8) DO(Uint16, uint16) DO(Int16, int16) DO(Uint32, uint32)     \
    DO(Int32, int32) DO(Uint64, uint64) DO(Int64, int64) DO(Float16, float16)                  \
    DO(Bfloat16, bfloat16) DO(Float32, float) DO(Float64, double)

template <typename T, typename Stored>
__device__ __forceinline__ T fetch(const Stored* base, int64 index, Kind) {
    return convert<T>(base[index]);
}
template <typename T>
__device__ __forceinline__ T fetch(const void* base, int64 index, Kind kind) {
    switch (kind) {
#define CASE(NAME, TYPE) \
    case Kind::NAME:     \
        return convert<T>(static_cast<const TYPE*>(base)[index]);
        EACH_KIND(CASE)
#undef CASE
    }
    return T();
}

template <typename Stored, typename From>
__device__ __forceinline__ void put(Stored* base, int64 index, Kind, From value) {
    base[index] = convert<Stored>(value);
}
template <typename From>
__device__ __forceinline__ void put(void* base, int64 index, Kind kind, From value) {
    switch (kind) {
#define CASE(NAME, TYPE)                                          \
    case Kind::NAME:                                              \
        static_cast<TYPE*>(base)[index] = convert<TYPE>(value);   \
        break;
        EACH_KIND(CASE)
#undef CASE
    }
}

// A number given by the host for any type: integers by their bits, floats as a double.
struct Number {
    int64 whole;
    double real;

    template <typename T>
    __device__ __forceinline__ T as() const {
        if constexpr (Scalar<T>::integer) {
            return T(whole);
        } else {
            return narrow<T>(real);
        }
    }
};
