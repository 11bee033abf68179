// Weighted sums of rank 1 over uint8, float16 and bfloat16 images on tensor cores: both passes are
// products with banded matrices, and the middle goes from one to the other in registers.
//
//   separable_tensor   windows of up to 16 * S - 15 rows, and 16 * B - 15 elements of a row
//
// A block marches down a strip, 16 rows of results a step; a warp makes 128 bytes of each.
//
//   along H   middle (16 × 8) = weights (16 × 16 * S) · pixels (16 * S × 8)
//   along W   results (16 × 8) = middle (16 × 16 * B) · weights (16 * B × 8)
//
// A lane holds the same places of a sum as of the left factor of the next product, so that nothing
// is moved between them, as in fused attention (Dao et al. 2022). Pixels come from shared memory by
// ldmatrix. Those of bytes come as pairs of neighbours of two rows: even elements of 16 become one
// right factor, odd ones another. So columns 0-7 of the middle are even elements and columns 8-15
// odd ones, which only the weights along W need to know.
//
// Bytes: everything is exact. Along H they are multiplied by the high and the low byte of weights,
// and summed in int32. The middle has 12 bits; f16 holds the highest 4, and the other 8 in the
// fraction of a number, 4 + low / 256. Weights along W are f16, and their sums integers below 2^24
// in their units.
//
// Floats: weights are sums of two terms, of 11 bits each (f16) or 8 (bf16), and so becomes the
// middle, whose product along W takes three mma: high · first, high · second, low · first. The
// fourth lies beyond 22 bits (16). f16 has no range to spare: weights along H add up to at most 1
// but for a power of two, so that no middle is larger than a pixel can be; and the low term is held
// times 2^11, and multiplied by weights times 2^-11, so that it loses bits only below 2^-36, which
// no result notices. A result is not finite where a tile's pixel is not, for it is met by zeros of
// the bands (or where sums leave float32): such tiles are summed again, tap by tap.
//
// What limits: of bytes 256 results take 4 * ceil(S / 2) mma along H, of which the neighbouring
// warp repeats B - 1 in 8, and 4 * B along W. At 1.6 clocks a multiprocessor each (sm_90: 63 % of
// wgmma's rate) S = B = 2, 17 taps, stops at 12.9 results a clock, S = B = 3, 33 taps, at 7.2; a
// copy makes 8.2. Of floats they take 4 * S, of which B - 1 in 4 are repeated, and 6 * B: 7.3 and
// 4.5 results a clock, where a copy makes 4.1. (A middle of tf32 terms takes 12 * B at the same
// clocks, and stops at 4.7 and 3.0.) Issue slots are
//
//   bytes, along H    S * (1/32 ldmatrix + 1/4 PRMT) + ceil(S / 2) / 2 mma
//          middle     1 IMAD + 1 FFMA + 3/2 PRMT + 1/2 HADD2
//          along W    B / 2 mma + 1/2 F2IP
//   floats, along H   S * (1/8 ldmatrix + 1/2 mma)
//          middle     1 FMUL + 1 FFMA + 1 HADD2 + 1 F2FP
//          along W    3 * B / 4 mma + 1 FFMA + 1 FADD + 1/2 F2FP
//
// a result, and about 4 (bytes) or 7 (floats) for copying, storing and all else: of 128 a clock and
// multiprocessor.
#include "common/convert.cuh"
#include "common/image.cuh"
#include "common/ptx.cuh"
#include "common/strip.cuh"

// Twins of the constants in gpuconv/backends/cuda/separable_tensor.py.
constexpr int WARPS = 4, TILE = 16;
template <typename T>
constexpr int TILES = 8 / int(sizeof(T));  // of a warp, side by side
template <typename T>
constexpr int COLUMNS = TILES<T> * TILE;

// Twin of TENSOR_PARAMS there.
struct SeparableTensorParams {
    Images images;
    Strips strips;
    // Bytes: of a sum along H, read as a float, the lowest bits are the middle. Floats: of a sum
    // along W this is the result.
    float scale, up;
    int height, width, top, left;  // of the window, in rows and pixels; those before the result
};

#ifdef HAS_TENSOR_CORES

constexpr int PACK = 8;  // elements copied at once

// Bytes of results in shared memory, from a row to the next: rows that are written at once meet
// other banks.
template <typename T>
constexpr int OUT_PITCH = 128 + 16 * int(sizeof(T));

