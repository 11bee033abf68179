// Strips of a plane: a warp marches down the rows of its strip, a lane owns N neighbouring elements
// of each row. Nothing is shared but what lanes hand to each other; no barrier is met.
//
//   Strips           where the strip of a warp lies
//   LaneStrips       where that of each lane lies, if lanes hand each other nothing
//   Words<T, N>      N elements of T in registers: 4, 8 or 16 bytes, read and written at once
//   RowReader        reads a lane's elements of a row, and packs before and behind them
//   LaneReader       the same with all that a lane needs of a row at once, asked for rows ahead
//   widen_word       an element as what is computed in
//   round_words      results as elements
//
// Rows must be `wide_loads`: they begin at multiples of 16 bytes, steps are 1. A strip that nothing
// outside the image can reach (`inside`) reads by pointers alone; in the others each pack that
// straddles an edge is gathered element by element, as the border says.
#pragma once
#include "convert.cuh"
#include "image.cuh"

template <typename T, int N>
struct __align__(sizeof(T) * N) Words {
    static_assert(sizeof(T) * N % 4 == 0 && sizeof(T) * N <= 16, "4, 8 or 16 bytes");
    static constexpr int COUNT = int(sizeof(T)) * N / 4;
    uint32 words[COUNT];

    // Element i, a constant where it is called.
    __device__ __forceinline__ T operator[](int i) const {
        T result;
        if constexpr (sizeof(T) == 8) {
            const uint64 both = words[2 * i] | uint64(words[2 * i + 1]) << 32;
            memcpy(&result, &both, 8);
        } else {
            constexpr int EACH = 4 / int(sizeof(T));
            const uint32 bits = words[i / EACH] >> (i % EACH * 8 * int(sizeof(T)));
            using Bits = typename BitsOf<sizeof(T)>::type;
            const Bits low = Bits(bits);
            memcpy(&result, &low, sizeof(T));
        }
        return result;
    }

    // All move one element down; `element` becomes the last. For loops that are not unrolled.
    __device__ __forceinline__ void push(T element) {
        constexpr int BITS = 8 * int(sizeof(T));
        if constexpr (sizeof(T) == 8) {
            uint64 bits;
            memcpy(&bits, &element, 8);
#pragma unroll
            for (int w = 0; w + 2 < COUNT; ++w) words[w] = words[w + 2];
            words[COUNT - 2] = uint32(bits);
            words[COUNT - 1] = uint32(bits >> 32);
        } else {
            typename BitsOf<sizeof(T)>::type bits;
            memcpy(&bits, &element, sizeof(T));
#pragma unroll
            for (int w = 0; w + 1 < COUNT; ++w) {
                if constexpr (BITS == 32) {
                    words[w] = words[w + 1];
                } else {
                    words[w] = words[w] >> BITS | words[w + 1] << (32 - BITS);
                }
            }
            if constexpr (BITS == 32) {
                words[COUNT - 1] = bits;
            } else {
                words[COUNT - 1] = words[COUNT - 1] >> BITS | uint32(bits) << (32 - BITS);
            }
        }
    }

private:
    template <int BYTES, int = 0>
    struct BitsOf;
    template <int U>
    struct BitsOf<1, U> {
        using type = uint8;
    };
    template <int U>
    struct BitsOf<2, U> {
        using type = uint16;
    };
    template <int U>
    struct BitsOf<4, U> {
        using type = uint32;
    };
    template <int U>
    struct BitsOf<8, U> {
        using type = uint64;
    };
};

template <typename T, int N>
__device__ __forceinline__ Words<T, N> load_words(const T* place) {
    return *reinterpret_cast<const Words<T, N>*>(place);
}

// The first `count` elements, or all.
template <typename T, int N>
__device__ __forceinline__ void store_words(T* place, const Words<T, N>& values, int count = N) {
    if (count >= N) {
        *reinterpret_cast<Words<T, N>*>(place) = values;
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (i < count) place[i] = values[i];
    }
}

// Element i as what is computed in. Small integers become floats without a conversion, of which a
// multiprocessor does 16 a clock: their bits under those of 2^23, from which 2^23 is taken.
template <typename A, typename T, int N>
__device__ __forceinline__ A widen_word(const Words<T, N>& words, int i) {
    if constexpr (same_type<A, float> && same_type<T, uint8>) {
        return __uint_as_float(__byte_perm(words.words[i / 4], 0x4b000000u, 0x7440 + i % 4)) -
               8388608.0f;
    } else if constexpr (same_type<A, float> && same_type<T, uint16>) {
        return __uint_as_float(
                   __byte_perm(words.words[i / 2], 0x4b000000u, i % 2 ? 0x7432 : 0x7410)) -
               8388608.0f;
    } else if constexpr (same_type<A, float> && same_type<T, float16>) {
        half2 both;
        memcpy(&both, &words.words[i / 2], 4);
        const float2 wide = __half22float2(both);
        return i % 2 ? wide.y : wide.x;
    } else if constexpr (same_type<A, float> && same_type<T, bfloat16>) {
        const uint32 word = words.words[i / 2];
        return __uint_as_float(i % 2 ? word & 0xffff0000u : word << 16);
    } else {
        return A(words[i]);
    }
}

