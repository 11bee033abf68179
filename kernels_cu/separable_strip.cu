// Weighted sums of rank 1 over images, by strips: one read, one write, and between them nothing but
// registers and a few rows of shared memory.
//
//   separable_strip   a column and a row of K taps each, C interleaved channels
//   separable_odd     floats, of any odd numbers of taps up to 31, told when it is launched
//   separable_bytes   uint8
//
// A block marches down the image a few rows at a time; a thread owns N neighbouring elements of a
// row. Sums along H are the middle, whose rows go by way of shared memory to the threads on either
// side, which sum them along W. Warps that read and write whole packs of the image go a way of
// their own, which knows of no border.
//
// separable_strip, separable_odd: each row read joins the K - 1 column sums that are under way.
// Sum j of a thread waits for j + 1 more rows,
//
//   sum[j] = sum[j + 1] + column[K - 2 - j] * row
//
// so that no register changes its meaning, and the loop over rows needs no unrolling. 2K of about
// 2K + 4 (float16) or 2K + 6 (float) instructions an output are FMAs, and sm_90 issues 128 lanes a
// clock: with threads that only neighbours need, rows that strips share, and warps at an edge,
// float16 of 15 taps stops at 3.4 outputs a clock and multiprocessor, float of 31 at 1.6; a copy
// makes 4.1 and 2.1. uint16 is summed in double, 64 lanes a clock: 7 taps stop at 3.8.
//
// separable_bytes: rows come in groups of four, turned so that a word holds four pixels of a
// column. IDP.2A multiplies two of them by weights of 16 bits, exactly: (K + 1) / 2 instructions
// instead of K and a conversion. With K FMAs along W, 2 for rounding the middle, half an F2IP and
// about 3 for all else: 10, 17 and 30 instructions an output for 3, 7 and 15 taps. 7 and 15 stop
// at 7.1 and 4.0 outputs a clock and multiprocessor, all told; a copy makes 8.2.
#include "common/linear.cuh"
#include "common/ptx.cuh"
#include "common/strip.cuh"

constexpr int MOST_TAPS = 32, MOST_BYTE_TAPS = 42, MOST_ODD = 31;

// Of a block: few enough that several fit a multiprocessor, and many enough that the threads that
// its neighbours repeat are few.
constexpr int STRIP_WARPS = 4, STRIP_THREADS = 32 * STRIP_WARPS;

__device__ constexpr int floor_divide(int value, int unit) {
    return value < 0 ? -((unit - 1 - value) / unit) : value / unit;
}

// Of the numbers of all lanes; the same to the compiler, too.
__device__ __forceinline__ int warp_largest(int number) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
        number = max(number, __shfl_xor_sync(FULL_WARP, number, apart));
    return __shfl_sync(FULL_WARP, number, 0);
}

// Twin of BLOCK_STRIPS in gpuconv/backends/cuda/separable_strips.py.
//
// The threads of all blocks of a plane lie in a row in the band of `rows` rows from the plane's
// first on, then in the next band: none has elements beyond a row's end but for `beside` threads at
// either end of a band, and those that a plane's last block has left. Of a block, `beside` threads
// at either end make what their neighbours need, and write nothing; so blocks overlap.
struct BlockStrip {
    int64 plane;
    int x, y, rows;  // of the thread's band; no rows beyond the last band
    int results;     // rows that the thread writes: all or none
    int longest;     // most rows of a thread of the block
    int easy, hard;  // rows from `easy` on and before `hard` the warp makes without a border
};
struct BlockStrips {
    int64 jobs;
    int each, lanes;  // jobs of a plane; threads of a band
    int rows, beside;
    int above, below;  // rows that are read besides