// What lies in shared memory, and of what size. Twin of `shared_bytes` there.
template <typename T, int S, int B>
struct Block {
    static constexpr int ABOVE = 8 * (S - 1), SIDE = 8 * (B - 1);
    static constexpr int WIDTH = WARPS * COLUMNS<T> + 2 * SIDE, WIDE = 16 / int(sizeof(T));
    static constexpr int PITCH = WIDTH / WIDE % 2 ? WIDTH : WIDTH + WIDE;  // 8 rows meet all banks
    static constexpr int SLABS = S + 1;  // of 16 rows: in use, and one on its way
    static constexpr int MET = TILE * B;  // elements of a row that windows of a tile meet

    T ring[SLABS][TILE][PITCH];
    uint8 made[WARPS][TILE][OUT_PITCH<T>];
    float middles[WARPS][Scalar<T>::integer ? 1 : 2 * MET];  // of results that are made again
    int sources[WIDTH];  // the element that answers for each of a row, in strips at an edge
};

// A strip of a block, whose rows come by 16s into a ring of slabs.
template <typename T, int S, int B>
struct Slabs {
    using Own = Block<T, S, B>;
    const Images& images;
    const T* plane;
    const int* sources;
    const Strip& strip;
    int columns;  // of a row in shared memory that results need

    // 16 rows from `y` on.
    __device__ __forceinline__ void fetch(T* slab, int y) const {
        const int lane = threadIdx.x, warp = threadIdx.y;
        if (strip.inside) {
            const T* from = plane + y * images.input.row + strip.x - Own::SIDE;
            const T* row = from + warp * images.input.row + PACK * lane;
            T* to = slab + warp * Own::PITCH + PACK * lane;
#pragma unroll
            for (int r = 0; r < TILE / WARPS; ++r) {
#pragma unroll
                for (int p = 0; p < WARPS * COLUMNS<T>; p += 32 * PACK)
                    copy_async<PACK * sizeof(T)>(to + p, row + p);
                row += WARPS * images.input.row;
                to += WARPS * Own::PITCH;
            }
            // What lies behind: 16 bytes of all rows, which meet all banks, then the next.
            constexpr int PACKS = 2 * Own::SIDE / PACK, EACH = Own::WIDE / PACK;
#pragma unroll
            for (int first = 0; first < TILE * PACKS; first += 32) {
                const int i = first + lane, r = i / EACH % TILE;
                const int place =
                    WARPS * COLUMNS<T> + (i / (EACH * TILE) * EACH + i % EACH) * PACK;
                if (first / 32 % WARPS == warp)
                    copy_async<PACK * sizeof(T)>(slab + r * Own::PITCH + place,
                                                 from + r * images.input.row + place);
            }
        } else {
#pragma unroll 1
            for (int r = warp; r < TILE; r += WARPS)
                fetch_row(slab + r * Own::PITCH,
                          map_index(images.border, y + r, images.height));
        }
    }

    // A row of an edge: packs that lie in the image as they are, other elements one by one.
    __device__ __forceinline__ void fetch_row(T* to, int from_y) const {
        const int lane = threadIdx.x, start = strip.x - Own::SIDE;
        const T* row = plane + from_y * images.input.row;
        int first = 0, last = 0;
        if (from_y >= 0) {
            first = (max(0, -start) + PACK - 1) / PACK;
            last = max(first, min(columns, images.row_elements() - start) / PACK);
        }
#pragma unroll 1
        for (int pack = first + lane; pack < last; pack += 32)
            copy_async<PACK * sizeof(T)>(to + pack * PACK, row + start + pack * PACK);
        const int between = (last - first) * PACK;
#pragma unroll 1
        for (int e = lane; e < columns - between; e += 32) {
            const int place = e < first * PACK ? e : e + between;
            const int element = from_y < 0 ? -1 : sources[place];
            to[place] = element < 0 ? images.value.template as<T>() : row[element];
        }
    }
};

// 16 × 16 elements of the middle, as left factors.
struct Middle {
    unsigned high[4], low[4];
};

// Half words of a register, less 1024.
__device__ __forceinline__ unsigned lower(unsigned halves) {
    const unsigned least = 0xe400e400u;
    half2 values, down;
    memcpy(&values, &halves, 4);
    memcpy(&down, &least, 4);
    values = __hadd2(values, down);
    memcpy(&halves, &values, 4);
    return halves;
}

// A lane's share of all factors but the image, and what is made with it.
template <int S, int B>
struct ByteWeights {
    // Of two half words their high bytes under 0x64, which makes f16 of 1024 + a byte, and their
    // low bytes under 0x44, which makes 4 + a byte / 256; `upper` holds these two.
    static constexpr unsigned WHOLES = 0x4341, FRACTIONS = 0x5250;
    static constexpr int LOADS = (S + 1) / 2;  // of slabs two at a time, which an mma takes at once