// Results as elements: integers rounded half to even and saturated, floats rounded.
template <typename T, typename A, int N>
__device__ __forceinline__ Words<T, N> round_words(const A (&results)[N]) {
    Words<T, N> words;
#pragma unroll
    for (int w = 0; w < words.COUNT; ++w) {
        if constexpr (same_type<T, uint8>) {
            const A* four = results + 4 * w;
            words.words[w] = bytes_of(four[0], four[1], four[2], four[3]);
        } else if constexpr (same_type<T, uint16>) {
            words.words[w] = halves_of(results[2 * w], results[2 * w + 1]);
        } else if constexpr (same_type<T, float16>) {
            const half2 both = __floats2half2_rn(results[2 * w], results[2 * w + 1]);
            memcpy(&words.words[w], &both, 4);
        } else if constexpr (same_type<T, bfloat16>) {
            const __nv_bfloat162 both = __floats2bfloat162_rn(results[2 * w], results[2 * w + 1]);
            memcpy(&words.words[w], &both, 4);
        } else {
            static_assert(same_type<T, float> && same_type<A, float>, "a type of results");
            words.words[w] = __float_as_uint(results[w]);
        }
    }
    return words;
}

// Twin of STRIPS in gpuconv/backends/cuda/strips.py.
//
// A job is one warp's: `rows` rows of results from row y on, `columns` elements from element x on.
// Neighbouring warps take neighbouring strips of the same rows. Blocks take jobs in turn where
// there are more than a grid may have blocks.
struct Strip {
    int64 plane;
    int y, x, rows;
    bool inside;  // all that the strip reads lies in the image
};
struct Strips {
    int64 jobs;
    int down, across;  // strips of a plane
    int rows, columns; // results of a strip; `rows` may reach below the image, `columns` beyond it
    int above, below;  // rows that are read besides
    int before, behind;  // elements that are read besides, left of x and right of x + columns

    __device__ __forceinline__ Strip at(int64 job, const Images& images) const {
        const int64 plane = job / (int64(down) * across);
        const int rest = int(job - plane * (int64(down) * across));
        Strip strip = {plane, rest / across * rows, rest % across * columns, rows, false};
        strip.rows = min(rows, images.height - strip.y);
        strip.inside = strip.y >= above && strip.y + strip.rows + below <= images.height &&
                       strip.x >= before &&
                       strip.x + columns + behind <= images.row_elements();
        return strip;
    }
};

// Twin of LANE_STRIPS in gpuconv/backends/cuda/strips.py.
//
// A job is one warp's, whose lanes lie in a row in the band of `rows` rows from the plane's first
// on, then in the next band: but for the last warp of a plane none has lanes beyond a row's end.
struct LaneStrip {
    int64 plane;
    int y, x, rows;  // of this lane; beyond the last band there are no rows and x is a row's end
    int longest;     // most rows of a lane of the warp
    bool inside;     // all that the warp reads lies in the image; then all its lanes have the same y
};
struct LaneStrips {
    int64 jobs;
    int each, packs;     // jobs of a plane; lanes of a row
    int rows, elements;  // results of a lane; both may reach beyond the image
    int above, below;    // rows that are read besides
    int before, behind;  // elements that are read besides, at least one on either side

    // Every lane must call it.
    __device__ __forceinline__ LaneStrip at(int64 job, const Images& images) const {
        const int64 plane = job / each;
        const int lane = int(job - plane * each) * 32 + int(threadIdx.x), band = lane / packs;
        LaneStrip strip = {plane, band * rows, (lane - band * packs) * elements, 0, 0, false};
        strip.rows = max(min(rows, images.height - strip.y), 0);
        if (!strip.rows) strip.x = images.row_elements();
        strip.longest = __shfl_sync(FULL_WARP, strip.rows, 0);  // only the last band has fewer
        strip.inside = __all_sync(FULL_WARP, strip.y >= above && strip.x >= before &&
                                                 strip.y + strip.rows + below <= images.height &&
                                                 strip.x + elements + behind <=
                                                     images.row_elements());
        return strip;
    }
};

// Elements of rows of one plane, as a lane reads them.
template <typename T>
struct RowReader {
    const T* plane;
    const Images& images;

    __device__ __forceinline__ RowReader(const T* input, const Images& all, int64 number)
        : plane(input + all.plane_offset(all.input, number)), images(all) {}

    // N elements from x on, a multiple of N, of row y: INSIDE promises that they are in the image.
    template <int N, bool INSIDE>
    __device__ __forceinline__ Words<T, N> read(int y, int x) const {
        if constexpr (INSIDE) {
            return load_words<T, N>(plane + y * images.input.row + x);
        } else {
            return gather<N>(map_index(images.border, y, images.height), x);
        }
    }

    // The same where the border has answered for the row: -1 is a row of the border's value.
    template <int N>
    __device__ __forceinline__ Words<T, N> gather(int row_number, int x) const {
        if (row_number >= 0 && x >= 0 && x + N <= images.row_elements())
            return load_words<T, N>(plane + row_number * images.input.row + x);
        return collect<N>(row_number, x, x, x + N);
    }

