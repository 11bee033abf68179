// The mean of a box, as in gpuconv/backends/numpy/box.py: exact sums of integers, divided once,
// half to even; sums of floats in blocks.
//
//   box_strip           boxes of any size over rows of whole packs: at the speed of memory
//   box_mean            a tile of a plane in shared memory: columns summed, then rows
//   box_down, _across   boxes that no tile can hold: sums of columns → patch of memory → means
//
// Sums are int where the count allows it, else int64; int128 over 64-bit pixels.
#include "common/packed.cuh"
#include "common/sliding.cuh"
#include "common/window.cuh"

// Twin of MEAN in gpuconv/backends/cuda/box.py.
struct Mean {
    int64 count;
    uint32 reciprocal;  // 2^32 / count, rounded down
    int by_double;      // int64 sums: all below 2^53
};
struct BoxParams {
    Field field;
    Window window;
    WindowTile tile;
    Mean mean;
};
struct LargeBoxParams {
    Field field;
    Window window;
    Patch patch;
    Mean mean;
};

template <typename A>
struct Sum {
    using Value = A;
    static __device__ __forceinline__ A join(A a, A b) { return a + b; }
};

// What a mean is kept as until it is stored: T, or the float that was summed in.
template <typename T, typename A, typename Out>
struct StagedMean {
    using type = T;
};
template <typename A>
struct StagedMean<float16, A, Any> {
    using type = A;
};
template <typename A>
struct StagedMean<bfloat16, A, Any> {
    using type = A;
};

template <typename T, typename Staged, typename A>
__device__ __forceinline__ Staged mean_of(A sum, const Mean& mean) {
    if constexpr (!Scalar<T>::integer) {
        return convert<Staged>(sum / A(mean.count));
    } else if constexpr (same_type<A, int>) {
        // Sums are moved to 0 and above by an even multiple of the count, which keeps ties even.
        const uint32 count = uint32(mean.count);
        const int lowest = int(Scalar<T>::lowest());
        const uint32 doubled = uint32(sum) - uint32(lowest) * count + count / 2;
        uint32 quotient = __umulhi(doubled, mean.reciprocal);
        uint32 rest = doubled - quotient * count;
        if (rest >= count) {  // the reciprocal's error is less than one unit
            ++quotient;
            rest -= count;
        }
        if (rest == 0 && count % 2 == 0) quotient &= ~1u;
        return T(int(quotient) + lowest);
    } else if constexpr (same_type<A, int64>) {
        // A quotient of integers below 2^53 is never rounded onto a half it does not equal.
        if (mean.by_double) return T(int64(rint(double(sum) / double(mean.count))));
        return T(divide(sum, mean.count));
    } else {
        return T(divide(sum, A(mean.count)));
    }
}

// Twin of BOX_STRIP in gpuconv/backends/cuda/box.py.
struct BoxStripParams {
    Sliding sliding;
    Mean mean;
    float inverse;  // of the count; of SMALL boxes in whole units of 2^-24
    int by_inverse; // its product with any sum is rounded as the quotient is
    uint32 mask;    // toggled in integers' bits: what makes signed ones unsigned
};

// What box_strip joins. Bytes are summed two at a time, as 16 bits each, which hold 257 of them:
// down columns always, and across two rows at a time where the whole box is as SMALL (and its mean
// is found by the inverse of its count). All else is summed in 32 bits, or as floats.
template <typename T_, bool SMALL, Rows ROWS_>
struct Sums {
    using T = T_;
    static constexpr bool BYTES = sizeof(T) == 1, WHOLE = Scalar<T>::integer;
    static constexpr int N = sizeof(T) == 4 ? 4 : 8, GROUP = SMALL ? 2 : 1, PARTS = 1;
    static constexpr Rows ROWS = ROWS_;
    static constexpr bool ADDS_MULTIPLES = WHOLE;
    static constexpr int UNROLL = ROWS == Rows::Any ? 1 : 2;
    static_assert(BYTES || !SMALL, "only sums of bytes are as small");
    using Raw = Words<T, N>;
    using Number = either<WHOLE, uint32, float>;

    static constexpr int SUMS = BYTES ? 4 : N;
    using Down = DownSums<Number, SUMS>;
    struct Across {
        using Value = Number;
        static __device__ __forceinline__ Value join(Value a, Value b) { return a + b; }
    };

    const BoxStripParams& params;