    unsigned down[LOADS][2][4];  // along H: of the high bytes, of the low ones
    unsigned across[B][2][2];    // along W: by tile of the middle, half of the results
    int first[4];                // sums along H begin with it: the bits of 2^23 and so much that
                                 // none is negative
    float start[4];              // sums along W begin with it
    unsigned upper;              // see FRACTIONS

    // Where the lane's row of a load lies: its slab and its column.
    static __device__ __forceinline__ int slab(int load) {
        return 2 * load + 1 < S ? 2 * load + int(threadIdx.x) / 16 : 2 * load;
    }
    static __device__ __forceinline__ int column() { return 0; }

    // The middle of 16 columns: pixels of S slabs times the weights along H.
    __device__ __forceinline__ void make(Middle& middle, const uint8* const (&rows)[LOADS],
                                         int column, const SeparableTensorParams& params) const {
        unsigned raw[2 * LOADS][2] = {};
#pragma unroll
        for (int l = 0; l < LOADS; ++l) {
            if (2 * l + 1 < S) {
                unsigned four[4];
                load_matrices<true>(four, rows[l] + column);
                raw[2 * l][0] = four[0], raw[2 * l][1] = four[1];
                raw[2 * l + 1][0] = four[2], raw[2 * l + 1][1] = four[3];
            } else {
                load_matrices<true>(raw[2 * l], rows[l] + column);
            }
        }
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int nothing[4] = {};
            int high[4], low[4];
#pragma unroll
            for (int l = 0; l < LOADS; ++l) {
                unsigned pixels[2];
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    pixels[i] =
                        __byte_perm(raw[2 * l + i][0], raw[2 * l + i][1], odd ? 0x7531 : 0x6420);
                if (l == 0) {
                    mma_s8_u8(high, down[l][0], pixels, nothing);
                    mma_s8_u8(low, down[l][1], pixels, first);
                } else {
                    mma_s8_u8(high, down[l][0], pixels);
                    mma_s8_u8(low, down[l][1], pixels);
                }
            }
            unsigned bits[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                bits[i] = __float_as_uint(
                    __fmaf_rn(__int_as_float(high[i] * 256 + low[i]), params.scale, params.up));
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const unsigned both = __byte_perm(bits[2 * i], bits[2 * i + 1], 0x5410);
                middle.low[2 * odd + i] = __byte_perm(both, upper, FRACTIONS);
                middle.high[2 * odd + i] = lower(__byte_perm(both, upper, WHOLES));
            }
        }
    }

    // Adds to half t of the results of a tile what the middle of the b-th tile under it gives.
    __device__ __forceinline__ void add(float (&results)[4], const Middle& middle, int b,
                                        int t) const {
        if (b == 0) {
            mma_f16(results, middle.high, across[b][t], start);
        } else {
            mma_f16(results, middle.high, across[b][t]);
        }
        mma_f16(results, middle.low, across[b][t]);
    }

    __device__ __forceinline__ float finish(float sum, const SeparableTensorParams&) const {
        return sum;
    }
};

// Two floats as sums of two terms. Those of f16 are times 2^-11, and their low terms times 2^11.
__device__ __forceinline__ void split(float16, float a, float b, unsigned& high, unsigned& low) {
    const float down = 1.0f / 2048, up = -2048;
    const half2 first = __floats2half2_rn(a * down, b * down);
    const float2 taken = __half22float2(first);
    const half2 second = __floats2half2_rn(__fmaf_rn(taken.x, up, a), __fmaf_rn(taken.y, up, b));
    memcpy(&high, &first, 4);
    memcpy(&low, &second, 4);
}
__device__ __forceinline__ void split(bfloat16, float a, float b, unsigned& high, unsigned& low) {
    const __nv_bfloat162 first = __floats2bfloat162_rn(a, b);
    memcpy(&high, &first, 4);
    const __nv_bfloat162 second = __floats2bfloat162_rn(a - __uint_as_float(high << 16),
                                                        b - __uint_as_float(high & 0xffff0000u));
    memcpy(&low, &second, 4);
}

template <typename T, int S, int B>
struct FloatWeights {
    static constexpr int LOADS = S;
    // The term along W that low terms of the middle are multiplied by.
    static constexpr int LOW = same_type<T, float16> ? 2 : 0;

    unsigned down[S][2][4];                 // along H: by slab, term
    unsigned across[B][2][LOW ? 3 : 2][2];  // along W: by tile of the middle, half of the results,
                                            // term; the third of f16 is the first times 2^-11