    // The same element by element, but only those from `from` to `until`; others are undefined.
    template <int N>
    __device__ __forceinline__ Words<T, N> collect(int row_number, int x, int from,
                                                   int until) const {
        const T* row = plane + row_number * images.input.row;
        const T value = images.value.template as<T>();
        Words<T, N> result = {};
#pragma unroll 1
        for (int i = max(x, from); i < x + N; ++i) {
            T element = value;
            if (i < until && row_number >= 0) {
                const int place = map_element(images, i);
                if (place >= 0) element = row[place];
            }
            result.push(element);
        }
        return result;
    }
};

// What a lane reads of a row: N elements of its own, and at least REACH on either side in the
// smallest packs that hold them. Neighbours' elements come from the L1 cache.
template <typename T, int N, int REACH>
struct StripRow {
    static constexpr int NEED = REACH * int(sizeof(T));
    static constexpr int BYTES = NEED <= 4 ? 4 : NEED <= 8 ? 8 : 16;
    static constexpr int PACK = BYTES < int(sizeof(T)) ? 1
                                : BYTES / int(sizeof(T)) < N ? BYTES / int(sizeof(T)) : N;
    static constexpr int PACKS = (REACH + PACK - 1) / PACK;
    static constexpr int HALO = PACKS * PACK;  // elements read on either side

    int number;  // of the row that answers; -1: a row of the border's value
    Words<T, PACK> before[PACKS];
    Words<T, N> own;
    Words<T, PACK> behind[PACKS];
};

// Reads the rows from `first` to `last` in turn, for the lane whose own elements begin at x.
// `request` asks for what lies in the image of the next row, or of the last once more, and waits
// for nothing; `complete` fills in what the border answers, mostly from lines of the cache that the
// request has brought.
template <typename T, int N, int REACH, bool INSIDE>
struct LaneReader {
    using Row = StripRow<T, N, REACH>;
    static constexpr int PACK = Row::PACK, PACKS = Row::PACKS;
    RowReader<T> reader;
    int x, y, last;
    const T* place;  // of the lane's elements in row y, where that is INSIDE
    bool straddles;  // some of what the lane reads lies beyond an end of the row

    __device__ __forceinline__ LaneReader(const T* input, const Images& images, int64 plane, int x,
                                          int first, int last)
        : reader(input, images, plane),
          x(x),
          y(first),
          last(last),
          place(reader.plane + (INSIDE ? first : 0) * images.input.row + x),
          straddles(!holds(x - Row::HALO, N + 2 * Row::HALO)) {}

    __device__ __forceinline__ bool holds(int from, int count) const {
        return INSIDE || (from >= 0 && from + count <= reader.images.row_elements());
    }
    // Lanes beyond the end of the row have nothing to write.
    __device__ __forceinline__ bool idle() const {
        return !INSIDE && x >= reader.images.row_elements();
    }

    __device__ __forceinline__ Row request() {
        Row row = {};
        const T* from = place;
        if constexpr (!INSIDE) {
            row.number = map_index(reader.images.border, y, reader.images.height);
            from += row.number * reader.images.input.row;
        }
        if (y < last) {
            ++y;
            if (INSIDE) place += reader.images.input.row;
        }
        if (!INSIDE && (row.number < 0 || idle())) return row;
        if (holds(x, N)) row.own = load_words<T, N>(from);
#pragma unroll
        for (int p = 0; p < PACKS; ++p) {
            const int left = (p - PACKS) * PACK, right = N + p * PACK;
            if (holds(x + left, PACK)) row.before[p] = load_words<T, PACK>(from + left);
            if (holds(x + right, PACK)) row.behind[p] = load_words<T, PACK>(from + right);
        }
        return row;
    }

    __device__ __forceinline__ void complete(Row& row) const {
        if (INSIDE || idle()) return;
        const bool outside = row.number < 0;
        if (!outside && !straddles) return;
        if (outside || !holds(x, N))
            row.own = reader.template collect<N>(row.number, x, x, x + N);
#pragma unroll
        for (int p = 0; p < PACKS; ++p) {
            const int left = x + (p - PACKS) * PACK, right = x + N + p * PACK;
            if (outside || !holds(left, PACK))
                row.before[p] =
                    reader.template collect<PACK>(row.number, left, x - REACH, x);
            if (outside || !holds(right, PACK))
                row.behind[p] =
                    reader.template collect<PACK>(row.number, right, x + N, x + N + REACH);
        }
    }

    // The row's elements from REACH before x on, N + 2 * REACH of them.
    template <typename A>
    static __device__ __forceinline__ void widen(A* values, const Row& row) {
#pragma unroll
        for (int i = 0; i < REACH; ++i) {
            const int left = Row::HALO - REACH + i;
            values[i] = widen_word<A>(row.before[left / PACK], left % PACK);
            values[REACH + N + i] = widen_word<A>(row.behind[i / PACK], i % PACK);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) values[REACH + i] = widen_word<A>(row.own, i);
    }
};