    // N elements a thread, ROWS rows at a time, for which a thread reads as far as READS rows on.
    // Every thread of the block must call it.
    template <int N, int ROWS, int READS>
    __device__ __forceinline__ BlockStrip at(int64 job, const Images& images) const {
        const int64 plane = job / each;
        const int first = int(job - plane * each) * (STRIP_THREADS - 2 * beside);
        const int rank = threadIdx.x, band = (first + rank) / lanes;
        const int place = first + rank - band * lanes - beside;
        BlockStrip strip = {plane, place * N, band * rows};
        strip.rows = min(rows, images.height - strip.y);
        strip.longest = min(rows, images.height - first / lanes * rows);
        if (strip.rows <= 0) strip.x = strip.y = strip.rows = 0;
        const bool writes = rank >= beside && rank < STRIP_THREADS - beside && strip.x >= 0 &&
                            strip.x < images.row_elements();
        strip.results = writes ? strip.rows : 0;
        const bool whole = strip.x >= 0 && strip.x + N <= images.row_elements();
        const int end = min(images.height - below - READS - strip.y,
                            writes ? strip.rows / ROWS * ROWS : strip.longest);
        strip.easy = warp_largest(max(-above - below, -below - strip.y));
        strip.hard = -warp_largest(whole ? -end : above + below + ROWS);
        return strip;
    }
};

// How sums become results. Twin of the fields in gpuconv/backends/cuda/separable_strips.py.
template <typename A>
struct StripFinish {
    How how;            // Sum or Unsharp
    int amount, shift;  // Unsharp of integers: sums are in 1/2^shift, below 2^24
    A offset;           // Sum
    A real_amount;      // Unsharp of floats
};

// Twin of STRIP_PARAMS in gpuconv/backends/cuda/separable_strips.py.
template <typename A>
struct SeparableStripParams {
    Images images;
    BlockStrips strips;
    StripFinish<A> finish;
    A scale, magic;  // integers: the middle is sum * scale, rounded by adding `magic`, if any
    A column[MOST_TAPS], row[MOST_TAPS];
};

// Twin of ODD_PARAMS in gpuconv/backends/cuda/separable_strips.py.
struct SeparableOddParams {
    Images images;
    BlockStrips strips;
    StripFinish<float> finish;
    int height, width;
    float last, column[MOST_ODD - 1];  // the last tap along H; those before it, backwards
    float centre, before[MOST_ODD / 2 + 1], behind[MOST_ODD / 2 + 1];  // along W, by distance
};

// Twin of BYTES_PARAMS in gpuconv/backends/cuda/separable_strips.py.
struct SeparableBytesParams {
    Images images;
    BlockStrips strips;
    StripFinish<float> finish;
    // Sums begin with `start`: the bits of 2^23, and so much that none is negative. So they are the
    // bits of floats, and the middle is that float * scale + up, rounded if need be, - down.
    int start;
    float scale, up, down;
    // Pairs of taps from an even one on, or an odd.
    int even[MOST_BYTE_TAPS / 2], odd[MOST_BYTE_TAPS / 2];
    float row[MOST_BYTE_TAPS];
};

// Elements that lanes of a warp read for those of them that lie beside the ends of a row, or astride:
// of such a lane, ROWS rows of N elements; in shared memory.
template <typename T, int N, int ROWS>
struct Beside {
    T values[ROWS][32 * N];
    int from[ROWS][32];  // the row of the image, by lane
    int places[32 * N];  // the elements that answer, for the whole strip
};

// Reads the rows of a strip: a thread's N elements from x on. What a few instructions find again
// takes no register.
template <typename T, int N, int ROWS>
struct ThreadReader {
    const Images& images;
    const BlockStrips& strips;
    Beside<T, N, ROWS>& beside;
    const T* plane;
    int x, y;  // where the strip's results begin

