// Dilation, erosion and their difference, as in gpuconv/backends/numpy/morphology.py.
//
//   morph_strip          boxes of any size over rows of whole packs: at the speed of memory
//   morph_pair           an opening or a closing with boxes, in the same way
//   morph_box            a tile of a plane in shared memory: extremes of columns, then of rows
//   morph_down, _across  boxes that no tile can hold: extremes of columns → patch of memory → rows
//   morph_footprint      any other shape, offset by offset
//
// All compare keys: unsigned numbers that order as the pixels do, turned over for an erosion, with
// every NaN above the rest. So one kernel serves all pixels of a size that are stored as they come.
// Kernels of BOTH keep the highest and the lowest key; those that convert (Any) are of that kind
// alone and pick what is wanted.
#include "common/keys.cuh"
#include "common/packed.cuh"
#include "common/sliding.cuh"
#include "common/window.cuh"

enum class Wanted : int { Highest, Lowest, Difference };

// Twin of WANT in gpuconv/backends/cuda/morphology.py.
struct Want {
    Keys keys;
    uint64 most;  // differences of integers saturate there
    Wanted wanted;
};

template <typename F, typename U>
__device__ __forceinline__ U float_difference(U high, U low) {
    const F result = narrow<F>(widen(pixel_of<F>(high)) - widen(pixel_of<F>(low)));
    U bits;
    memcpy(&bits, &result, sizeof(U));
    return bits;
}

template <typename U>
struct Highest {
    using Value = U;
    static __device__ __forceinline__ U of(U key) { return key; }
    static __device__ __forceinline__ U join(U a, U b) { return a > b ? a : b; }
    static __device__ __forceinline__ U result(U key, const Want& want) {
        return want.keys.bits(key);
    }
};

// Both extremes. The result of integers is their difference as an unsigned number.
template <typename U>
struct Range {
    struct __align__(sizeof(U) < 8 ? 2 * sizeof(U) : 16) Value {
        U high, low;
    };
    static __device__ __forceinline__ Value of(U key) { return {key, key}; }
    static __device__ __forceinline__ Value join(Value a, Value b) {
        return {a.high > b.high ? a.high : b.high, a.low < b.low ? a.low : b.low};
    }
    static __device__ __forceinline__ U result(Value both, const Want& want) {
        const Keys& keys = want.keys;
        // Where there is a NaN, it is the highest.
        const U high = keys.bits(both.high);
        const U low = keys.is_nan(both.high) ? high : keys.bits(both.low);
        if (want.wanted != Wanted::Difference) return want.wanted == Wanted::Highest ? high : low;
        if (!keys.infinity) return min(U(both.high - both.low), U(want.most));
        if constexpr (sizeof(U) == 2) {
            return keys.infinity == 0x7c00 ? float_difference<float16>(high, low)
                                           : float_difference<bfloat16>(high, low);
        } else if constexpr (sizeof(U) == 4) {
            return float_difference<float>(high, low);
        } else {
            return float_difference<double>(high, low);
        }
    }
};

template <bool BOTH, typename T>
using Extreme = either<BOTH, Range<Key<T>>, Highest<Key<T>>>;

// The number to be stored, from its bits: wide enough for a pixel of T and for a difference.
template <typename T, bool is_signed = Scalar<T>::integer && (T(-1) < T(0))>
struct Restore {
    static __device__ __forceinline__ T number(Key<T> bits, Wanted) { return pixel_of<T>(bits); }
};
template <typename T>
struct Restore<T, true> {
    using Number = typename WholeOf<sizeof(T)>::BothSigns;
    static __device__ __forceinline__ Number number(Key<T> bits, Wanted wanted) {
        return wanted == Wanted::Difference ? Number(bits) : Number(pixel_of<T>(bits));
    }
};

struct MorphParams {
    Field field;
    Window window;
    WindowTile tile;
    Want want;
};
struct LargeMorphParams {
    Field field;
    Window window;
    Patch patch;
    Want want;
};
struct FootprintParams {
    Field field;
    Window window;
    Want want;
    int offsets;  // elements of the footprint: (row, pixel) each
    int rows, pitch;  // of a tile's outputs; of the tile, 0 where pixels are read from memory
};

