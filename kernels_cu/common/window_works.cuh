// What window_lanes.cu and window_channels.cu join: N elements of a thread at once.
//
//   WindowExtremes      maxima
//   WindowSums          sums, which become means
//   RunningSums         columns of sums of whole numbers: see ColumnWindows in sliding.cuh
//
//   begin(pixels)       → Down::Value, as columns are reduced, by Columns<Source, Shape>
//   finish(row)         such a row → pixels
//   open(line, row)     → BLOCKS blocks of four, or one of pairs: element j of two blocks in a word
//   close(line)         these → pixels
#pragma once
#include "compared.cuh"
#include "sliding.cuh"

// Words of pairs as columns are reduced → element j of either block. Of bytes pairs are 0, 2 | 1, 3
// | 4, 6 | 5, 7, else neighbours.
template <bool BYTES>
__device__ __forceinline__ void blocks_of(uint32 (&block)[4], const uint32 (&row)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const int word = BYTES ? j % 2 : j / 2;
        const bool high = BYTES ? j >= 2 : j % 2 != 0;
        block[j] = __byte_perm(row[word], row[word + 2], high ? 0x7632 : 0x5410);
    }
}

// Maxima; `mask` turns signed integers to unsigned ones, and the lowest to the highest. NaN wins.
// Bytes are the upper halves of 16 bits, over any others: see packed.cuh.
template <typename T_>
struct WindowExtremes {
    using T = T_;
    static constexpr bool BYTES = sizeof(T) == 1, PAIRED = sizeof(T) < 4;
    static constexpr int N = PAIRED ? 8 : 4, BLOCKS = 1;
    using Raw = Words<T, N>;

    static __device__ __forceinline__ uint32 higher(uint32 a, uint32 b) {
        if constexpr (Scalar<T>::integer) {
            return __vmaxu2(a, b);
        } else {
            return Order<T>::higher(a, b);
        }
    }
    struct Across {
        using Value = uint32;
        static __device__ __forceinline__ Value join(Value a, Value b) { return higher(a, b); }
    };
    // What loses against all: 0, or minus infinity.
    static constexpr uint32 LOWEST = Scalar<T>::integer            ? 0
                                     : same_type<T, float16>  ? 0xfc00fc00u
                                     : same_type<T, bfloat16> ? 0xff80ff80u
                                                              : 0xff800000u;
    struct Down {
        struct __align__(16) Value {
            uint32 keys[4] = {LOWEST, LOWEST, LOWEST, LOWEST};
        };
        static __device__ __forceinline__ Value join(const Value& a, const Value& b) {
            Value result;
#pragma unroll
            for (int i = 0; i < 4; ++i) result.keys[i] = higher(a.keys[i], b.keys[i]);
            return result;
        }
    };
    template <typename Source, typename Shape>
    using Columns = ColumnWindows<WindowExtremes, Source, Shape>;

    uint32 mask;

    __device__ __forceinline__ typename Down::Value begin(const Raw& raw) const {
        typename Down::Value row;
#pragma unroll
        for (int w = 0; w < Raw::COUNT; ++w) {
            const uint32 word = raw.words[w] ^ mask;
            if constexpr (BYTES) {
                row.keys[2 * w] = word << 8;
                row.keys[2 * w + 1] = word;
            } else {
                row.keys[w] = word;
            }
        }
        return row;
    }
    __device__ __forceinline__ void open(uint32 (&line)[1][4],
                                         const typename Down::Value& row) const {
        if constexpr (PAIRED) {
            blocks_of<BYTES>(line[0], row.keys);
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) line[0][j] = row.keys[j];
        }
    }
    // A row as it was reduced along columns.
    __device__ __forceinline__ Raw finish(const typename Down::Value& row) const {
        Raw raw;
#pragma unroll
        for (int w = 0; w < Raw::COUNT; ++w) {
            const uint32 word =
                BYTES ? __byte_perm(row.keys[2 * w % 4], row.keys[(2 * w + 1) % 4], 0x7351)
                      : row.keys[w];
            raw.words[w] = word ^ mask;
        }
        return raw;
    }
    // A row in blocks.
    __device__ __forceinline__ Raw close(const uint32 (&line)[1][4]) const {
        Raw raw;
        if constexpr (BYTES) {  // the upper byte of each half
            const uint32 low = __byte_perm(line[0][0], line[0][1], 0x7351);
            const uint32 high = __byte_perm(line[0][2], line[0][3], 0x7351);
            raw.words[0] = __byte_perm(low, high, 0x5410) ^ mask;
            raw.words[1] = __byte_perm(low, high, 0x7632) ^ mask;
        } else {
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const uint32 first = line[0][w % 2 * 2], second = line[0][w % 2 * 2 + 1];
                const uint32 word =
                    PAIRED ? __byte_perm(first, second, w < 2 ? 0x5410 : 0x7632) : line[0][w];
                raw.words[w] = word ^ mask;
            }
        }
        return raw;
    }
};

// Sums of columns of whole numbers: a row comes, a row goes.
template <typename Work, typename Source, typename Shape>
struct RunningSums {
    using Value = typename Work::Down::Value;
    using Raw = Words<typename Work::T, Work::N>;

