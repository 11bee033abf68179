// Weighted sums over a window of an image, as gpuconv/backends/numpy/linear.py has them.
//
//   dense_any     any kernel, any channels: weights come from shared memory, a thread marches down
//                 the input rows of its outputs and meets each pixel once
//   dense_small   3x3, 5x5 and 7x7 over one channel: the same march, unrolled, with the weights
//                 among the parameters
//
// A block takes a tile of one plane; the tile with its halo lies in shared memory, for dense_any in
// chunks of kernel rows and of entries (see common/linear.cuh) where it is large. Both kernels add
// the products of a window in the same order.
#include "common/linear.cuh"

// sums += `height` kernel rows × `entries` from the tile's `rows` on.
template <typename A, int STENCILS, typename T>
__device__ __forceinline__ void add_chunk(Sums<A, STENCILS>& sums, RowSums<A>& totals,
                                          const T* rows, const Weight<A>* weights,
                                          const int* places, int height, int entries, int first_row,
                                          const LinearParams& params) {
    constexpr int Q = PACK<A>, R = ROWS_EACH<A>;
    // Integers are exact in any order, and may have taps of weight 0 beside the kernel's own.
    constexpr bool FLOATS = !Scalar<T>::integer;
#pragma unroll 1
    for (int line = 0; line < R + height - 1; ++line) {
        const T* pixels = rows + line * params.pitch;
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
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const int i = line - r;
                if (i < 0 || i >= height) continue;
#pragma unroll
                for (int s = 0; s < STENCILS; ++s) {
                    const auto taps = load_pack<Q>(
                        weights + ((s * params.chunk_height + i) * params.chunk_entries + e) * Q);
#pragma unroll
                    for (int u = 0; u < Q; ++u) {
                        if (FLOATS && !(place >> u & 1)) continue;  // 0 * Inf would count
#pragma unroll
                        for (int q = 0; q < Q; ++q)
                            sums[s][r][q] =
                                multiply_add(taps.values[u], values[q + u], sums[s][r][q]);
                    }
                }
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
