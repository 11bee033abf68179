// Weighted sums over a window of an image, as gpuconv/backends/numpy/linear.py has them.
//
//   dense_any     any kernel, any channels: weights come from shared memory, a thread marches down
//                 the input rows of its outputs and meets each pixel once
//   dense_small   3x3, 5x5 and 7x7 over one channel: the same march, unrolled, with the weights
//                 among the parameters; for rows that do not begin at multiples of 16 bytes
//   dense_strip   the same sizes over up to 4 interleaved channels, and up to 15x15 over one,
//                 where rows do: a warp marches down a strip (see common/strip.cuh), all that it
//                 keeps lies in registers
//
// For the first two a block takes a tile of one plane; the tile with its halo lies in shared
// memory, for dense_any in chunks of kernel rows and of entries (see common/linear.cuh) where it is
// large.
// All add the products of a window in the same order.
#include "common/linear.cuh"
#include "common/strip.cuh"

// sums += one entry of the kernel rows that a line of pixels meets. `weights` are those of kernel
// row `line`, which is met by the first row of outputs; WHOLE: all elements of the entry are taps.
template <typename A, int STENCILS, bool WHOLE>
__device__ __forceinline__ void add_entry(Sums<A, STENCILS>& sums, const A* values, int place,
                                          const Weight<A>* weights, int line, int height,
                                          int stencil_step, int row_step) {
    constexpr int Q = PACK<A>, R = ROWS_EACH<A>;
#pragma unroll
    for (int r = 0; r < R; ++r) {
        if (line < r || line - r >= height) continue;
#pragma unroll
        for (int s = 0; s < STENCILS; ++s) {
            const auto taps = load_pack<Q>(weights + s * stencil_step - r * row_step);
#pragma unroll
            for (int u = 0; u < Q; ++u) {
                if (!WHOLE && !(place >> u & 1)) continue;
#pragma unroll
                for (int q = 0; q < Q; ++q)
                    sums[s][r][q] = multiply_add(taps.values[u], values[q + u], sums[s][r][q]);
            }
        }
    }
}

// sums += `height` kernel rows × `entries` from the tile's `rows` on.
template <typename A, int STENCILS, typename T>
__device__ __forceinline__ void add_chunk(Sums<A, STENCILS>& sums, RowSums<A>& totals,
                                          const T* rows, const Weight<A>* weights,
                                          const int* places, int height, int entries, int first_row,
                                          const LinearParams& params) {
    constexpr int Q = PACK<A>, R = ROWS_EACH<A>;
    constexpr bool FLOATS = !Scalar<T>::integer;
    constexpr int WHOLE_ENTRY = (1 << Q) - 1;
    const int row_step = params.chunk_entries * Q, stencil_step = params.chunk_height * row_step;
#pragma unroll 1
    for (int line = 0; line < R + height - 1; ++line) {
        const T* pixels = rows + line * params.pitch;
        const Weight<A>* line_weights = weights + line * row_step;
        A values[2 * Q];
        int next = -1, until = params.flush_entries;
#pragma unroll 1
        for (int e = 0; e < entries; ++e) {
            const int place = places[e], pack = pack_of(place) - pack_of(places[0]);
            if (pack == next) {
#pragma unroll
                for (int q = 0; q < Q; ++q) values[q] = values[Q + q];
            } else {
                load_values(values, pixels + pack * Q);
            }
            next = pack + 1;
            load_values(values + Q, pixels + next * Q);
            // Integers are exact in any order, and may have taps of weight 0 beside the kernel's
            // own; of floats 0 * Inf would count.
            if (!FLOATS || (place & WHOLE_ENTRY) == WHOLE_ENTRY) {
                add_entry<A, STENCILS, true>(sums, values, place, line_weights + e * Q, line,
                                             height, stencil_step, row_step);
            } else {
                add_entry<A, STENCILS, false>(sums, values, place, line_weights + e * Q, line,
                                              height, stencil_step, row_step);
            }
            if (FLOATS && --until == 0) {
                flush<A>(totals, sums[0]);
                until = params.flush_entries;
            }
        }
        if (FLOATS && params.flush_height) {
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const int i = line - r;
                if (i >= 0 && i < height && (first_row + i + 1) % params.flush_height == 0)
                    flush<A>(totals[r], sums[0][r]);
            }
        }
    }
}