struct MorphStripParams {
    Sliding sliding;
    Want want;
};

// What morph_strip joins: keys, two in a word where they have 8 or 16 bits (see packed.cuh), so
// that one instruction compares two pixels. PARTS of 2 keeps the lowest key besides, as the highest
// of turned ones.
template <typename U, bool FLOATS, int PARTS_, Rows ROWS_>
struct Extremes {
    using T = U;
    static constexpr int PARTS = PARTS_, N = sizeof(U) == 4 ? 4 : 8, GROUP = sizeof(U) == 4 ? 1 : 2;
    static constexpr Rows ROWS = ROWS_;
    static constexpr bool ADDS_MULTIPLES = false;
    static constexpr int UNROLL = ROWS == Rows::Any ? 1 : 2;
    using Raw = Words<T, N>;

    static __device__ __forceinline__ uint32 higher(uint32 a, uint32 b) {
        if constexpr (sizeof(U) == 4) {
            return max(a, b);
        } else {
            return __vmaxu2(a, b);
        }
    }
    struct Down {
        struct __align__(16) Value {
            uint32 keys[PARTS * 4];
        };
        static __device__ __forceinline__ Value join(const Value& a, const Value& b) {
            Value result;
#pragma unroll
            for (int i = 0; i < PARTS * 4; ++i) result.keys[i] = higher(a.keys[i], b.keys[i]);
            return result;
        }
    };
    struct Across {
        using Value = uint32;
        static __device__ __forceinline__ Value join(Value a, Value b) { return higher(a, b); }
    };

    const Want& want;

    __device__ __forceinline__ typename Down::Value begin(const Raw& raw) const {
        typename Down::Value row;
        uint32 keys[4];
        keys_of<FLOATS>(keys, raw, want.keys);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            row.keys[i] = keys[i];
            if constexpr (PARTS == 2) row.keys[4 + i] = ~keys[i];
        }
        return row;
    }
    __device__ __forceinline__ void turn(uint32 (&lines)[PARTS][N],
                                         const typename Down::Value* rows) const {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            if constexpr (GROUP == 1) {
#pragma unroll
                for (int i = 0; i < N; ++i) lines[part][i] = rows[0].keys[part * 4 + i];
            } else {
                pair_rows<U>(lines[part], rows[0].keys + part * 4, rows[1].keys + part * 4);
            }
        }
    }
    __device__ __forceinline__ void finish(Raw (&results)[GROUP],
                                           const uint32 (&lines)[PARTS][N]) const {
        const Keys& keys = want.keys;
        uint32 bits[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const uint32 high = lines[0][i];
            if constexpr (PARTS == 1) {
                bits[i] = bits_of<U, FLOATS>(high, keys);
            } else {
                const uint32 low = ~lines[1][i];
                if constexpr (GROUP == 1) {
                    bits[i] = Range<U>::result({high, low}, want);
                } else if constexpr (!FLOATS) {
                    // No half borrows from the other: its own key is no lower.
                    constexpr uint32 MET = sizeof(U) == 1 ? 0xff00ff00u : 0xffffffffu;
                    const uint32 most = uint32(want.most) * (sizeof(U) == 1 ? 0x01000100u
                                                                            : 0x00010001u);
                    bits[i] = __vminu2((high & MET) - (low & MET), most);
                } else {
                    using R = Range<uint16>;
                    const uint16 a = R::result({uint16(high), uint16(low)}, want);
                    const uint16 b = R::result({uint16(high >> 16), uint16(low >> 16)}, want);
                    bits[i] = a | uint32(b) << 16;
                }
            }
        }
        if constexpr (GROUP == 1) {
#pragma unroll
            for (int i = 0; i < N; ++i) results[0].words[i] = bits[i];
        } else {
            part_rows<U>(results[0].words, results[1].words, bits);
        }
    }
};

