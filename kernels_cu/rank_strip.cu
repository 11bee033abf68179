// Medians of 3×3 pixels, as in gpuconv/backends/numpy/rank.py.
//
//   median_strip    a warp marches down a strip; each row is read once (common/strip.cuh)
//
// Columns are put in order once for the three windows that hold them; a window's median is the one
// in the middle of its lowest's highest, its middles' middle and its highest's lowest. Of sm_90's
// 64 lanes that compare, a pixel of 8 or 16 bits takes about 8 where copying leaves it 18 (u8).
#include "common/keys.cuh"
#include "common/pairs.cuh"
#include "common/strip.cuh"

constexpr int STRIP_WARPS = 4;  // twin of WARPS in gpuconv/backends/cuda/strips.py

// Twin of MEDIAN_STRIP in gpuconv/backends/cuda/rank.py.
struct MedianParams {
    Images images;
    Strips strips;
    Keys keys;
};

// A lane's row as keys. A comparand holds elements i and i + N / 2 where keys go in pairs.
template <typename U, int C>
struct KeyRow {
    static constexpr int N = 16 / sizeof(U), EACH = 4 / sizeof(U);  // elements; of a word
    static constexpr int COUNT = N / Comparand<U>::WIDTH;
    using Row = StripRow<U, N, C>;
    static constexpr int SIDE = Row::HALO / EACH, WORDS = 2 * SIDE + 4;

    Comparand<U> columns[COUNT + 2 * C];
    bool has_nan;

    // A word of pixels ↔ a word of keys; which is which tells `of_keys`.
    static __device__ __forceinline__ uint32 toggle(uint32 word, const Keys& keys, bool of_keys) {
        if constexpr (sizeof(U) == 1) {
            return word ^ uint32(keys.mask) * 0x01010101u;
        } else if constexpr (sizeof(U) == 2) {
            if (!keys.infinity) return word ^ uint32(keys.mask) * 0x00010001u;
            const uint32 negative = ((of_keys ? ~word : word) >> 15 & 0x00010001u) * 0xffffu;
            return word ^ (negative | 0x80008000u);
        } else {
            if (!keys.infinity) return word ^ uint32(keys.mask);
            const uint32 negative = uint32(int(of_keys ? ~word : word) >> 31);
            return word ^ (negative | 0x80000000u);
        }
    }
    static __device__ __forceinline__ bool holds_nan(uint32 word, const Keys& keys) {
        if constexpr (sizeof(U) == 1) return false;
        const uint32 infinity = uint32(keys.infinity);
        if constexpr (sizeof(U) == 4) return infinity && (word & 0x7fffffffu) > infinity;
        return infinity && ((word & 0x7fffu) > infinity || (word >> 16 & 0x7fffu) > infinity);
    }

    __device__ __forceinline__ KeyRow() : columns(), has_nan(false) {}
    __device__ __forceinline__ KeyRow(const Row& row, const Keys& keys) : has_nan(false) {
        uint32 words[WORDS];
#pragma unroll
        for (int w = 0; w < WORDS; ++w) {
            constexpr int PACK = Row::PACK / EACH;
            words[w] = w < SIDE       ? row.before[w / PACK].words[w % PACK]
                       : w < SIDE + 4 ? row.own.words[w - SIDE]
                                      : row.behind[(w - SIDE - 4) / PACK].words[(w - SIDE - 4) % PACK];
        }
        if (!keys.trivial()) {
#pragma unroll
            for (int w = 0; w < WORDS; ++w) {
                has_nan |= holds_nan(words[w], keys);
                words[w] = toggle(words[w], keys, false);
            }
        }
#pragma unroll
        for (int i = 0; i < COUNT + 2 * C; ++i) {
            const int at = Row::HALO - C + i, other = at + N / 2;
            if constexpr (Comparand<U>::WIDTH == 1) {
                columns[i] = {U(words[at / EACH] >> (at % EACH * 8 * int(sizeof(U)) & 31))};
            } else {
                // Bytes stand twice in their 16 bits: what is compared is 257 times the pixel.
                const int low = sizeof(U) == 1 ? at % 4 * 0x11 : at % 2 * 0x22 + 0x10;
                const int high = sizeof(U) == 1 ? other % 4 * 0x11 : other % 2 * 0x22 + 0x10;
                columns[i] = {
                    __byte_perm(words[at / EACH], words[other / EACH], low | (high + 0x44) << 8)};
            }
        }
    }

    // Comparands of the lane's own elements → their pixels.
    static __device__ __forceinline__ Words<U, N> pixels(const Comparand<U> (&found)[COUNT],
                                                         const Keys& keys) {
        Words<U, N> result;
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            uint32 word;
            if constexpr (sizeof(U) == 4) {
                word = found[w].key;
            } else if constexpr (Comparand<U>::WIDTH == 1) {
                word = 0;
#pragma unroll
                for (int i = 0; i < EACH; ++i)
                    word |= uint32(found[w * EACH + i].key) << (i * 8 * int(sizeof(U)) & 31);
            } else {
                const int half = w / 2, first = w % 2 * EACH;  // of a comparand; its number
                const auto two = [&](int i) {
                    const int select = sizeof(U) == 1 ? (half ? 0x0062 : 0x0040)
                                                      : (half ? 0x7632 : 0x5410);
                    return __byte_perm(found[first + i].keys, found[first + i + 1].keys, select);
                };
                if constexpr (sizeof(U) == 1) {
                    word = __byte_perm(two(0), two(2), 0x5410);
                } else {
                    word = two(0);
                }
            }
            result.words[w] = keys.trivial() ? word : toggle(word, keys, true);
        }
        return result;
    }
};

