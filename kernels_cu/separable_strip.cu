// Weighted sums of rank 1 over images, by strips: one read, one write, and between them nothing but
// registers and two rows, or groups of rows, of shared memory.
//
//   separable_strip   a column and a row of K taps each, C interleaved channels
//   separable_odd     floats, of any odd numbers of taps up to 31, told when it is launched
//   separable_bytes   uint8
//
// A block marches down a strip; a thread owns N neighbouring elements of a row. Sums along H are the
// middle, whose rows go by way of shared memory to the threads on either side, which sum them along
// W. Two buffers in turn, also from one strip to the next, need one barrier a row or group.
//
// separable_strip, separable_odd: each row read joins the K - 1 column sums that are under way.
// Sum j of a thread waits for j + 1 more rows,
//
//   sum[j] = sum[j + 1] + column[K - 2 - j] * row
//
// so that no register changes its meaning, and the loop over rows needs no unrolling. 2K of about
// 2K + 8 (float16) or 2K + 18 (float) instructions an output are FMAs, and sm_90 issues 128 lanes a
// clock: float16 of 15 taps stops at 3.3 outputs a clock and multiprocessor, float of 31 at 1.6;
// a copy makes 4.1 and 2.1. uint16 is summed in double, 64 lanes a clock: 7 taps stop at 3.8.
//
// separable_bytes: rows come in groups of four, turned so that a word holds four pixels of a
// column. IDP.2A multiplies two of them by weights of 16 bits, exactly: (K + 1) / 2 instructions
// instead of K and a conversion. With K FMAs along W, 2 for rounding the middle and half an F2IP:
// 12, 19 and 32 instructions an output for 3, 7 and 15 taps, which stop at 10, 6.7 and 4.0 outputs
// a clock and multiprocessor; a copy makes 8.2.
#include "common/linear.cuh"
#include "common/strip.cuh"

constexpr int MOST_TAPS = 32, MOST_BYTE_TAPS = 42, MOST_ODD = 31;

// Of a block: few enough that a strip seldom reaches far beyond a row's end, and many enough that
// the elements read on either side are few beside its own.
constexpr int STRIP_WARPS = 4, STRIP_THREADS = 32 * STRIP_WARPS;

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
    Strips strips;
    StripFinish<A> finish;
    A scale, magic;  // integers: the middle is sum * scale, rounded by adding `magic`, if any
    A column[MOST_TAPS], row[MOST_TAPS];
};

// Twin of ODD_PARAMS in gpuconv/backends/cuda/separable_strips.py.
struct SeparableOddParams {
    Images images;
    Strips strips;
    StripFinish<float> finish;
    int height, width;
    float last, column[MOST_ODD - 1];  // the last tap along H; those before it, backwards
    float centre, before[MOST_ODD / 2 + 1], behind[MOST_ODD / 2 + 1];  // along W, by distance
};

// Twin of BYTES_PARAMS in gpuconv/backends/cuda/separable_strips.py.
struct SeparableBytesParams {
    Images images;
    Strips strips;
    StripFinish<float> finish;
    // Sums begin with `start`: the bits of 2^23, and so much that none is negative. So they are the
    // bits of floats, and the middle is that float * scale + up, rounded if need be, - down.
    int start;
    float scale, up, down;
    // Pairs of taps from an even one on, or an odd.
    int even[MOST_BYTE_TAPS / 2], odd[MOST_BYTE_TAPS / 2];
    float row[MOST_BYTE_TAPS];
};

__device__ constexpr int round_up(int value, int unit) {
    return (value + unit - 1) / unit * unit;
}
__device__ constexpr int floor_divide(int value, int unit) {
    return value < 0 ? -((unit - 1 - value) / unit) : value / unit;
}

// Reads the rows of a strip in turn, from `first` on: a thread's N elements from x on. Where they
// straddle an edge or lie outside, `places` keeps for the whole strip which elements answer.
template <typename T, int N>
struct ThreadReader {
    const Images& images;
    const T *plane, *next;
    int* places;
    int x, y, last;
    bool inside, whole, idle;