    // As of ByteWeights: a load brings 16 rows of 16 elements, two right factors.
    static __device__ __forceinline__ int slab(int load) { return load; }
    static __device__ __forceinline__ int column() { return threadIdx.x / 16 * 8; }

    __device__ __forceinline__ void make(Middle& middle, const T* const (&rows)[LOADS], int column,
                                         const SeparableTensorParams&) const {
        float sums[2][4] = {};
#pragma unroll
        for (int s = 0; s < S; ++s) {
            unsigned raw[4];
            load_matrices<true>(raw, rows[s] + column);
#pragma unroll
            for (int t = 0; t < 2; ++t) {
                const unsigned pixels[2] = {raw[2 * t], raw[2 * t + 1]};
                mma(T(), sums[t], down[s][0], pixels);
                mma(T(), sums[t], down[s][1], pixels);
            }
        }
#pragma unroll
        for (int t = 0; t < 2; ++t)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                split(T(), sums[t][2 * i], sums[t][2 * i + 1], middle.high[2 * t + i],
                      middle.low[2 * t + i]);
    }

    __device__ __forceinline__ void add(float (&results)[4], const Middle& middle, int b,
                                        int t) const {
#pragma unroll
        for (int i = 0; i < 4 && b == 0; ++i) results[i] = 0;
        mma(T(), results, middle.high, across[b][t][0]);
        mma(T(), results, middle.high, across[b][t][1]);
        mma(T(), results, middle.low, across[b][t][LOW]);
    }

    __device__ __forceinline__ float finish(float sum, const SeparableTensorParams& params) const {
        return __fmaf_rn(sum, params.scale, params.up);
    }
};

// Whether all are, by their sum: it may also leave float32's range where none of them does.
__device__ __forceinline__ bool all_finite(const float (&results)[2][4]) {
    float sum = results[0][0];
#pragma unroll
    for (int i = 1; i < 8; ++i) sum += results[i / 4][i % 4];
    return fabsf(sum) <= 3.402823466e38f;
}

// Results of a tile of floats tap by tap, two rows at a time, from the slabs that the tile was made
// from. `taps` are those along H, then those along W.
template <typename T, int S, int B>
__device__ __forceinline__ void make_again(Block<T, S, B>& shared, int oldest, int tile,
                                           const float* taps, const SeparableTensorParams& params) {
    using Own = Block<T, S, B>;
    const int lane = threadIdx.x, warp = threadIdx.y, channels = params.images.channels;
    float* middles = shared.middles[warp];
#pragma unroll 1
    for (int row = 0; row < TILE; row += 2) {
#pragma unroll 1
        for (int i = lane; i < 2 * Own::MET; i += 32) {
            const int column = warp * COLUMNS<T> + tile * TILE + i % Own::MET;
            const int first = row + i / Own::MET + Own::ABOVE - params.top;
            float middle = 0;
#pragma unroll 1
            for (int from = first; from < first + params.height; ++from) {
                const T pixel =
                    shared.ring[(oldest + from / TILE) % Own::SLABS][from % TILE][column];
                middle = __fmaf_rn(taps[from - first], widen(pixel), middle);
            }
            middles[i] = middle;
        }
        __syncwarp();
        const int own = lane / TILE, place = lane % TILE;
        const float* first = middles + own * Own::MET + place + Own::SIDE - params.left * channels;
        float result = 0;
#pragma unroll 1
        for (int k = 0; k < params.width; ++k)
            result = __fmaf_rn(taps[params.height + k], first[k * channels], result);
        reinterpret_cast<T*>(shared.made[warp][row + own])[tile * TILE + place] =
            narrow<T>(result + params.up);
        __syncwarp();
    }
}
#endif

// That a multiprocessor has registers for. Twin of `blocks_of` there.
template <typename T, int S, int B>
constexpr int BLOCKS = S + B <= 4 ? 4 : S + B <= 6 ? 3 : 2;
template <int S, int B>
constexpr int BLOCKS<uint8, S, B> = S + B <= 4 ? 5 : S + B <= 6 ? 4 : S + B == 7 ? 3 : 2;