// The medians of three rows, of which `low` and `high` are two in order.
template <typename C, int N, int COLUMNS>
__device__ __forceinline__ void find_medians(C (&found)[N], const C (&row)[COLUMNS],
                                             const C (&low)[COLUMNS], const C (&high)[COLUMNS]) {
    constexpr int STEP = (COLUMNS - N) / 2;
    C bottom[COLUMNS], middle[COLUMNS], top[COLUMNS];
#pragma unroll
    for (int i = 0; i < COLUMNS; ++i) {
        bottom[i] = C::lower(low[i], row[i]);
        middle[i] = C::higher(low[i], C::lower(high[i], row[i]));
        top[i] = C::higher(high[i], row[i]);
    }
    const auto median = [](C a, C b, C c) {
        return C::higher(C::lower(a, b), C::lower(C::higher(a, b), c));
    };
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int j = i + STEP, k = i + 2 * STEP;
        found[i] = median(C::higher(C::higher(bottom[i], bottom[j]), bottom[k]),
                          median(middle[j], middle[k], middle[i]),
                          C::lower(C::lower(top[i], top[j]), top[k]));
    }
}

template <typename U, int C, bool INSIDE>
__device__ __forceinline__ void find_strip(const U* input, U* output, const Strip& strip,
                                           const MedianParams& params) {
    using Keyed = KeyRow<U, C>;
    constexpr int N = Keyed::N;
    const Images& images = params.images;
    const Keys& keys = params.keys;
    const int x = strip.x + int(threadIdx.x) * N, top = strip.y - params.strips.above;
    LaneReader<U, N, C, INSIDE> reader(input, images, strip.plane, x, top, top + strip.rows + 1);
    U* target = output + images.plane_offset(images.output, strip.plane) +
                strip.y * images.output.row + x;
    const int64 step = images.output.row;
    const int count = INSIDE ? N : images.row_elements() - x;  // none where it is negative
    const auto read = [&](typename Keyed::Row& ahead) {
        typename Keyed::Row row = ahead;
        ahead = reader.request();
        reader.complete(row);
        return Keyed(row, keys);
    };
    const auto store = [&](const Comparand<U> (&found)[Keyed::COUNT], int y) {
        if (y < strip.rows) store_words(target + y * step, Keyed::pixels(found, keys), count);
    };
    // Seldom: windows of some rows are looked through, and NaN put over what was found.
    const auto put_nan = [&](int y, int rows) {
#pragma unroll 1
        for (int i = 0; i < min(count, N) * 9 * min(rows, strip.rows - y); ++i) {
            const int q = i / 9 % min(count, N), row = y + i / 9 / min(count, N);
            const U key = keys.of(read_element<U>(input, images, strip.plane,
                                                  top + row + i % 9 / 3,
                                                  x + q + (i % 3 - 1) * C));
            if (keys.is_nan(key)) target[row * step + q] = keys.bits(key);
        }
    };
    Comparand<U> low[Keyed::COUNT + 2 * C], high[Keyed::COUNT + 2 * C], found[Keyed::COUNT];
    const auto sort_pairs = [&](const Keyed& a, const Keyed& b) {
#pragma unroll
        for (int i = 0; i < Keyed::COUNT + 2 * C; ++i) {
            low[i] = Comparand<U>::lower(a.columns[i], b.columns[i]);
            high[i] = Comparand<U>::higher(a.columns[i], b.columns[i]);
        }
    };
    if constexpr (INSIDE) {  // two rows at a time share the order of the rows between them
        typename Keyed::Row ahead[2] = {reader.request(), reader.request()};
        Keyed first = read(ahead[0]), second = read(ahead[1]);
#pragma unroll 1
        for (int y = 0; y < strip.rows; y += 2) {
            const Keyed third = read(ahead[0]), fourth = read(ahead[1]);
            sort_pairs(second, third);
            find_medians(found, first.columns, low, high);
            store(found, y);
            find_medians(found, fourth.columns, low, high);
            store(found, y + 1);
            if (first.has_nan || second.has_nan || third.has_nan || fourth.has_nan) put_nan(y, 2);
            first = third;
            second = fourth;
        }
    } else {
        typename Keyed::Row ahead = reader.request();
        Keyed first, second;
#pragma unroll 1
        for (int y = -2; y < strip.rows; ++y) {
            const Keyed third = read(ahead);
            if (y >= 0) {
                sort_pairs(second, third);
                find_medians(found, first.columns, low, high);
                store(found, y);
                if (first.has_nan || second.has_nan || third.has_nan) put_nan(y, 1);
            }
            first = second;
            second = third;
        }
    }
}

template <typename U, int C>
__global__ void __launch_bounds__(32 * STRIP_WARPS, 1)
    median_strip(const U* input, U* output, const MedianParams params) {
    const int64 step = int64(gridDim.x) * STRIP_WARPS;
    for (int64 job = int64(blockIdx.x) * STRIP_WARPS + threadIdx.y; job < params.strips.jobs;
         job += step) {
        const Strip strip = params.strips.at(job, params.images);
        if (strip.inside) {
            find_strip<U, C, true>(input, output, strip, params);
        } else {
            find_strip<U, C, false>(input, output, strip, params);
        }
    }
}