template <typename T, typename A, typename In, typename Out, int STENCILS>
__global__ void __launch_bounds__(THREADS, BLOCKS_EACH<T, A>)
    dense_any(const Memory<In>* input, Memory<Out>* output, const Weight<A>* weights,
              const int* places, const LinearParams params) {
    constexpr int Q = PACK<A>, R = ROWS_EACH<A>;
    static_assert(Scalar<T>::integer || STENCILS == 1, "float gradients are separable");
    DYNAMIC_SHARED(unsigned char, shared);
    Weight<A>* some_weights = reinterpret_cast<Weight<A>*>(shared);
    int* some_places = reinterpret_cast<int*>(shared + params.places_at);
    T* tile = reinterpret_cast<T*>(shared + params.tile_at);
    const int lane = threadIdx.x, warp = threadIdx.y;
    for (int64 job = blockIdx.x; job < params.tiling.jobs; job += gridDim.x) {
        const Tile place = params.tiling.at(job, ROWS<A>, COLUMNS<A>);
        Sums<A, STENCILS> sums;
        RowSums<A> totals;
        clear<A>(totals);
#pragma unroll
        for (int s = 0; s < STENCILS; ++s) clear<A>(sums[s]);
        for (int j = 0; j < params.entries; j += params.chunk_entries) {
            const int entries = min(params.chunk_entries, params.entries - j);
            const int first = pack_of(places[j]), last = pack_of(places[j + entries - 1]);
            const int x = place.x + (params.left + first) * Q, lead = lead_in<T>(x);
            for (int i = 0; i < params.height; i += params.chunk_height) {
                const int height = min(params.chunk_height, params.height - i);
                copy_numbers(some_places, places + j, entries);
                for (int s = 0; s < STENCILS; ++s)
                    for (int k = warp; k < height; k += WARPS) {
                        const int64 from = int64(s) * params.height + i + k;
                        const int to = s * params.chunk_height + k;
                        for (int n = lane; n < entries * Q; n += 32)
                            some_weights[to * params.chunk_entries * Q + n] =
                                weights[(from * params.entries + j) * Q + n];
                    }
                load_tile(tile, params.pitch, ROWS<A> + height - 1,
                           lead + COLUMNS<A> + (last - first + 1) * Q, input, params.images,
                           place.plane, place.y - params.top + i, x - lead);
                __syncthreads();
                add_chunk<A, STENCILS>(sums, totals,
                                       tile + warp * R * params.pitch + lead + lane * Q,
                                       some_weights, some_places, height, entries, i, params);
                __syncthreads();  // the next chunk overwrites this one
            }
        }
        if constexpr (!Scalar<T>::integer) {
            flush<A>(totals, sums[0]);
            flush<A>(sums[0], totals);
        }
        finish_tile<T, A, STENCILS>(sums, shared, input, output, params.images, params.finish,
                                    place);
        __syncthreads();  // the next job overwrites what a warp may still be finishing
    }
}

// Twins of the constants in gpuconv/backends/cuda/linear.py.
constexpr int SMALL_ROWS_EACH = 8, MOST_SMALL = 7;

// Twin of SMALL in gpuconv/backends/cuda/linear.py.
struct SmallParams {
    Images images;
    Tiling tiling;
    Finish finish;
    int top, pitch;
    float weights[MOST_SMALL * MOST_SMALL];
};

template <typename T, int K>
__global__ void __launch_bounds__(THREADS, 3)
    dense_small(const T* input, T* output, const SmallParams params) {
    constexpr int Q = PACK<float>, R = SMALL_ROWS_EACH;
    // The window begins SHIFT elements after a multiple of a pack, and meets PACKS of them.
    constexpr int SHIFT = (Q - K / 2 % Q) % Q, PACKS = (SHIFT + K + 2 * Q - 2) / Q;
    DYNAMIC_SHARED(T, tile);
    const Images& images = params.images;
    const int lane = threadIdx.x, warp = threadIdx.y;
    for (int64 job = blockIdx.x; job < params.tiling.jobs; job += gridDim.x) {
        const Tile place = params.tiling.at(job, WARPS * R, COLUMNS<float>);
        const int left = place.x - K / 2 - SHIFT, lead = lead_in<T>(left);
        load_tile(tile, params.pitch, WARPS * R + K - 1, lead + (31 + PACKS) * Q, input, images,
                   place.plane, place.y - params.top, left - lead);
        __syncthreads();
        const T* pixels = tile + warp * R * params.pitch + lead + lane * Q;
        const int y = place.y + warp * R, x = place.x + lane * Q;
        T* target = output + images.plane_offset(images.output, place.plane) +
                    y * images.output.row + x;
        float sums[R][Q];
#pragma unroll
        for (int line = 0; line < R + K - 1; ++line) {
            float values[PACKS * Q];
#pragma unroll
            for (int p = 0; p < PACKS; ++p)
                load_values(values + p * Q, pixels + line * params.pitch + p * Q);
#pragma unroll
            for (int i = 0; i < K; ++i) {
                const int r = line - i;
                if (r < 0 || r >= R) continue;
#pragma unroll
                for (int j = 0; j < K; ++j)
#pragma unroll
                    for (int q = 0; q < Q; ++q)
                        sums[r][q] = multiply_add(params.weights[i * K + j], values[SHIFT + j + q],
                                                  i + j ? sums[r][q] : 0.0f);
            }
            const int r = line - (K - 1);
            if (r >= 0 && y + r < images.height) {
                Pack<T, Q> results;
#pragma unroll
                for (int q = 0; q < Q; ++q)
                    results.values[q] = rounded_sum<T>(sums[r][q], params.finish);
                write_pack(target + r * images.output.row, results, images.row_elements() - x);
            }
        }
        __syncthreads();  // the next tile overwrites this one
    }
}