    __device__ __forceinline__ ThreadReader(const T* input, const Images& images,
                                            const BlockStrips& strips, const BlockStrip& strip,
                                            Beside<T, N, ROWS>& beside)
        : images(images),
          strips(strips),
          beside(beside),
          plane(input + images.plane_offset(images.input, strip.plane)),
          x(strip.x),
          y(strip.y) {
        const int rank = rank_beside();
        if (!whole()) {
#pragma unroll 1
            for (int n = 0; n < N; ++n) beside.places[rank * N + n] = map_element(images, x + n);
        }
    }
    __device__ __forceinline__ bool whole() const {
        return x >= 0 && x + N <= images.row_elements();
    }
    // Lanes before this one whose elements lie beside.
    __device__ __forceinline__ int rank_beside() const {
        const unsigned before = (1u << threadIdx.x % 32) - 1;
        return __popc(__ballot_sync(FULL_WARP, !whole()) & before);
    }

    // The row `below` y, which lies in the image.
    __device__ __forceinline__ const T* row(int below) const {
        return plane + (y + below) * images.input.row + x;
    }
    // Rows from `below` y on, wherever they are; instead of rows that no result needs, others.
    // Every lane of a warp must call it.
    __device__ __forceinline__ void read(Words<T, N> (&rows)[ROWS], int below) const {
        const int last = min(y + strips.rows, images.height) + strips.below - 1;
        const T value = images.value.template as<T>();
        int from[ROWS] = {};
#pragma unroll 1
        for (int k = 0; k < ROWS; ++k) {  // the border's code is there once
#pragma unroll
            for (int i = 0; i + 1 < ROWS; ++i) from[i] = from[i + 1];
            from[ROWS - 1] = map_index(images.border, min(y + below + k, last), images.height);
        }
        const int count = __popc(__ballot_sync(FULL_WARP, !whole())), rank = rank_beside();
        if (count > 0) {
            if (!whole()) {
#pragma unroll
                for (int i = 0; i < ROWS; ++i) beside.from[i][rank] = from[i];
            }
            __syncwarp();
#pragma unroll 1
            for (int e = threadIdx.x % 32; e < count * N; e += 32) {
                const int place = beside.places[e];
                T values[ROWS];
#pragma unroll
                for (int i = 0; i < ROWS; ++i) {
                    const int row = beside.from[i][e / N];
                    values[i] = value;
                    if (place >= 0 && row >= 0) values[i] = plane[row * images.input.row + place];
                }
#pragma unroll
                for (int i = 0; i < ROWS; ++i) beside.values[i][e] = values[i];
            }
            __syncwarp();
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            if (!whole()) {
                rows[i] = load_words<T, N>(beside.values[i] + rank * N);
            } else if (from[i] >= 0) {
                rows[i] = load_words<T, N>(plane + from[i] * images.input.row + x);
            } else {
                Pack<T, N> pack;
#pragma unroll
                for (int n = 0; n < N; ++n) pack.values[n] = value;
                memcpy(&rows[i], &pack, sizeof pack);
            }
        }
        if (count > 0) __syncwarp();
    }
};

// A thread's part of a row of the middle, in shared memory: its pack q lies beside pack q of the
// next thread, 16 bytes apart, without bank conflicts.
template <typename A, int N>
__device__ __forceinline__ void store_middle(A* buffer, const A (&middle)[N]) {
    constexpr int P = 16 / int(sizeof(A));
#pragma unroll
    for (int q = 0; q < N / P; ++q) {
        Pack<A, P> pack;
#pragma unroll
        for (int p = 0; p < P; ++p) pack.values[p] = middle[q * P + p];
        store_pack(buffer + q * STRIP_THREADS * P, pack);
    }
}

// results += the row sums over the middle: others' elements from `buffer`, a thread's own from
// `middle` if it is given.
template <int K, int C, typename A, int N>
__device__ __forceinline__ void sum_middle(A (&results)[N], const A* middle, const A* buffer,
                                           const A* weights) {
    constexpr int P = 16 / int(sizeof(A)), Q = N / P, REACH = K / 2 * C;
#pragma unroll
    for (int k = floor_divide(-REACH, P); k <= floor_divide(N - 1 + REACH, P); ++k) {
        const int owner = floor_divide(k, Q), q = k - owner * Q;
        Pack<A, P> pack;
        if (owner != 0 || !middle)
            pack = load_pack<P>(buffer + (q * STRIP_THREADS + owner) * P);
#pragma unroll
        for (int p = 0; p < P; ++p) {
            const A value = owner == 0 && middle ? middle[q * P + p] : pack.values[p];
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const int away = k * P + p - n;
                if (away < -REACH || away > REACH || away % C != 0) continue;
                results[n] = multiply_add(weights[away / C + K / 2], value, results[n]);
            }
        }
    }
}