template <int PARTS, Rows ROWS, typename U, bool FLOATS>
__global__ void __launch_bounds__(256, PARTS == 2 ? 1 : sizeof(U) == 2 ? 2 : BLOCKS_EACH)
    morph_strip(const U* input, U* output, const MorphStripParams params) {
    DYNAMIC_SHARED(unsigned char, shared);
    slide_strips(Extremes<U, FLOATS, PARTS, ROWS>{params.want}, input, output, params.sliding, shared);
}

// An opening or a closing in one launch.
struct MorphPairParams {
    Pair pair;
    Want first, second;
};
template <Rows ROWS, typename U, bool FLOATS>
__global__ void __launch_bounds__(256, 2)
    morph_pair(const U* input, U* output, const MorphPairParams params) {
    DYNAMIC_SHARED(unsigned char, shared);
    using Work = Extremes<U, FLOATS, 1, ROWS>;
    slide_twice(Work{params.first}, Work{params.second}, input, output, params.pair, shared);
}

// Results as they lie in shared memory are what typed outputs hold; others convert.
template <typename T, typename Stored, typename U>
__device__ __forceinline__ void store_extremes(Stored* output, const U* staged,
                                               const WindowTile& shape, const Field& field,
                                               const Tile& place, Wanted wanted) {
    if constexpr (same_type<U, Stored>) {
        store_staged(output, staged, shape, field, place, [](U bits) { return bits; });
    } else {
        store_staged(output, staged, shape, field, place,
                     [&](U bits) { return Restore<T>::number(bits, wanted); });
    }
}

template <bool BOTH, typename T, typename In, typename Out>
__global__ void __launch_bounds__(256, 1)
    morph_box(const Memory<In>* input, Memory<Out>* output, const MorphParams params) {
    using Op = Extreme<BOTH, T>;
    using U = Key<T>;
    using Value = typename Op::Value;
    DYNAMIC_SHARED(unsigned char, shared);
    T* tile = reinterpret_cast<T*>(shared);
    Value* middle = reinterpret_cast<Value*>(shared + params.tile.middle_offset);
    U* staged = reinterpret_cast<U*>(shared);
    const Field& field = params.field;
    const Window& window = params.window;
    const WindowTile& shape = params.tile;
    const Want& want = params.want;
    const int channels = field.images.channels;
    for (int64 job = blockIdx.x; job < field.tiling.jobs; job += gridDim.x) {
        const Tile place = field.tiling.at(job, shape.rows, shape.columns);
        const int top = place.y + field.from_y;
        const int left = place.x + field.from_x, lead = lead_in<T>(left);
        const int rows = shape.rows + window.height - 1;
        const int columns = lead + shape.columns + (window.width - 1) * channels;
        load_tile(tile, shape.pitch, rows, columns, field.input(input), field.images, place.plane,
                  top, left - lead);
        __syncthreads();
        if (!want.keys.trivial()) {
            turn_to_keys(tile, shape.pitch, rows, columns, want.keys);
            __syncthreads();
        }
        reduce_columns<Op>(middle, reinterpret_cast<U*>(tile) + lead, shape, window, channels,
                           [](U key) { return Op::of(key); });
        __syncthreads();
        reduce_rows<Op>(staged, middle, shape, window, channels,
                        [&](Value value) { return Op::result(value, want); });
        __syncthreads();
        store_extremes<T>(output, staged, shape, field, place, want.wanted);
        __syncthreads();  // the next job overwrites the tile
    }
}

template <typename T>
__global__ void __launch_bounds__(64, 1)
    morph_down(const void* input, typename Range<Key<T>>::Value* patch,
               const LargeMorphParams params) {
    using Op = Range<Key<T>>;
    DYNAMIC_SHARED(typename Op::Value, stage);
    reduce_down<Op, T>(patch, params.field.input(input), params.field, params.window, params.patch,
                       stage, [&](T pixel) { return Op::of(params.want.keys.of(pixel)); });
}