// `registers`: those of the weights, each of all lanes, then a window's taps. The compiler would
// put constants together anew at each use if it knew them.
template <typename T, int S, int B>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS<T, S, B>)
    separable_tensor(const T* input, T* output, const unsigned* registers,
                     const SeparableTensorParams params) {
#ifdef HAS_TENSOR_CORES
    using Own = Block<T, S, B>;
    using Weights = either<same_type<T, uint8>, ByteWeights<S, B>, FloatWeights<T, S, B>>;
    constexpr int N = 16 / int(sizeof(T));  // elements stored at once
    DYNAMIC_SHARED(Own, shared);
    auto& ring = shared->ring;
    auto& made = shared->made;
    int* sources = shared->sources;
    const Images& images = params.images;
    const int lane = threadIdx.x, warp = threadIdx.y;
    unsigned own[sizeof(Weights) / 4];
#pragma unroll
    for (int i = 0; i < int(sizeof own / 4); ++i) own[i] = registers[i * 32 + lane];
    Weights weights;
    memcpy(&weights, own, sizeof own);
    for (int64 job = blockIdx.x; job < params.strips.jobs; job += gridDim.x) {
        const Strip strip = params.strips.at(job, images);
        const int left = images.row_elements() - strip.x;  // results of a row, from the strip's
        const Slabs<T, S, B> slabs = {
            images, input + images.plane_offset(images.input, strip.plane), sources, strip,
            min(Own::WIDTH, (left + TILE - 1) / TILE * TILE + 2 * Own::SIDE)};
        __syncthreads();  // the strip before is done with
        if (!strip.inside) {
            for (int i = 32 * warp + lane; i < slabs.columns; i += 32 * WARPS)
                sources[i] = map_element(images, strip.x - Own::SIDE + i);
            __syncthreads();
        }
        const int first = strip.y - Own::ABOVE, steps = (strip.rows + TILE - 1) / TILE;
#pragma unroll 1
        for (int s = 0; s < S; ++s) slabs.fetch(ring[s][0], first + s * TILE);
        commit_copies();
        // Tiles of the warp that have results; where a lane writes its 16 bytes of every fourth
        // row.
        const int tiles = min(TILES<T>, (left - warp * COLUMNS<T> + TILE - 1) / TILE);
        const int place = warp * COLUMNS<T> + lane % 8 * N;
        T* target = output + images.plane_offset(images.output, strip.plane) +
                    (strip.y + lane / 8) * images.output.row + strip.x + place;
        int oldest = 0;
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            wait_copies<0>();
            __syncthreads();  // all slabs are there, and the one before them is done with
            const int coming = (oldest + S) % Own::SLABS;
            if (step + 1 < steps)
                slabs.fetch(ring[coming][0], first + (step + S) * TILE);
            commit_copies();
            if (tiles > 0) {
                const T* rows[Weights::LOADS];
#pragma unroll
                for (int l = 0; l < Weights::LOADS; ++l)
                    rows[l] = ring[(oldest + Weights::slab(l)) % Own::SLABS][lane % 16] +
                              warp * COLUMNS<T> + Weights::column();
                Middle middles[B];
                unsigned strange = 0;  // a bit for each tile with a result that is not finite
#pragma unroll
                for (int tile = 1 - B; tile < TILES<T>; ++tile) {
                    if (tile >= tiles) break;
                    weights.make(middles[(tile + B - 1) % B], rows, (tile + B - 1) * TILE, params);
                    if (tile < 0) continue;
                    float results[2][4];
#pragma unroll
                    for (int t = 0; t < 2; ++t)
#pragma unroll
                        for (int b = 0; b < B; ++b)
                            weights.add(results[t], middles[(tile + b) % B], b, t);
                    if constexpr (!Scalar<T>::integer) {
                        if (!all_finite(results)) strange |= 1u << tile;
                    }
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        float four[4];
#pragma unroll
                        for (int i = 0; i < 4; ++i)
                            four[i] = weights.finish(results[i / 2][2 * half + i % 2], params);
                        T* to = reinterpret_cast<T*>(made[warp][lane / 4 + 8 * half]);
                        store_words(to + tile * TILE + lane % 4 * 4, round_words<T>(four));
                    }
                }
                __syncwarp();
                if constexpr (!Scalar<T>::integer) {
                    if (__any_sync(FULL_WARP, strange)) {
                        const float* taps =
                            reinterpret_cast<const float*>(registers + sizeof own / 4 * 32);
#pragma unroll 1
                        for (int tile = 0; tile < TILES<T>; ++tile)
                            if (__any_sync(FULL_WARP, strange >> tile & 1))
                                make_again(*shared, oldest, tile, taps, params);
                    }
                }
#pragma unroll
                for (int r = 0; r < TILE; r += 4) {
                    const T* from =
                        reinterpret_cast<const T*>(made[warp][r + lane / 8]) + lane % 8 * N;
                    if (step * TILE + r + lane / 8 < strip.rows && place < left)
                        store_words(target + r * images.output.row, load_words<T, N>(from),
                                    left - place);
                }
            }
            target += TILE * images.output.row;
            oldest = (oldest + 1) % Own::SLABS;
        }
    }
#else
    asm volatile("trap;");
#endif
}