// pixel + amount * (pixel - sum), rounded once.
__device__ __forceinline__ float unsharp(int pixel, float sum, int amount, int shift) {
    const int bits = shift + AMOUNT_BITS;
    const int missing = (pixel << shift) - __float2int_rn(sum);
    const int64 exact = int64(pixel) * (1 << bits) + int64(missing) * amount;
    const int64 half = (int64(1) << (bits - 1)) - 1 + (exact >> bits & 1);  // to even
    return float(int((exact + half) >> bits));
}

// What is to be done to a thread's sums of row y before they are rounded. Integers' sums begin
// with the offset.
template <typename T, bool WHOLE, typename Reader, typename A, int N>
__device__ __forceinline__ void finish_sums(A (&sums)[N], const StripFinish<A>& finish,
                                            const Reader& reader, int y) {
    if ((same_type<T, uint8> || !Scalar<T>::integer) && finish.how == How::Unsharp) {
        // The row's own pixels are in the L1 cache yet.
        const T* from = reader.plane + y * reader.images.input.row + reader.x;
        Pack<T, N> own;
        if constexpr (WHOLE) {
            own = load_pack<N>(from);
        } else {
#pragma unroll
            for (int n = 0; n < N; ++n)
                own.values[n] = reader.x + n < reader.images.row_elements() ? from[n] : T(0);
        }
#pragma unroll
        for (int n = 0; n < N; ++n) {
            if constexpr (same_type<T, uint8>) {
                sums[n] = unsharp(own.values[n], sums[n], finish.amount, finish.shift);
            } else {
                const A pixel = A(widen(own.values[n]));
                sums[n] = pixel + (pixel - sums[n]) * finish.real_amount;
            }
        }
    } else if (!Scalar<T>::integer && finish.offset != A(0)) {
#pragma unroll
        for (int n = 0; n < N; ++n) sums[n] += finish.offset;
    }
}

// Blocks of a multiprocessor that there shall be registers for, where sums under way take so many
// words: fewer where compilers keep more of the rest in registers.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ / 100 == 9
constexpr int MOST_BLOCKS = 5;
template <typename A>
constexpr int WORDS_OF_THREE = sizeof(A) == 8 ? 104 : 128;
#else
constexpr int MOST_BLOCKS = 4;
template <typename A>
constexpr int WORDS_OF_THREE = 104;
#endif
template <typename A>
__device__ constexpr int blocks_with(int words) {
    const int count = words < 24 ? 5 : words <= 56 ? 4 : words <= WORDS_OF_THREE<A> ? 3 : 2;
    return count > 2 ? count + MOST_BLOCKS - 5 : 2;
}

// How rows become the middle, and the middle results. A trip makes ROWS rows, which are read PAIR at
// a time and widened PART at a time; `State` is what a thread keeps of the rows before.

// As many taps along either axis as are compiled.
template <typename T, typename A, int K, int C>
struct FixedTaps {
    using Element = T;
    using Sum = A;
    using Params = SeparableStripParams<A>;
    static constexpr int N = sizeof(A) == 4 ? 16 / int(sizeof(T)) : K <= 15 ? 4 : 2;
    static constexpr int SUMS = K - 1;
    // Doubles take the registers of more results at once, and their rows are few bytes to read.
    static constexpr int ROWS = 4, PART = 1, PAIR = sizeof(A) == 8 ? 4 : 2;
    static constexpr bool ROLLED = sizeof(A) == 8;
    static constexpr int WORDS = SUMS * N * int(sizeof(A)) / 4;
    static constexpr int BLOCKS = blocks_with<A>(WORDS);
    // Whether there are registers for a thread's own part of the middle, too, and for what may be
    // asked of sums. Twin of `room_to_ask` in gpuconv/backends/cuda/separable_strips.py.
    static constexpr bool OWN = WORDS < 104, ASKED = WORDS < 96 && !Scalar<T>::integer;
    using State = A[SUMS][N];
    using Fresh = A[N];
    const Params& params;

