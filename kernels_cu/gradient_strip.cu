// The magnitude of two gradients of images, both from one read.
//
//   gradient_strip   three taps by three, C interleaved channels
//
// A warp marches down a strip; lanes read their neighbours' elements from the L1 cache and hand each
// other nothing. 15 instructions an output of uint8, two of which share one where sums are taken:
// sm_90 issues 128 lanes a clock, which stops at 8.5 outputs a clock and multiprocessor; a copy
// makes 8.2.
#include "common/linear.cuh"
#include "common/strip.cuh"

constexpr int STRIP_WARPS = 4;  // twin of WARPS in gpuconv/backends/cuda/strips.py

// What gradients are exact in, but for bytes.
template <typename T>
using SumOf = either<same_type<T, uint16>, int, float>;

// Twin of GRADIENT_PARAMS in gpuconv/backends/cuda/separable_strips.py.
struct GradientStripParams {
    Images images;
    LaneStrips strips;
    int outer, inner;  // taps across the derivative: outer, inner, outer
};

// A lane's elements of a row and those on either side, and how two gradients come of three rows.
// In `s` are sums along H, in `d` differences; so are the gradients
//
//   across = s[x + C] - s[x - C]        down = outer * (d[x - C] + d[x + C]) + inner * d[x]
template <typename T, int C>
struct Gradients {
    static constexpr int N = 16 / int(sizeof(T));
    using A = SumOf<T>;
    using Line = A[N + 2 * C];

    template <typename Reader>
    static __device__ __forceinline__ void widen(Line& line, const typename Reader::Row& row) {
        Reader::template widen<A>(line, row);
    }

    static __device__ __forceinline__ Words<T, N> magnitudes(const Line& above, const Line& own,
                                                             const Line& below,
                                                             const GradientStripParams& params) {
        const A outer = A(params.outer), inner = A(params.inner);
        Line s, d;
#pragma unroll
        for (int i = 0; i < N + 2 * C; ++i) {
            s[i] = combine(outer, above[i] + below[i], inner * own[i]);
            d[i] = below[i] - above[i];
            // What lies in the middle has no weight, but its NaN and Inf shall be seen.
            if constexpr (!Scalar<T>::integer) d[i] = combine(A(0), own[i], d[i]);
        }
        A results[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            A across = s[i + 2 * C] - s[i];
            if constexpr (!Scalar<T>::integer) across = combine(A(0), s[i + C], across);
            const A down = combine(outer, d[i] + d[i + 2 * C], inner * d[i + C]);
            results[i] = magnitude_of(across, down);
        }
        return round_words<T>(results);
    }

    static __device__ __forceinline__ float combine(float a, float b, float sum) {
        return multiply_add(a, b, sum);
    }
    static __device__ __forceinline__ int combine(int a, int b, int sum) { return a * b + sum; }

    static __device__ __forceinline__ float magnitude_of(float across, float down) {
        if constexpr (same_type<T, float16>) {
            // Float holds the squares. Infinity beside NaN is infinity, as hypot has it.
            const float larger = fmaxf(fabsf(across), fabsf(down));
            const float root = quick_root(multiply_add(across, across, down * down));
            return larger > 1e30f ? larger : root;
        }
        return length(down, across);
    }
    // Correctly rounded, or more than 65535: of sums below 2^21.
    static __device__ __forceinline__ int magnitude_of(int across, int down) {
        const float a = float(across), b = float(down);
        const float square = multiply_add(a, a, b * b);
        const int root = __float2int_rn(min(quick_root(square), 65536.0f));
        // A level off at most, and then what is missing is known modulo 2^32.
        const int missing = int(uint32(across) * uint32(across) + uint32(down) * uint32(down) -
                                uint32(root) * uint32(root));
        return root + (missing > root) - (missing <= -root);
    }
};

// Bytes two in a word, each in its half: sums and differences of pairs at once. What could be
// negative begins with BIAS.
template <int C>
struct Gradients<uint8, C> {
    static constexpr int N = 16, SIDE = (C + 1) / 2, PAIRS = N / 2 + 2 * SIDE;
    static constexpr uint32 ONES = 0x00010001u;
    using Line = uint32[PAIRS];

    template <typename Reader>
    static __device__ __forceinline__ void widen(Line& line, const typename Reader::Row& row) {
        static_assert(Reader::PACK == 4 && Reader::PACKS == 1, "a word on either side");
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const int pair = i - SIDE;
            const uint32 word = pair < 0        ? row.before[0].words[0]
                                : pair < N / 2 ? row.own.words[pair < 0 ? 0 : pair / 2 % (N / 4)]
                                               : row.behind[0].words[0];
            line[i] = __byte_perm(word, 0, pair & 1 ? 0x4342 : 0x4140);
        }
    }

    // The pair of elements i and i + 1, of all that a line holds.
    static __device__ __forceinline__ uint32 pair_at(const Line& line, int i) {
        return i % 2 ? __byte_perm(line[i / 2], line[i / 2 + 1 < PAIRS ? i / 2 + 1 : 0], 0x5432)
                     : line[i / 2];
    }

    static __device__ __forceinline__ Words<uint8, N> magnitudes(
        const Line& above, const Line& own, const Line& below, const GradientStripParams& params) {
        constexpr uint32 BIAS = 256, ACROSS = 4096;  // beyond any difference of bytes, of sums
        const uint32 outer = params.outer, inner = params.inner;
        Line s, d;
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            s[i] = outer * (above[i] + below[i]) + inner * own[i];
            d[i] = below[i] - above[i] + BIAS * ONES;
        }
        const float none = 8388608.0f + float(BIAS * (2 * outer + inner));
        float results[N];
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const int at = i + 2 * SIDE;
            const uint32 across = pair_at(s, at + C) - pair_at(s, at - C) + ACROSS * ONES;
            const uint32 down = outer * (pair_at(d, at - C) + pair_at(d, at + C)) +
                                inner * d[at / 2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float x = number(across, half) - (8388608.0f + float(ACROSS));
                const float y = number(down, half) - none;
                // Exact below 2^24. No integer's root up to 255 lies so close to a half that the
                // quick root could miss; what is larger is 255.
                results[i + half] = quick_root(multiply_add(x, x, y * y));
            }
        }
        return round_words<uint8>(results);
    }

    // 2^23 and a half of a word.
    static __device__ __forceinline__ float number(uint32 word, int half) {
        return __uint_as_float(__byte_perm(word, 0x4b000000u, half ? 0x7432 : 0x7410));
    }
};

