// Shuffles, votes and reductions: every lane of the mask takes part, the last to arrive computes.
#pragma once

namespace emulator {

template <typename T>
struct Shuffle {
    T value;
    int source;
};

template <typename T>
EMULATOR_UNWATCHED uint32_t shuffle_lanes(Exchange& lanes, uint32_t mask) {
    uint32_t absent = 0;
    for (int lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        const int source = lanes.given<Shuffle<T>>(lane).source;
        if (mask >> source & 1) {
            lanes.answer(lane, lanes.given<Shuffle<T>>(source).value);
        } else {  // undefined in CUDA
            __builtin_memset(lanes.out[lane], lanes.poison, sizeof(T));
            absent |= 1u << lane;
        }
    }
    return absent;
}

template <typename T>
EMULATOR_INLINE T shuffle(const char* name, unsigned mask, T value, int source, Site site) {
    static_assert(std::is_trivially_copyable<T>::value, "lanes exchange bytes");
    Shuffle<T> in = {value, source};
    T out;
    warp_collective(name, mask, &shuffle_lanes<T>, &in, sizeof in, &out, sizeof out, site);
    return out;
}

EMULATOR_UNWATCHED inline uint32_t ballot_lanes(Exchange& lanes, uint32_t mask) {
    uint32_t votes = 0;
    for (int lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1) votes |= uint32_t(lanes.given<int>(lane) != 0) << lane;
    for (int lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1) lanes.answer(lane, votes);
    return 0;
}

EMULATOR_INLINE unsigned ballot(const char* name, unsigned mask, int predicate, Site site) {
    unsigned votes;
    warp_collective(name, mask, &ballot_lanes, &predicate, sizeof predicate, &votes, sizeof votes,
                    site);
    return votes;
}

// Lanes with the same value, as a mask: __match_any_sync.
template <typename T>
EMULATOR_UNWATCHED uint32_t match_lanes(Exchange& lanes, uint32_t mask) {
    for (int lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        uint32_t same = 0;
        for (int other = 0; other < WARP; other++)
            if (mask >> other & 1)
                same |= uint32_t(lanes.given<T>(other) == lanes.given<T>(lane)) << other;
        lanes.answer(lane, same);
    }
    return 0;
}

enum class Reduction { Add, Min, Max, And, Or, Xor };

template <Reduction R, typename T>
T reduced(T a, T b) {
    switch (R) {
        case Reduction::Add:
            return a + b;
        case Reduction::Min:
            return b < a ? b : a;
        case Reduction::Max:
            return a < b ? b : a;
        case Reduction::And:
            return a & b;
        case Reduction::Or:
            return a | b;
        case Reduction::Xor:
            return a ^ b;
    }
}

template <Reduction R, typename T>
EMULATOR_UNWATCHED uint32_t reduce_lanes(Exchange& lanes, uint32_t mask) {
    const int first = __builtin_ctz(mask);
    T total = lanes.given<T>(first);
    for (int lane = first + 1; lane < WARP; lane++)
        if (mask >> lane & 1) total = reduced<R>(total, lanes.given<T>(lane));
    for (int lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1) lanes.answer(lane, total);
    return 0;
}

template <Reduction R, typename T>
EMULATOR_INLINE T reduce(const char* name, unsigned mask, T value, Site site) {
    static_assert(std::is_integral<T>::value && sizeof(T) == 4, "32-bit integers only, as in CUDA");
    T total;
    warp_collective(name, mask, &reduce_lanes<R, T>, &value, sizeof value, &total, sizeof total,
                    site);
    return total;
}

}  // namespace emulator

// A width below 32 splits the warp into groups; nobody reads across a group's end.
template <typename T>
EMULATOR_INLINE T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                              emulator::Site site = emulator::here()) {
    const int group = emulator::lane_index() & -width;
    return emulator::shuffle("__shfl_sync", mask, value, group + (source & (width - 1)), site);
}
template <typename T>
EMULATOR_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                 emulator::Site site = emulator::here()) {
    const int lane = emulator::lane_index(), source = lane - int(delta);
    return emulator::shuffle("__shfl_up_sync", mask, value,
                             source < (lane & -width) ? lane : source, site);
}
template <typename T>
EMULATOR_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                   emulator::Site site = emulator::here()) {
    const int lane = emulator::lane_index(), source = lane + int(delta);
    return emulator::shuffle("__shfl_down_sync", mask, value,
                             source >= (lane & -width) + width ? lane : source, site);
}
template <typename T>
EMULATOR_INLINE T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                                  emulator::Site site = emulator::here()) {
    const int lane = emulator::lane_index(), source = lane ^ bits;
    return emulator::shuffle("__shfl_xor_sync", mask, value,
                             source >= (lane & -width) + width ? lane : source, site);
}

EMULATOR_INLINE unsigned __ballot_sync(unsigned mask, int predicate,
                                       emulator::Site site = emulator::here()) {
    return emulator::ballot("__ballot_sync", mask, predicate, site);
}
EMULATOR_INLINE int __any_sync(unsigned mask, int predicate,
                               emulator::Site site = emulator::here()) {
    return emulator::ballot("__any_sync", mask, predicate, site) != 0;
}
EMULATOR_INLINE int __all_sync(unsigned mask, int predicate,
                               emulator::Site site = emulator::here()) {
    return emulator::ballot("__all_sync", mask, !predicate, site) == 0;
}
EMULATOR_INLINE unsigned __activemask() { return emulator::active_lanes(); }

template <typename T>
EMULATOR_INLINE unsigned __match_any_sync(unsigned mask, T value,
                                          emulator::Site site = emulator::here()) {
    unsigned same;
    emulator::warp_collective("__match_any_sync", mask, &emulator::match_lanes<T>, &value,
                              sizeof value, &same, sizeof same, site);
    return same;
}

#define EMULATOR_REDUCE(NAME, REDUCTION)                                                     \
    template <typename T>                                                                    \
    EMULATOR_INLINE T NAME(unsigned mask, T value, emulator::Site site = emulator::here()) { \
        return emulator::reduce<emulator::Reduction::REDUCTION>(#NAME, mask, value, site);   \
    }
EMULATOR_REDUCE(__reduce_add_sync, Add)
EMULATOR_REDUCE(__reduce_min_sync, Min)
EMULATOR_REDUCE(__reduce_max_sync, Max)
EMULATOR_REDUCE(__reduce_and_sync, And)
EMULATOR_REDUCE(__reduce_or_sync, Or)
EMULATOR_REDUCE(__reduce_xor_sync, Xor)
#undef EMULATOR_REDUCE