    __device__ __forceinline__ void turn(Fresh& fresh, const Words<T, N>* rows) const {
#pragma unroll
        for (int n = 0; n < N; ++n) fresh[n] = widen_word<A>(rows[0], n);
    }
    __device__ __forceinline__ void down(A (&middle)[N], State& sums, const Fresh& fresh) const {
#pragma unroll
        for (int n = 0; n < N; ++n) {
            A sum = multiply_add(params.column[K - 1], fresh[n], sums[0][n]);
#pragma unroll
            for (int j = 0; j < K - 2; ++j)
                sums[j][n] = multiply_add(params.column[K - 2 - j], fresh[n], sums[j + 1][n]);
            sums[K - 2][n] = params.column[0] * fresh[n];
            if constexpr (Scalar<T>::integer)
                sum = multiply_add(params.scale, sum, params.magic) - params.magic;
            middle[n] = sum;
        }
    }
    __device__ __forceinline__ void across(A (&results)[N], const A* middle,
                                           const A* buffer) const {
        sum_middle<K, C>(results, middle, buffer, params.row);
    }
};

// Any odd number of taps up to MOST_ODD along either axis, of floats. They come two by two:
// neighbours along H, the next on either side along W.
template <typename T, int C>
struct OddTaps {
    using Element = T;
    using Sum = float;
    using Params = SeparableOddParams;
    static constexpr int N = 4, SUMS = MOST_ODD - 1, ROWS = 2, PART = 1, PAIR = 1;
    static constexpr int BLOCKS = blocks_with<float>(SUMS * N);
    static constexpr bool ROLLED = false, OWN = true, ASKED = true;
    using State = float[SUMS][N];
    using Fresh = float[N];
    const Params& params;

    __device__ __forceinline__ void turn(Fresh& fresh, const Words<T, N>* rows) const {
#pragma unroll
        for (int n = 0; n < N; ++n) fresh[n] = widen_word<float>(rows[0], n);
    }
    __device__ __forceinline__ void down(float (&middle)[N], State& sums,
                                         const Fresh& fresh) const {
#pragma unroll
        for (int n = 0; n < N; ++n) middle[n] = multiply_add(params.last, fresh[n], sums[0][n]);
        // Sums that are never reached stay zero, and the last one that is begins with that.
#pragma unroll
        for (int j = 0; j < SUMS; j += 2) {
            if (j >= params.height - 1) break;
#pragma unroll
            for (int i = j; i < j + 2; ++i)
#pragma unroll
                for (int n = 0; n < N; ++n)
                    sums[i][n] = multiply_add(params.column[i], fresh[n],
                                              i + 1 < SUMS ? sums[i + 1 < SUMS ? i + 1 : i][n]
                                                           : 0.0f);
        }
    }
    __device__ __forceinline__ void across(float (&results)[N], const float* middle,
                                           const float* buffer) const {
        Pack<float, N> own;
        if (middle) {
#pragma unroll
            for (int n = 0; n < N; ++n) own.values[n] = middle[n];
        } else {
            own = load_pack<N>(buffer);
        }
        constexpr int PACKS = (MOST_ODD / 2 * C + 3) / 4;
        float left[4 * PACKS], right[4 * PACKS];  // from the nearest on
#pragma unroll
        for (int n = 0; n < N; ++n) results[n] = params.centre * own.values[n];
#pragma unroll
        for (int d = 1; d <= MOST_ODD / 2; ++d) {
            if (2 * d >= params.width) break;
#pragma unroll
            for (int k = ((d - 1) * C + 3) / 4; k < (d * C + 3) / 4; ++k) {
                const auto before = load_pack<4>(buffer - (k + 1) * 4);
                const auto behind = load_pack<4>(buffer + (k + 1) * 4);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    left[4 * k + i] = before.values[3 - i];
                    right[4 * k + i] = behind.values[i];
                }
            }
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const int back = d * C - 1 - n, ahead = d * C - N + n;
                const float before = back < 0 ? own.values[back < 0 ? n - d * C : 0]
                                              : left[back < 0 ? 0 : back];
                const float behind = ahead < 0 ? own.values[ahead < 0 ? n + d * C : 0]
                                               : right[ahead < 0 ? 0 : ahead];
                results[n] = multiply_add(params.before[d], before, results[n]);
                results[n] = multiply_add(params.behind[d], behind, results[n]);
            }
        }
    }
};

