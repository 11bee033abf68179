// Atomics: one thread runs at a time, so a plain read-modify-write is one. They order nothing
// else, as CUDA's relaxed atomics; against a plain access of the same place they race.
#pragma once

namespace emulator {

template <typename T>
struct Same {
    using type = T;
};

template <typename T, typename F>
EMULATOR_UNWATCHED T modify_unwatched(T* place, const F& change) {
    const T old = *place;
    *place = change(old);
    return old;
}

template <typename T, typename F>
EMULATOR_INLINE T modify(T* place, const F& change) {
#ifdef EMULATOR_CHECKED
    watch(place, sizeof(T), Access::Atomic);
#endif
    return modify_unwatched(place, change);
}

}  // namespace emulator

// The change is computed unwatched: its captures lie on the calling thread's stack.
#define EMULATOR_ATOMIC(NAME, RESULT)                                                        \
    template <typename T>                                                                    \
    EMULATOR_INLINE T NAME(T* place, typename emulator::Same<T>::type value) {               \
        return emulator::modify(                                                             \
            place, [=](T old) __attribute__((no_sanitize("thread"))) { return T(RESULT); }); \
    }
EMULATOR_ATOMIC(atomicAdd, old + value)
EMULATOR_ATOMIC(atomicSub, old - value)
EMULATOR_ATOMIC(atomicMin, value < old ? value : old)
EMULATOR_ATOMIC(atomicMax, old < value ? value : old)
EMULATOR_ATOMIC(atomicAnd, old& value)
EMULATOR_ATOMIC(atomicOr, old | value)
EMULATOR_ATOMIC(atomicXor, old ^ value)
EMULATOR_ATOMIC(atomicExch, value)
EMULATOR_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
#undef EMULATOR_ATOMIC

template <typename T>
EMULATOR_INLINE T atomicCAS(T* place, typename emulator::Same<T>::type expected,
                            typename emulator::Same<T>::type value) {
    return emulator::modify(place, [=](T old) __attribute__((no_sanitize("thread"))) {
        return old == expected ? value : old;
    });
}