// Which elements answer beside the ends of a row: found once a strip, for the lanes there.
template <typename T, int N, int C, bool INSIDE>
struct EdgeElements {
    bool first, last, known;
    int before[C], behind[C];

    __device__ __forceinline__ EdgeElements(const Images& images, int x)
        : first(!INSIDE && x == 0),
          last(!INSIDE && x + N == images.row_elements()),
          known(last || x + N + StripRow<T, N, C>::HALO <= images.row_elements()) {
        if constexpr (INSIDE) return;
        if (!first && !last) return;
#pragma unroll 1
        for (int i = 0; i < 2 * C; ++i) {
            const int element = map_element(images, i < C ? x - C + i : x + N - C + i);
#pragma unroll
            for (int j = 0; j < C; ++j) {
                if (i == j) before[j] = element;
                if (i == C + j) behind[j] = element;
            }
        }
    }

    // Whether `row` is whole now: not where all of it is the border's, or the row ends amid what
    // the lane reads.
    template <typename Reader>
    __device__ __forceinline__ bool fill(typename Reader::Row& row, const Reader& reader) const {
        if constexpr (INSIDE) return true;
        if (row.number < 0 || !known) return false;
        const T* elements = reader.reader.plane + row.number * reader.reader.images.input.row;
        if (first) row.before[0] = gathered<Reader>(elements, before, Reader::PACK - C, reader);
        if (last) row.behind[0] = gathered<Reader>(elements, behind, 0, reader);
        return true;
    }

    template <typename Reader>
    static __device__ __forceinline__ Words<T, Reader::PACK> gathered(const T* elements,
                                                                      const int (&places)[C],
                                                                      int from,
                                                                      const Reader& reader) {
        const T value = reader.reader.images.value.template as<T>();
        Pack<T, Reader::PACK> pack = {};
#pragma unroll
        for (int i = 0; i < C; ++i)
            pack.values[from + i] = places[i] < 0 ? value : elements[places[i]];
        Words<T, Reader::PACK> words;
        memcpy(&words, &pack, sizeof words);
        return words;
    }
};

template <typename T, int C, bool INSIDE>
__device__ __forceinline__ void gradient_rows(const T* input, T* output, const LaneStrip& strip,
                                              const GradientStripParams& params) {
    using Own = Gradients<T, C>;
    using Reader = LaneReader<T, Own::N, C, INSIDE>;
    const Images& images = params.images;
    const int x = strip.x;
    Reader reader(input, images, strip.plane, x, strip.y - 1, strip.y + strip.rows);
    T* target = output + images.plane_offset(images.output, strip.plane) +
                strip.y * images.output.row + x;
    const EdgeElements<T, Own::N, C, INSIDE> edges(images, x);
    typename Reader::Row next = reader.request(), second = reader.request();
    typename Own::Line lines[3] = {};
    int left = strip.rows;
    const auto take = [&](typename Own::Line& line) {
        typename Reader::Row row = next;
        next = second;
        second = reader.request();
        if (!edges.fill(row, reader)) reader.complete(row);
        Own::template widen<Reader>(line, row);
    };
    const auto write = [&](const typename Own::Line& above, const typename Own::Line& own,
                           const typename Own::Line& below) {
        store_words(target, Own::magnitudes(above, own, below, params),
                    INSIDE ? Own::N : images.row_elements() - x);
        target += images.output.row;
        return --left > 0;
    };
    if constexpr (INSIDE) {
        const auto step = [&](const typename Own::Line& above, const typename Own::Line& own,
                              typename Own::Line& below) {
            take(below);
            return write(above, own, below);
        };
        take(lines[0]);
        take(lines[1]);
        // A line is read where the one that is no longer needed was: nothing is moved.
        while (step(lines[0], lines[1], lines[2]) && step(lines[1], lines[2], lines[0]) &&
               step(lines[2], lines[0], lines[1])) {
        }
    } else {
        // Half the code, where the border has its own.
        for (int y = -2; y < strip.longest; ++y) {
            memcpy(lines[0], lines[1], sizeof lines[0]);
            memcpy(lines[1], lines[2], sizeof lines[1]);
            take(lines[2]);
            if (uint32(y) < uint32(strip.rows)) write(lines[0], lines[1], lines[2]);
        }
    }
}

template <typename T, int C>
__global__ void __launch_bounds__(32 * STRIP_WARPS, C < 4 ? 4 : 3)
    gradient_strip(const T* input, T* output, const GradientStripParams params) {
    for (int64 job = int64(blockIdx.x) * STRIP_WARPS + threadIdx.y; job < params.strips.jobs;
         job += int64(gridDim.x) * STRIP_WARPS) {
        const LaneStrip strip = params.strips.at(job, params.images);
        if (strip.inside) {
            gradient_rows<T, C, true>(input, output, strip, params);
        } else {
            gradient_rows<T, C, false>(input, output, strip, params);
        }
    }
}