// Four rows of four bytes to four columns, whose words hold the rows from the first up.
__device__ __forceinline__ void turn_bytes(uint32* columns, uint32 a, uint32 b, uint32 c,
                                           uint32 d) {
    const uint32 ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);
    const uint32 high_ab = __byte_perm(a, b, 0x7362), high_cd = __byte_perm(c, d, 0x7362);
    columns[0] = __byte_perm(ab, cd, 0x5410);
    columns[1] = __byte_perm(ab, cd, 0x7632);
    columns[2] = __byte_perm(high_ab, high_cd, 0x5410);
    columns[3] = __byte_perm(high_ab, high_cd, 0x7632);
}

// Bytes in groups of four rows. The windows of a group of results begin EXTRA rows after the first
// row of the OLD-th group before, so that they end in the group that has just been read.
template <int K, int C>
struct ByteTaps {
    using Element = uint8;
    using Sum = float;
    using Params = SeparableBytesParams;
    static constexpr int N = 8, ROWS = 4, PART = 4, PAIR = 4, OLD = (K + 1) / 4, EXTRA = ROWS * OLD - (K - 1);
    static constexpr int BLOCKS = K < 16 ? 4 : 3;
    static constexpr bool ROLLED = K > 15, OWN = K < 13, ASKED = true;
    using State = uint32[OLD + 1][N];
    using Fresh = uint32[N];
    const Params& params;

    __device__ __forceinline__ void turn(Fresh& fresh, const Words<uint8, N>* rows) const {
#pragma unroll
        for (int w = 0; w < N / 4; ++w)
            turn_bytes(fresh + 4 * w, rows[0].words[w], rows[1].words[w], rows[2].words[w],
                       rows[3].words[w]);
    }
    __device__ __forceinline__ void push(State& columns, const Fresh& fresh) const {
#pragma unroll
        for (int old = 0; old <= OLD; ++old)
#pragma unroll
            for (int n = 0; n < N; ++n)
                columns[old][n] = old < OLD ? columns[old + 1][n] : fresh[n];
    }
    // Row i of a group.
    __device__ __forceinline__ void down(float (&middle)[N], const State& columns, int i) const {
#pragma unroll
        for (int n = 0; n < N; ++n) {
            int sum = params.start;
#pragma unroll
            for (int m = 0; m <= K / 2; ++m) {
                const int pair = m + (EXTRA + i) / 2;
                const int weights = i % 2 ? params.odd[m] : params.even[m];
                const uint32 four = columns[pair / 2][n];
                sum = pair % 2 ? dot_bytes<1>(weights, four, sum)
                               : dot_bytes<0>(weights, four, sum);
            }
            middle[n] = multiply_add(params.scale, __int_as_float(sum), params.up) - params.down;
        }
    }
    __device__ __forceinline__ void across(float (&results)[N], const float* middle,
                                           const float* buffer) const {
        sum_middle<K, C>(results, middle, buffer, params.row);
    }
};