    const Shape& windows;
    const Work& work;
    const Source& column;
    Value sum;  // of the next window but for its last row

    __device__ __forceinline__ RunningSums(const Shape& shape, const Work& all,
                                           const Source& source, uint4*)
        : windows(shape), work(all), column(source), sum() {}

    __device__ __forceinline__ int tail() const { return windows.height - 1; }

    __device__ __forceinline__ void start(int y) {
        for (int k = 0; k < windows.height - 1; k += RISE) {
            Raw rows[RISE] = {};
            column.template read<false>(rows, y + k, windows.height - 1 - k);
#pragma unroll
            for (int i = 0; i < RISE; ++i)
                if (i < windows.height - 1 - k) sum = Work::Down::join(sum, work.begin(rows[i]));
        }
    }
    __device__ __forceinline__ void reduce(Value (&found)[RISE], const Raw (&tails)[RISE], int y) {
        Raw heads[RISE];
        column.read(heads, y);
#pragma unroll
        for (int i = 0; i < RISE; ++i) {
            found[i] = Work::Down::join(sum, work.begin(tails[i]));
            sum = Work::Down::less(found[i], work.begin(heads[i]));
        }
    }
};

// Sums of bytes, of 16 bits each and two of a word, or of floats; `inverse` is that of a window's
// elements, of bytes in whole units of 2^-24.
template <typename T_>
struct WindowSums {
    using T = T_;
    static constexpr bool PAIRED = sizeof(T) == 1;
    static constexpr int N = sizeof(T) == 4 ? 4 : 8, BLOCKS = PAIRED ? 1 : N / 4;
    using Raw = Words<T, N>;
    using Number = either<PAIRED, uint32, float>;
    static constexpr int SUMS = 4 * BLOCKS;

    struct Across {
        using Value = Number;
        static __device__ __forceinline__ Value join(Value a, Value b) { return a + b; }
    };
    using Down = DownSums<Number, SUMS>;
    template <typename Source, typename Shape>
    using Columns = either<PAIRED, RunningSums<WindowSums, Source, Shape>,
                           ColumnWindows<WindowSums, Source, Shape>>;

    float inverse;

    __device__ __forceinline__ typename Down::Value begin(const Raw& raw) const {
        typename Down::Value row;
        if constexpr (PAIRED) {
#pragma unroll
            for (int w = 0; w < 2; ++w) {
                row.sums[2 * w] = raw.words[w] & 0x00ff00ffu;
                row.sums[2 * w + 1] = __byte_perm(raw.words[w], 0, 0x4341);
            }
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) row.sums[i] = widen_word<float>(raw, i);
        }
        return row;
    }
    __device__ __forceinline__ void open(Number (&line)[BLOCKS][4],
                                         const typename Down::Value& row) const {
        if constexpr (PAIRED) {
            blocks_of<true>(line[0], row.sums);
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) line[i / 4][i % 4] = row.sums[i];
        }
    }
    // Bits of a sum below those of 2^23 are a float, of which the product and what is left of 2^23
    // are whole: only their sum, 2^23 and the mean, is rounded, half to even. For odd counts and
    // powers of two below 258 the inverse is near enough that no mean is rounded otherwise.
    __device__ __forceinline__ uint32 byte_of(uint32 pair, bool second) const {
        const uint32 bits = __byte_perm(pair, 0x4b000000u, second ? 0x7632 : 0x7610);
        return __float_as_uint(
            __fmaf_rn(__uint_as_float(bits), inverse, 8388608.0f - 8388608.0f * inverse));
    }
    __device__ __forceinline__ uint32 four_bytes(uint32 a, uint32 b, uint32 c, uint32 d) const {
        return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
    }
    // A row as it was reduced along columns.
    __device__ __forceinline__ Raw finish(const typename Down::Value& row) const {
        if constexpr (PAIRED) {
            Raw raw;
#pragma unroll
            for (int w = 0; w < 2; ++w) {
                const uint32 even = row.sums[2 * w], odd = row.sums[2 * w + 1];
                raw.words[w] = four_bytes(byte_of(even, false), byte_of(odd, false),
                                          byte_of(even, true), byte_of(odd, true));
            }
            return raw;
        } else {
            float means[N];
#pragma unroll
            for (int i = 0; i < N; ++i) means[i] = row.sums[i] * inverse;
            return round_words<T>(means);
        }
    }
    // A row in blocks.
    __device__ __forceinline__ Raw close(const Number (&line)[BLOCKS][4]) const {
        if constexpr (PAIRED) {
            Raw raw;
            const uint32(&pairs)[4] = line[0];
#pragma unroll
            for (int w = 0; w < 2; ++w)
                raw.words[w] = four_bytes(byte_of(pairs[0], w != 0), byte_of(pairs[1], w != 0),
                                          byte_of(pairs[2], w != 0), byte_of(pairs[3], w != 0));
            return raw;
        } else {
            float means[N];
#pragma unroll
            for (int i = 0; i < N; ++i) means[i] = line[i / 4][i % 4] * inverse;
            return round_words<T>(means);
        }
    }
};