    __device__ __forceinline__ ThreadReader(const T* input, const Images& all, const Strip& strip,
                                            int first, int rows, int x, int halo, int* places)
        : images(all),
          plane(input + all.plane_offset(all.input, strip.plane)),
          next(plane + first * all.input.row + x),
          places(places),
          x(x),
          y(first),
          last(first + rows - 1),
          inside(strip.inside),
          whole(x >= 0 && x + N <= all.row_elements()),
          idle(x >= all.row_elements() + halo) {
        if (!whole && !idle) {
#pragma unroll 1
            for (int n = 0; n < N; ++n) places[n * STRIP_THREADS] = map_element(images, x + n);
        }
    }

    // The next rows, or the last once more. Every lane must call it.
    template <int COUNT>
    __device__ __forceinline__ void read(Words<T, N> (&rows)[COUNT]) {
        static_assert((COUNT & (COUNT - 1)) == 0, "a power of two");
        if (inside) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                rows[i] = load_words<T, N>(next);
                next += images.input.row;
            }
        } else {
            // Each lane asks the border about one row.
            const int wanted = min(y + int(threadIdx.x % COUNT), last);
            const int answer = map_index(images.border, wanted, images.height);
            y += COUNT;
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                const int from = COUNT == 1 ? answer : __shfl_sync(FULL_WARP, answer, i);
                if (!idle) rows[i] = read_row(from);
            }
        }
    }

    __device__ __forceinline__ Words<T, N> read_row(int from) const {
        const T* row = plane + from * images.input.row;
        if (from >= 0 && whole) return load_words<T, N>(row + x);
        const T value = images.value.template as<T>();
        Pack<T, N> pack;
#pragma unroll
        for (int n = 0; n < N; ++n) {
            const int place = from < 0 || whole ? -1 : places[n * STRIP_THREADS];
            pack.values[n] = place < 0 ? value : row[place];
        }
        Words<T, N> words;
        memcpy(&words, &pack, sizeof words);
        return words;
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

// A thread's results of row y from their sums. Integers' sums begin with the offset.
template <typename T, typename A, int N>
__device__ __forceinline__ Words<T, N> finish_row(A (&sums)[N], const StripFinish<A>& finish,
                                                  const ThreadReader<T, N>& reader, int y) {
    if ((same_type<T, uint8> || !Scalar<T>::integer) && finish.how == How::Unsharp) {
        // The row's own pixels are in the L1 cache yet.
        const T* from = reader.plane + y * reader.images.input.row + reader.x;
        Words<T, N> own = {};
        if (reader.whole) {
            own = load_words<T, N>(from);
        } else {
            Pack<T, N> pack;
#pragma unroll
            for (int n = 0; n < N; ++n)
                pack.values[n] = reader.x + n < reader.images.row_elements() ? from[n] : T(0);
            memcpy(&own, &pack, sizeof own);
        }
#pragma unroll
        for (int n = 0; n < N; ++n) {
            if constexpr (same_type<T, uint8>) {
                sums[n] = unsharp(own[n], sums[n], finish.amount, finish.shift);
            } else {
                const A pixel = widen_word<A>(own, n);
                sums[n] = pixel + (pixel - sums[n]) * finish.real_amount;
            }
        }
    } else if (!Scalar<T>::integer && finish.offset != A(0)) {
#pragma unroll
        for (int n = 0; n < N; ++n) sums[n] += finish.offset;
    }
    return round_words<T>(sums);
}

// Words of sums that leave room in the registers of three blocks.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int WORDS_OF_THREE = 104;  // more of the rest is kept in registers
#else
constexpr int WORDS_OF_THREE = 128;
#endif

// How rows become the middle, and the middle results; `sums` are those along H under way.

// As many taps along either axis as are compiled.
template <typename T, typename A, int K, int C>
struct FixedTaps {
    using Element = T;
    using Sum = A;
    using Params = SeparableStripParams<A>;
    static constexpr int N = sizeof(A) == 8 ? 4 : 16 / int(sizeof(T)), SUMS = K - 1;
    // Blocks of a multiprocessor that there shall be registers for: the sums under way take most.
    static constexpr int WORDS = SUMS * N * int(sizeof(A)) / 4;
    static constexpr int AHEAD = 2;  // rows that are read before they are needed
    static constexpr int BLOCKS =
        WORDS <= 24 ? 5 : WORDS <= 56 ? 4 : WORDS <= WORDS_OF_THREE ? 3 : 2;
    const Params& params;

    __device__ __forceinline__ int height() const { return K; }
    __device__ __forceinline__ int halo() const { return round_up(K / 2 * C, N); }
    __device__ __forceinline__ void down(A (&middle)[N], A (&sums)[SUMS][N],
                                         const A (&fresh)[N]) const {
#pragma unroll
        for (int n = 0; n < N; ++n) {
            middle[n] = multiply_add(params.column[K - 1], fresh[n], sums[0][n]);
#pragma unroll
            for (int j = 0; j < K - 2; ++j)
                sums[j][n] = multiply_add(params.column[K - 2 - j], fresh[n], sums[j + 1][n]);
            sums[K - 2][n] = params.column[0] * fresh[n];
            if constexpr (Scalar<T>::integer)
                middle[n] = multiply_add(params.scale, middle[n], params.magic) - params.magic;
        }
    }
    __device__ __forceinline__ void across(A (&results)[N], const A (&middle)[N],
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
    static constexpr int N = 4, SUMS = MOST_ODD - 1, AHEAD = 1, BLOCKS = 3;
    const Params& params;

    __device__ __forceinline__ int height() const { return params.height; }
    __device__ __forceinline__ int halo() const { return params.strips.before; }
    __device__ __forceinline__ void down(float (&middle)[N], float (&sums)[SUMS][N],
                                         const float (&fresh)[N]) const {
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
    __device__ __forceinline__ void across(float (&results)[N], const float (&middle)[N],
                                           const float* buffer) const {
        constexpr int PACKS = (MOST_ODD / 2 * C + 3) / 4;
        float left[4 * PACKS], right[4 * PACKS];  // from the nearest on
#pragma unroll
        for (int n = 0; n < N; ++n) results[n] = params.centre * middle[n];
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
                const float before = back < 0 ? middle[back < 0 ? n - d * C : 0]
                                              : left[back < 0 ? 0 : back];
                const float behind = ahead < 0 ? middle[ahead < 0 ? n + d * C : 0]
                                               : right[ahead < 0 ? 0 : ahead];
                results[n] = multiply_add(params.before[d], before, results[n]);
                results[n] = multiply_add(params.behind[d], behind, results[n]);
            }
        }
    }
};

// The strips of a block, row by row. Every thread of it must call it.
template <typename Taps>
__device__ __forceinline__ void march(const typename Taps::Element* input,
                                      typename Taps::Element* output, const Taps& taps) {
    using T = typename Taps::Element;
    using A = typename Taps::Sum;
    constexpr int N = Taps::N, AHEAD = Taps::AHEAD, P = 16 / int(sizeof(A));
    SHARED_ARRAY(A, buffers, [2][N / P][STRIP_THREADS][P]);
    SHARED_ARRAY(int, places, [N][STRIP_THREADS]);
    const auto& params = taps.params;
    const Images& images = params.images;
    const int rank = threadIdx.x, halo = taps.halo(), height = taps.height();
    A* buffer = buffers[0][0][rank];
    A* other = buffers[1][0][rank];
    for (int64 job = blockIdx.x; job < params.strips.jobs; job += gridDim.x) {
        const Strip strip = params.strips.at(job, images);
        const int x = strip.x - halo + rank * N, reads = strip.rows + height - 1;
        const bool writes = rank * N >= halo && rank * N < STRIP_THREADS * N - halo &&
                            x < images.row_elements();
        T* target = output + images.plane_offset(images.output, strip.plane) +
                    strip.y * images.output.row + x;
        ThreadReader<T, N> reader(input, images, strip, strip.y - height / 2, reads, x, halo,
                                  places[0] + rank);
        Words<T, N> ahead[AHEAD] = {}, latest[1] = {};
        A sums[Taps::SUMS][N];
#pragma unroll
        for (int j = 0; j < Taps::SUMS; ++j)
#pragma unroll
            for (int n = 0; n < N; ++n) sums[j][n] = A(0);
        // It begins with rows of zeros, while the first are read.
#pragma unroll 1
        for (int r = -AHEAD; r < reads; ++r) {
            A fresh[N], middle[N];
#pragma unroll
            for (int n = 0; n < N; ++n) fresh[n] = widen_word<A>(ahead[0], n);
#pragma unroll
            for (int i = 0; i < AHEAD - 1; ++i) ahead[i] = ahead[i + 1];
            if (r + AHEAD < reads) reader.read(latest);
            ahead[AHEAD - 1] = latest[0];
            if (!reader.idle) {
                taps.down(middle, sums, fresh);
                if (r >= height - 1) store_middle(buffer, middle);
            }
            if (r < height - 1) continue;
            __syncthreads();
            if (writes) {
                A results[N];
#pragma unroll
                for (int n = 0; n < N; ++n)
                    results[n] = Scalar<T>::integer ? params.finish.offset : A(0);
                taps.across(results, middle, buffer);
                const auto words =
                    finish_row(results, params.finish, reader, strip.y + r - (height - 1));
                store_words(target, words, images.row_elements() - x);
            }
            target += images.output.row;
            A* const used = buffer;
            buffer = other;
            other = used;
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

// Rows are read in groups of four. The windows of a group of results begin EXTRA rows after the
// first row of the OLD-th group before, so that they end in the group that has just been read.
template <int K, int C>
__global__ void __launch_bounds__(STRIP_THREADS, K < 16 ? 4 : 3)
    separable_bytes(const uint8* input, uint8* output, const SeparableBytesParams params) {
    constexpr int N = 8, P = 4, GROUP = 4, OLD = (K + 1) / 4, EXTRA = GROUP * OLD - (K - 1);
    constexpr int HALO = round_up(K / 2 * C, N);
    constexpr bool ROLLED = K > 15;  // the rows of a group in a loop: less code
    SHARED_ARRAY(float, buffers, [2][GROUP][N / P][STRIP_THREADS][P]);
    SHARED_ARRAY(int, places, [N][STRIP_THREADS]);
    const Images& images = params.images;
    const int rank = threadIdx.x;
    float* buffer = buffers[0][0][0][rank];
    float* other = buffers[1][0][0][rank];
    for (int64 job = blockIdx.x; job < params.strips.jobs; job += gridDim.x) {
        const Strip strip = params.strips.at(job, images);
        const int x = strip.x - HALO + rank * N;
        const bool writes = rank * N >= HALO && rank * N < STRIP_THREADS * N - HALO &&
                            x < images.row_elements();
        uint8* target = output + images.plane_offset(images.output, strip.plane) +
                        strip.y * images.output.row + x;
        ThreadReader<uint8, N> reader(input, images, strip, strip.y - K / 2 - EXTRA,
                                      strip.rows + K - 1 + EXTRA, x, HALO, places[0] + rank);
        Words<uint8, N> ahead[GROUP] = {};
        uint32 columns[OLD + 1][N] = {};
        // It begins with a group of zeros, while the first is read.
#pragma unroll 1
        for (int y = -GROUP * (OLD + 1); y < strip.rows; y += GROUP) {
#pragma unroll
            for (int w = 0; w < N / 4; ++w)
                turn_bytes(columns[OLD] + 4 * w, ahead[0].words[w], ahead[1].words[w],
                           ahead[2].words[w], ahead[3].words[w]);
            if (y + GROUP < strip.rows) reader.read(ahead);
            float middle[GROUP][N];
            if (y >= 0 && !reader.idle) {
#pragma unroll
                for (int i = 0; i < GROUP; ++i) {
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
                        middle[i][n] = multiply_add(params.scale, __int_as_float(sum), params.up) -
                                       params.down;
                    }
                    store_middle(buffer + i * N * STRIP_THREADS, middle[i]);
                }
            }
#pragma unroll
            for (int old = 0; old < OLD; ++old)
#pragma unroll
                for (int n = 0; n < N; ++n) columns[old][n] = columns[old + 1][n];
            if (y < 0) continue;
            __syncthreads();
            if (writes) {
#pragma unroll(ROLLED ? 1 : GROUP)
                for (int i = 0; i < GROUP; ++i) {
                    if (y + i < strip.rows) {
                        float results[N];
#pragma unroll
                        for (int n = 0; n < N; ++n) results[n] = params.finish.offset;
                        sum_middle<K, C>(results, ROLLED ? nullptr : middle[i],
                                         buffer + i * N * STRIP_THREADS, params.row);
                        const auto words =
                            finish_row(results, params.finish, reader, strip.y + y + i);
                        store_words(target + i * images.output.row, words,
                                    images.row_elements() - x);
                    }
                }
            }
            target += GROUP * images.output.row;
            float* const used = buffer;
            buffer = other;
            other = used;
        }
    }
}