// What sums along W begin with: integers' with the offset.
template <typename T, typename A, int N>
__device__ __forceinline__ void start(A (&results)[N], const StripFinish<A>& finish) {
#pragma unroll
    for (int n = 0; n < N; ++n) results[n] = Scalar<T>::integer ? finish.offset : A(0);
}

// A thread on its way down a strip.
template <typename Taps>
struct March {
    using T = typename Taps::Element;
    using A = typename Taps::Sum;
    static constexpr int N = Taps::N, ROWS = Taps::ROWS, PART = Taps::PART, PAIR = Taps::PAIR;
    static constexpr int ROW = N * STRIP_THREADS;  // of the middle
    static constexpr bool OWN = Taps::OWN, BYTES = same_type<T, uint8>;

    const Taps& taps;
    const BlockStrip& strip;
    const ThreadReader<T, N, PAIR>& reader;
    A* buffer;
    T* target;
    int r;                         // the row that is next
    Words<T, N> ahead[PAIR];       // rows that have been read for it
    typename Taps::State state;

    // Rows up to the strip's `hard` one. `ASKED`: what is to be done to sums besides rounding.
    template <bool ASKED>
    __device__ __forceinline__ void easy() {
        const auto& params = taps.params;
        const T* next = reader.row(r + PAIR + params.strips.below);
        T* to = target;
        const auto write = [&](A(&results)[N], int y) {
            if constexpr (ASKED) finish_sums<T, true>(results, params.finish, reader, y);
            store_words(to, round_words<T>(results));
            to += params.images.output.row;
        };
#pragma unroll 1
        for (; r < strip.hard; r += ROWS) {
            A middle[ROWS][N];
#pragma unroll
            for (int first = 0; first < ROWS; first += PAIR) {
                typename Taps::Fresh fresh[PAIR / PART];
#pragma unroll
                for (int i = 0; i < PAIR; i += PART) taps.turn(fresh[i / PART], ahead + i);
#pragma unroll
                for (int i = 0; i < PAIR; ++i) {
                    ahead[i] = load_words<T, N>(next);
                    next += params.images.input.row;
                }
                if constexpr (BYTES) {
                    taps.push(state, fresh[0]);
                } else {
#pragma unroll
                    for (int i = first; i < first + PAIR; ++i) {
                        taps.down(middle[i], state, fresh[i - first]);
                        // Early where the registers are needed, also if there are no results yet.
                        if (!OWN || r >= 0) store_middle(buffer + i * ROW, middle[i]);
                    }
                }
            }
            if (r < 0) continue;
            if constexpr (BYTES) {
#pragma unroll
                for (int i = 0; i < ROWS; ++i) {
                    taps.down(middle[i], state, i);
                    store_middle(buffer + i * ROW, middle[i]);
                }
            }
            meet();
            if (r < strip.results) {
                if constexpr (Taps::ROLLED) {
#pragma unroll 1
                    for (int i = 0; i < ROWS; ++i) {
                        A results[N];
                        start<T>(results, params.finish);
                        taps.across(results, nullptr, buffer + i * ROW);
                        write(results, reader.y + r + i);
                    }
                } else {
#pragma unroll
                    for (int first = 0; first < ROWS; first += PAIR) {
                        A results[PAIR][N];
#pragma unroll
                        for (int i = 0; i < PAIR; ++i) {
                            start<T>(results[i], params.finish);
                            taps.across(results[i], OWN ? middle[first + i] : nullptr,
                                        buffer + (first + i) * ROW);
                        }
#pragma unroll
                        for (int i = 0; i < PAIR; ++i) write(results[i], reader.y + r + first + i);
                    }
                }
            }
            meet();
        }
        target = to;
    }