    __device__ __forceinline__ typename Down::Value begin(const Raw& raw) const {
        typename Down::Value row;
        if constexpr (BYTES) {  // 0 2 | 1 3 | 4 6 | 5 7
#pragma unroll
            for (int w = 0; w < 2; ++w) {
                const uint32 word = raw.words[w] ^ params.mask;
                row.sums[2 * w] = word & 0x00ff00ffu;
                row.sums[2 * w + 1] = word >> 8 & 0x00ff00ffu;
            }
        } else if constexpr (WHOLE) {
#pragma unroll
            for (int w = 0; w < N / 2; ++w) {
                const uint32 word = raw.words[w] ^ params.mask;
                row.sums[2 * w] = word & 0xffffu;
                row.sums[2 * w + 1] = word >> 16;
            }
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) row.sums[i] = widen(raw[i]);
        }
        return row;
    }
    __device__ __forceinline__ void turn(Number (&lines)[1][N],
                                         const typename Down::Value* rows) const {
        if constexpr (SMALL) {
            pair_rows<uint8>(lines[0], rows[0].sums, rows[1].sums);
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) {
                if constexpr (BYTES) {
                    const uint32 both = rows[0].sums[i / 4 * 2 + i % 2];
                    lines[0][i] = i % 4 < 2 ? both & 0xffffu : both >> 16;
                } else {
                    lines[0][i] = rows[0].sums[i];
                }
            }
        }
    }

    // The mean of bytes, in the lowest 8 bits of a float; the sum, below 2^23, is the mantissa of one
    // from 2^23 on. Of SMALL boxes see WindowSums in common/window_works.cuh.
    __device__ __forceinline__ uint32 byte_of(uint32 bits) const {
        const float inverse = params.inverse, sum = __uint_as_float(bits);
        if constexpr (SMALL)
            return __float_as_uint(__fmaf_rn(sum, inverse, 8388608.0f - 8388608.0f * inverse));
        return __float_as_uint(__fmaf_rn(sum - 8388608.0f, inverse, 12582912.0f));
    }
    static __device__ __forceinline__ uint32 four_bytes(uint32 a, uint32 b, uint32 c, uint32 d) {
        return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
    }

    __device__ __forceinline__ void finish(Raw (&results)[GROUP],
                                           const Number (&lines)[1][N]) const {
        if constexpr (BYTES) {
#pragma unroll
            for (int r = 0; r < GROUP; ++r) {
                uint32 means[N];
                if constexpr (SMALL) {
#pragma unroll
                    for (int i = 0; i < N; ++i)
                        means[i] =
                            byte_of(__byte_perm(lines[0][i], 0x4b000000u, r ? 0x7632 : 0x7610));
                } else if (params.by_inverse) {
#pragma unroll
                    for (int i = 0; i < N; ++i) means[i] = byte_of(lines[0][i] | 0x4b000000u);
                } else {
#pragma unroll
                    for (int i = 0; i < N; ++i)
                        means[i] = mean_of<T, T>(int(lines[0][i]), params.mean);
                }
#pragma unroll
                for (int w = 0; w < 2; ++w) {
                    const uint32* four = means + 4 * w;
                    results[r].words[w] =
                        four_bytes(four[0], four[1], four[2], four[3]) ^ params.mask;
                }
            }
        } else if constexpr (WHOLE) {
#pragma unroll
            for (int w = 0; w < N / 2; ++w) {
                const uint32 low = mean_of<T, T>(int(lines[0][2 * w]), params.mean);
                const uint32 high = mean_of<T, T>(int(lines[0][2 * w + 1]), params.mean);
                results[0].words[w] = (low | high << 16) ^ params.mask;
            }
        } else {
            Raw result = {};
#pragma unroll
            for (int i = 0; i < N; ++i) result.push(narrow<T>(lines[0][i] * params.inverse));
            results[0] = result;
        }
    }
};

template <Rows ROWS, typename T, bool SMALL>
__global__ void __launch_bounds__(256, sizeof(T) == 2 ? HALF_SUM_BLOCKS : BLOCKS_EACH)
    box_strip(const T* input, T* output, const BoxStripParams params) {
    DYNAMIC_SHARED(unsigned char, shared);
    slide_strips(Sums<T, SMALL, ROWS>{params}, input, output, params.sliding, shared);
}

template <typename T, typename A, typename In, typename Out>
__global__ void __launch_bounds__(256, 1)
    box_mean(const Memory<In>* input, Memory<Out>* output, const BoxParams params) {
    using Staged = typename StagedMean<T, A, Out>::type;
    DYNAMIC_SHARED(unsigned char, shared);
    T* tile = reinterpret_cast<T*>(shared);
    A* middle = reinterpret_cast<A*>(shared + params.tile.middle_offset);
    Staged* staged = reinterpret_cast<Staged*>(shared);
    const Field& field = params.field;
    const Window& window = params.window;
    const WindowTile& shape = params.tile;
    const int channels = field.images.channels;
    for (int64 job = blockIdx.x; job < field.tiling.jobs; job += gridDim.x) {
        const Tile place = field.tiling.at(job, shape.rows, shape.columns);
        const int top = place.y + field.from_y;
        const int left = place.x + field.from_x, lead = lead_in<T>(left);
        load_tile(tile, shape.pitch, shape.rows + window.height - 1,
                  lead + shape.columns + (window.width - 1) * channels, field.input(input),
                  field.images, place.plane, top, left - lead);
        __syncthreads();
        reduce_columns<Sum<A>>(middle, tile + lead, shape, window, channels,
                               [](T value) { return A(widen(value)); });
        __syncthreads();
        reduce_rows<Sum<A>>(staged, middle, shape, window, channels,
                            [&](A sum) { return mean_of<T, Staged>(sum, params.mean); });
        __syncthreads();
        store_staged(output, staged, shape, field, place, [](Staged mean) { return mean; });
        __syncthreads();  // the next job overwrites the tile
    }
}

template <typename T, typename A>
__global__ void __launch_bounds__(64, 1)
    box_down(const void* input, A* patch, const LargeBoxParams params) {
    DYNAMIC_SHARED(A, stage);
    reduce_down<Sum<A>, T>(patch, params.field.input(input), params.field, params.window,
                           params.patch, stage, [](T value) { return A(widen(value)); });
}

template <typename T, typename A>
__global__ void __launch_bounds__(64, 1)
    box_across(const A* patch, void* output, const LargeBoxParams params) {
    using Staged = typename StagedMean<T, A, Any>::type;
    DYNAMIC_SHARED(A, stage);
    const T value = params.field.images.value.template as<T>();
    reduce_across<Sum<A>>(output, patch, params.field, params.window, params.patch, stage,
                          A(widen(value)) * A(params.window.height),
                          [&](A sum) { return mean_of<T, Staged>(sum, params.mean); });
}