// What a lane of dense_strip does. A trip of its loop is a row: N elements of it, converted once
// with their neighbours, join the sums of K rows of outputs, one of which is then complete.
//
// An output takes K * K FFMA, of which a multiprocessor of sm_90 does 128 a clock, as it issues 128
// instructions of any kind; a copy moves 8.2 bytes a clock into it and as many out. So 3x3 of bytes
// (13.3 instructions an output) is at 117 % of a copy's speed, 5x5 of float16 (31.4) at 99 %, 7x7
// of float (59.5) at 104 %; beyond, the FMA pipe is the limit: 82 % of all instructions at 15x15.
//
//   N         elements of a lane: 16 bytes, fewer where their sums would take too many registers
//   AHEAD     rows asked for before they are needed: 10 KB under way hide the memory's latency
//   BLOCKS    that a multiprocessor shall have registers for
template <typename T, typename A, int K, int C>
struct StripShape {
    static constexpr int WIDE = 16 / int(sizeof(T));
    static constexpr int MOST = K > 11 || (K > 7 && sizeof(A) == 8) ? 4
                                : K > 5 || (K == 5 && C > 1)        ? 8
                                                                    : 16;
    static constexpr int N = WIDE < MOST ? WIDE : MOST;
    static constexpr int AHEAD = K < 7 || (K == 7 && sizeof(T) != 2) ? 2 : 1;
    static constexpr int BLOCKS = sizeof(T) == 1 && K == 3 ? 4 : sizeof(A) == 8 ? 2 : 3;
};

constexpr int STRIP_WARPS = 4;  // twin of WARPS in gpuconv/backends/cuda/strips.py

// Twin of `params` in gpuconv/backends/cuda/dense_strips.py. Integers: the weights carry the scale,
// and sums begin with the offset; floats: it is added at the end.
template <typename A, int K>
struct StripParams {
    Images images;
    LaneStrips strips;
    A offset;
    A weights[K * K];
};

template <typename T, typename A, int K, int C, bool INSIDE>
__device__ __forceinline__ void filter_strip(const T* input, T* output, const LaneStrip& strip,
                                             const StripParams<A, K>& params) {
    using Shape = StripShape<T, A, K, C>;
    constexpr int N = Shape::N, AHEAD = Shape::AHEAD, REACH = K / 2 * C;
    using Reader = LaneReader<T, N, REACH, INSIDE>;
    const Images& images = params.images;
    const int x = strip.x, longest = INSIDE ? strip.rows : strip.longest;
    const int top = strip.y - params.strips.above;
    Reader reader(input, images, strip.plane, x, top, top + strip.rows + K - 2);
    T* target = output + images.plane_offset(images.output, strip.plane) +
                (strip.y - (K - 1)) * images.output.row + x;
    typename Reader::Row rows[AHEAD];
#pragma unroll
    for (int a = 0; a < AHEAD; ++a) rows[a] = reader.request();
    A sums[K - 1][N];  // of the outputs that need more rows, the one that needs most first
#pragma unroll
    for (int i = 0; i < K - 1; ++i)
#pragma unroll
        for (int q = 0; q < N; ++q) sums[i][q] = A(0);
#pragma unroll (INSIDE && sizeof(A) == 4 && K < 9 ? 2 : 1)
    for (int y = 1 - K; y < longest; ++y) {
        typename Reader::Row row = rows[0];
#pragma unroll
        for (int a = 0; a + 1 < AHEAD; ++a) rows[a] = rows[a + 1];
        rows[AHEAD - 1] = reader.request();
        reader.complete(row);
        A values[N + 2 * REACH];
        Reader::widen(values, row);
        A results[N];
        // Each sum takes the place of the one before it: nothing is moved.
#pragma unroll
        for (int i = K - 1; i >= 0; --i)
#pragma unroll
            for (int q = 0; q < N; ++q) {
                A sum = i ? sums[i - 1][q] : Scalar<T>::integer ? params.offset : A(0);
#pragma unroll
                for (int j = 0; j < K; ++j)
                    sum = multiply_add(params.weights[i * K + j], values[q + j * C], sum);
                if (i == K - 1) {
                    results[q] = Scalar<T>::integer ? sum : sum + params.offset;
                } else {
                    sums[i][q] = sum;
                }
            }
        if (uint32(y) < uint32(strip.rows))
            store_words(target, round_words<T>(results),
                        INSIDE ? N : images.row_elements() - x);
        target += images.output.row;
    }
}

template <typename T, typename A, int K, int C>
__global__ void __launch_bounds__(32 * STRIP_WARPS, StripShape<T, A, K, C>::BLOCKS)
    dense_strip(const T* input, T* output, const StripParams<A, K> params) {
    const int64 step = int64(gridDim.x) * STRIP_WARPS;
    for (int64 job = int64(blockIdx.x) * STRIP_WARPS + threadIdx.y; job < params.strips.jobs;
         job += step) {
        const LaneStrip strip = params.strips.at(job, params.images);
        if (strip.inside) {
            filter_strip<T, A, K, C, true>(input, output, strip, params);
        } else {
            filter_strip<T, A, K, C, false>(input, output, strip, params);
        }
    }
}