    // ROWS rows anywhere. Before the first that are needed, no more than what brings them.
    __device__ __forceinline__ void any() {
        const auto& params = taps.params;
        const bool before = r < -params.strips.above - params.strips.below;
#pragma unroll 1
        for (int i = before ? ROWS - PAIR : 0; i < ROWS; i += PAIR) {
            typename Taps::Fresh fresh;
            if constexpr (BYTES) {
                taps.turn(fresh, ahead);
                taps.push(state, fresh);
            }
            if (!before) {
#pragma unroll
                for (int k = 0; k < PAIR; ++k) {
                    A middle[N];
                    if constexpr (BYTES) {
                        taps.down(middle, state, k);
                    } else {
                        taps.turn(fresh, ahead + k);
                        taps.down(middle, state, fresh);
                    }
                    store_middle(buffer + (i + k) * ROW, middle);
                }
            }
            reader.read(ahead, r + i + PAIR + params.strips.below);
        }
        if (r >= 0) {
            meet();
#pragma unroll 1
            for (int i = 0; i < min(ROWS, strip.results - r); ++i) {
                A results[N];
                start<T>(results, params.finish);
                taps.across(results, nullptr, buffer + i * ROW);
                if constexpr (Taps::ASKED)
                    finish_sums<T, false>(results, params.finish, reader, reader.y + r + i);
                store_words(target, round_words<T>(results),
                            params.images.row_elements() - reader.x);
                target += params.images.output.row;
            }
            meet();
        }
        r += ROWS;
    }
};

// The strips of a block. Every thread of it must call it. Its warps go their own way and meet twice
// for ROWS rows.
template <typename Taps>
__device__ __forceinline__ void march(const typename Taps::Element* input,
                                      typename Taps::Element* output, const Taps& taps) {
    using T = typename Taps::Element;
    using A = typename Taps::Sum;
    constexpr int N = Taps::N, ROWS = Taps::ROWS, PAIR = Taps::PAIR, P = 16 / int(sizeof(A));
    SHARED_ARRAY(A, buffers, [ROWS][N / P][STRIP_THREADS][P]);
    using Beside = Beside<T, N, PAIR>;
    SHARED_ARRAY(Beside, beside, [STRIP_WARPS]);
    const auto& params = taps.params;
    const Images& images = params.images;
    // Nothing is done besides to sums on their way to results.
    const bool plain =
        params.finish.how == How::Sum && (Scalar<T>::integer || params.finish.offset == A(0));
    for (int64 job = blockIdx.x; job < params.strips.jobs; job += gridDim.x) {
        const auto strip = params.strips.template at<N, ROWS, ROWS + PAIR>(job, images);
        T* target = output + images.plane_offset(images.output, strip.plane) +
                    strip.y * images.output.row + strip.x;
        const ThreadReader<T, N, PAIR> reader(input, images, params.strips, strip,
                                              beside[threadIdx.x / 32]);
        March<Taps> march = {taps, strip, reader, buffers[0][0][threadIdx.x], target,
                             -params.strips.above - params.strips.below - ROWS};
#pragma unroll 1
        while (march.r < strip.longest) {
            if (march.r < strip.easy || march.r >= strip.hard) {
                march.any();
            } else if (plain || !Taps::ASKED) {
                march.template easy<false>();
            } else if constexpr (Taps::ASKED) {
                march.template easy<true>();
            }
        }
    }
}

template <typename T, typename A, int K, int C>
__global__ void __launch_bounds__(STRIP_THREADS, FixedTaps<T, A, K, C>::BLOCKS)
    separable_strip(const T* input, T* output, const SeparableStripParams<A> params) {
    march(input, output, FixedTaps<T, A, K, C>{params});
}

template <typename T, int C>
__global__ void __launch_bounds__(STRIP_THREADS, OddTaps<T, C>::BLOCKS)
    separable_odd(const T* input, T* output, const SeparableOddParams params) {
    march(input, output, OddTaps<T, C>{params});
}

template <int K, int C>
__global__ void __launch_bounds__(STRIP_THREADS, ByteTaps<K, C>::BLOCKS)
    separable_bytes(const uint8* input, uint8* output, const SeparableBytesParams params) {
    march(input, output, ByteTaps<K, C>{params});
}