template <typename T>
__global__ void __launch_bounds__(64, 1)
    morph_across(const typename Range<Key<T>>::Value* patch, void* output,
                 const LargeMorphParams params) {
    using Op = Range<Key<T>>;
    DYNAMIC_SHARED(typename Op::Value, stage);
    const Want& want = params.want;
    const T value = params.field.images.value.template as<T>();
    reduce_across<Op>(output, patch, params.field, params.window, params.patch, stage,
                      Op::of(want.keys.of(value)), [&](typename Op::Value both) {
                          return Restore<T>::number(Op::result(both, want), want.wanted);
                      });
}

// A thread takes FOOTPRINT_RUN rows of every 32nd column.
constexpr int FOOTPRINT_COLUMNS = 64, FOOTPRINT_RUN = 4;

template <bool BOTH, typename T, typename In, typename Out>
__global__ void __launch_bounds__(256, 1)
    morph_footprint(const Memory<In>* input, Memory<Out>* output, const int2* offsets,
                    const FootprintParams params) {
    using Op = Extreme<BOTH, T>;
    using U = Key<T>;
    using Value = typename Op::Value;
    constexpr int ACROSS = FOOTPRINT_COLUMNS / 32;
    DYNAMIC_SHARED(T, tile);
    const Field& field = params.field;
    const Want& want = params.want;
    const int channels = field.images.channels, pitch = params.pitch;
    const int lane = threadIdx.x, warp = threadIdx.y;
    for (int64 job = blockIdx.x; job < field.tiling.jobs; job += gridDim.x) {
        const Tile place = field.tiling.at(job, params.rows, FOOTPRINT_COLUMNS);
        const int top = place.y + field.from_y;
        const int left = place.x + field.from_x, lead = lead_in<T>(left);
        const int first_row = warp * FOOTPRINT_RUN;
        const auto store = [&](int row, int column, Value value) {
            const int y = place.y + row, x = place.x + column;
            if (y >= field.rows || x >= field.row) return;
            const U bits = Op::result(value, want);
            if constexpr (same_type<U, Out>) {
                write_element(output, field.images, place.plane, y, x, bits);
            } else {
                write_element(output, field.images, place.plane, y, x,
                              Restore<T>::number(bits, want.wanted));
            }
        };
        if (pitch) {
            const int rows = params.rows + params.window.height - 1;
            const int columns = lead + FOOTPRINT_COLUMNS + (params.window.width - 1) * channels;
            load_tile(tile, pitch, rows, columns, field.input(input), field.images, place.plane,
                      top, left - lead);
            __syncthreads();
            if (!want.keys.trivial()) {
                turn_to_keys(tile, pitch, rows, columns, want.keys);
                __syncthreads();
            }
            Value found[ACROSS][FOOTPRINT_RUN];
            const U* first = reinterpret_cast<U*>(tile) + first_row * pitch + lead + lane;
            for (int t = 0; t < params.offsets; ++t) {
                const int2 offset = offsets[t];
                const U* window = first + offset.x * pitch + offset.y * channels;
#pragma unroll
                for (int a = 0; a < ACROSS; ++a) {
#pragma unroll
                    for (int i = 0; i < FOOTPRINT_RUN; ++i) {
                        const Value key = Op::of(window[i * pitch + a * 32]);
                        found[a][i] = t ? Op::join(found[a][i], key) : key;
                    }
                }
            }
#pragma unroll
            for (int a = 0; a < ACROSS; ++a) {
#pragma unroll
                for (int i = 0; i < FOOTPRINT_RUN; ++i)
                    store(first_row + i, lane + a * 32, found[a][i]);
            }
        } else {
#pragma unroll 1
            for (int output_of = 0; output_of < ACROSS * FOOTPRINT_RUN; ++output_of) {
                const int row = first_row + output_of / ACROSS;
                const int column = lane + output_of % ACROSS * 32;
                Value found;
                for (int t = 0; t < params.offsets; ++t) {
                    const int2 offset = offsets[t];
                    const T pixel =
                        read_element<T>(field.input(input), field.images, place.plane,
                                        top + row + offset.x, left + column + offset.y * channels);
                    const Value key = Op::of(want.keys.of(pixel));
                    found = t ? Op::join(found, key) : key;
                }
                store(row, column, found);
            }
        }
        __syncthreads();  // the next job overwrites the tile
    }
}
