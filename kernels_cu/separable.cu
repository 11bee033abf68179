// Weighted sums of rank 1 over images: along H, then along W, with one read and one write.
//
//   separable_any   any column and row, any channels; two stencils from one tile for magnitudes
//
// A block takes a tile of ROWS × COLUMNS elements of one plane. The tile with its halo lies in
// shared memory; its column sums, in fixed point for integers, are the middle; rows are summed
// from there. Long columns come in chunks of kernel rows, whose sums meet in the middle; long rows
// in chunks of entries (see common/linear.cuh), each with a middle of its own.
#include "common/linear.cuh"

// Output rows that a thread sums along a column at once.
template <typename A>
constexpr int COLUMN_ROWS = sizeof(A) == 4 ? 4 : sizeof(A) == 8 ? 4 : 2;

template <typename A>
__device__ __forceinline__ A drop_column_bits(A sum, int bits) {
    if constexpr (same_type<A, int128>) {
        return drop_bits(sum, bits);
    } else {
        const A scale = A(__longlong_as_double(int64(1023 - bits) << 52));  // 2^-bits
        return rint(sum * scale);
    }
}

// middle (+)= the column sums of `height` taps; `last` of a column's chunks rounds them.
template <bool BLOCKED, typename A, typename T>
__device__ __forceinline__ void sum_columns(A* middle, const T* tile, const Weight<A>* column,
                                            int height, bool first, bool last, int packs,
                                            const LinearParams& params) {
    constexpr int Q = PACK<A>, R = COLUMN_ROWS<A>;
    const int rank = threadIdx.y * 32 + threadIdx.x, pitch = params.pitch;
    constexpr int GROUPS = ROWS<A> / R;
    for (int item = rank; item < packs * GROUPS; item += THREADS) {
        // Whole warps along the first 32 packs of their rows, without bank conflicts; then the few
        // packs that are left of all rows.
        const int left = item - 32 * GROUPS;
        const int group = left < 0 ? item / 32 : left / (packs - 32);
        const int pack = left < 0 ? item % 32 : 32 + left % (packs - 32);
        const T* pixels = tile + group * R * pitch + pack * Q;
        // Pixel row i of the window lies in values[i % R] until it has met its last output.
        A values[R][Q], sums[R][Q];
        A* target = middle + (group * R * params.middle_packs + pack) * Q;
        // Chunks of a short column go on with its sums, as if there were one: the bits of floats
        // must not hang on how much of a column fits. Chunks of a long one are blocks.
        const bool goes_on = BLOCKED && !first && !params.flush_height, adds = !first && !goes_on;
#pragma unroll
        for (int r = 0; r < R; ++r) {
            if (r < R - 1) load_values(values[r], pixels + r * pitch);
            Pack<A, Q> sofar;
            if (goes_on) sofar = load_pack<Q>(target + r * params.middle_packs * Q);
#pragma unroll
            for (int q = 0; q < Q; ++q) sums[r][q] = goes_on ? sofar.values[q] : A(0);
        }
#pragma unroll 1
        for (int k = 0; k < height; k += R) {
#pragma unroll
            for (int u = 0; u < R; ++u) {
                if (k + u < height) {
                    load_values(values[(u + R - 1) % R], pixels + (k + u + R - 1) * pitch);
                    const Weight<A> weight = column[k + u];
#pragma unroll
                    for (int r = 0; r < R; ++r)
#pragma unroll
                        for (int q = 0; q < Q; ++q)
                            sums[r][q] = multiply_add(weight, values[(u + r) % R][q], sums[r][q]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
            Pack<A, Q> results;
            if (adds) results = load_pack<Q>(target + r * params.middle_packs * Q);
#pragma unroll
            for (int q = 0; q < Q; ++q) {
                A sum = adds ? results.values[q] + sums[r][q] : sums[r][q];
                if (Scalar<T>::integer && last) sum = drop_column_bits(sum, params.column_shift);
                results.values[q] = sum;
            }
            store_pack(target + r * params.middle_packs * Q, results);
        }
    }
}

// sums += row sums over `entries` of the middle. Two rows at a time: more would take too many
// registers.
template <bool FLOATS, bool BLOCKED, typename A>
__device__ __forceinline__ void sum_rows(RowSums<A>& sums, RowSums<A>& totals, const A* middle,
                                         const Weight<A>* row, const int* places, int entries,
                                         const LinearParams& params) {
    constexpr int Q = PACK<A>, AT_ONCE = 2;
#pragma unroll
    for (int first = 0; first < ROWS_EACH<A>; first += AT_ONCE) {
        A values[AT_ONCE][2 * Q];
        int next = -1, until = params.flush_entries;
#pragma unroll 1
        for (int e = 0; e < entries; ++e) {
            const int place = places[e], pack = pack_of(place) - pack_of(places[0]);
            const auto taps = load_pack<Q>(row + e * Q);
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                const A* from = middle + ((first + i) * params.middle_packs + pack) * Q;
                if (pack == next) {
#pragma unroll
                    for (int q = 0; q < Q; ++q) values[i][q] = values[i][Q + q];
                } else {
                    load_values(values[i], from);
                }
                load_values(values[i] + Q, from + Q);
#pragma unroll
                for (int u = 0; u < Q; ++u) {
                    if (FLOATS && !(place >> u & 1)) continue;  // see dense.cu
#pragma unroll
                    for (int q = 0; q < Q; ++q)
                        sums[first + i][q] =
                            multiply_add(taps.values[u], values[i][q + u], sums[first + i][q]);
                }
            }
            next = pack + 1;
            if (BLOCKED && --until == 0) {
#pragma unroll
                for (int i = 0; i < AT_ONCE; ++i) flush<A>(totals[first + i], sums[first + i]);
                until = params.flush_entries;
            }
        }
    }
}

template <typename T, typename A, typename In, typename Out, int STENCILS>
__global__ void __launch_bounds__(THREADS, BLOCKS_EACH<T, A>)
    separable_any(const Memory<In>* input, Memory<Out>* output, const Weight<A>* weights,
                  const int* places, const LinearParams params) {
    constexpr int Q = PACK<A>, R = ROWS_EACH<A>;
    constexpr bool FLOATS = !Scalar<T>::integer, BLOCKED = FLOATS && STENCILS == 1;
    DYNAMIC_SHARED(unsigned char, shared);
    Weight<A>* column = reinterpret_cast<Weight<A>*>(shared);
    Weight<A>* row = reinterpret_cast<Weight<A>*>(shared + params.row_at);
    int* some_places = reinterpret_cast<int*>(shared + params.places_at);
    A* middle = reinterpret_cast<A*>(shared + params.middle_at);
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
            const int packs = 32 + last - first + 1;
            const int x = place.x + (params.left + first) * Q, lead = lead_in<T>(x);
            copy_numbers(some_places, places + j, entries);
#pragma unroll
            for (int s = 0; s < STENCILS; ++s) {
                const Weight<A>* own = weights + s * (params.height + int64(params.entries) * Q);
                copy_numbers(row, own + params.height + j * Q, entries * Q);
                for (int i = 0; i < params.height; i += params.chunk_height) {
                    const int height = min(params.chunk_height, params.height - i);
                    copy_numbers(column, own + i, height);
                    if (s == 0 || height < params.height)
                        load_tile(tile, params.pitch, ROWS<A> + height - 1, lead + packs * Q,
                                   input, params.images, place.plane, place.y - params.top + i,
                                   x - lead);
                    __syncthreads();
                    sum_columns<BLOCKED>(middle, tile + lead, column, height, i == 0,
                                         i + height == params.height, packs, params);
                    __syncthreads();  // the middle is whole, the tile may be overwritten
                }
                if constexpr (BLOCKED) {
                    // Chunks of a short row go on likewise.
                    if (params.flush_entries == NEVER) flush<A>(sums[0], totals);
                }
                sum_rows<FLOATS, BLOCKED>(sums[s], totals,
                                          middle + (warp * R * params.middle_packs + lane) * Q,
                                          row, some_places, entries, params);
                if constexpr (BLOCKED) flush<A>(totals, sums[0]);  // one of the two lives on
                __syncthreads();  // the next middle overwrites this one
            }
        }
        if constexpr (BLOCKED) flush<A>(sums[0], totals);
        finish_tile<T, A, STENCILS>(sums, shared, input, output, params.images, params.finish,
                                    place);
        __syncthreads();  // the next job overwrites what a warp may still be finishing
    }
}
