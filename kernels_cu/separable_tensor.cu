// Weighted sums of rank 1 over uint8 images on tensor cores, integers throughout: both passes are
// products with banded matrices, and the middle goes from one to the other in registers.
//
//   separable_tensor   windows of up to 16 * S - 15 rows, and 16 * B - 15 elements of a row
//
// A block marches down a strip, 16 rows of results a step; a warp makes 128 elements of each.
//
//   along H   middle (16 × 8) = weights (16 × 16 * S) · pixels (16 * S × 8)
//   along W   results (16 × 8) = middle (16 × 16 * B) · weights (16 * B × 8)
//
// A lane holds the same places of a sum as of the left factor of the next product, so that nothing
// is moved between them, as in fused attention (Dao et al. 2022). Pixels come from shared memory by
// ldmatrix, as pairs of neighbours of two rows: even elements of 16 become one right factor, odd
// ones another. So columns 0-7 of the middle are even elements and columns 8-15 odd ones, which
// only the weights along W need to know.
//
// Everything is exact. Along H bytes are multiplied by the high and the low byte of weights, and
// summed in int32. The middle has 12 bits; f16 holds the highest 4, and the other 8 in the fraction
// of a number, 4 + low / 256. Weights along W are f16, and their sums integers below 2^24 in their
// units.
//
// What limits: 256 results take 4 * ceil(S / 2) mma along H, of which the neighbouring warp repeats
// B - 1 in 8, and 4 * B along W. At 1.6 clocks a multiprocessor each (sm_90: 63 % of wgmma's rate)
// S = B = 2, 17 taps, stops at 12.9 results a clock, S = B = 3, 33 taps, at 7.2. Issue slots are
//
//   along H    S * (1/32 ldmatrix + 1/4 PRMT) + ceil(S / 2) / 2 mma
//   middle     1 IMAD + 1 FFMA + 3/2 PRMT + 1/2 HADD2
//   along W    B / 2 mma + 1/2 F2IP
//
// a result, and about 4 for copying, storing and all else. A copy makes 8.2 results a clock.
#include "common/convert.cuh"
#include "common/image.cuh"
#include "common/ptx.cuh"
#include "common/strip.cuh"

// Twins of the constants in gpuconv/backends/cuda/separable_tensor.py.
constexpr int WARPS = 4, TILE = 16, TILES = 8, COLUMNS = TILES * TILE;

// Twin of TENSOR_PARAMS there.
struct SeparableTensorParams {
    Images images;
    Strips strips;
    float scale, up;  // of a sum along H, read as a float: the lowest bits are the middle
};

#ifdef HAS_TENSOR_CORES

constexpr int PACK = 8;            // bytes copied at once
constexpr int OUT_PITCH = 144;     // of results in shared memory: 8 rows meet all banks

// Of two half words their high bytes under 0x64, which makes f16 of 1024 + a byte, and their low
// bytes under 0x44, which makes 4 + a byte / 256; Weights::upper holds these two.
constexpr unsigned WHOLES = 0x4341, FRACTIONS = 0x5250;

// What lies in shared memory, and of what size. Twin of `shared_bytes` there.
template <int S, int B>
struct Block {
    static constexpr int ABOVE = 8 * (S - 1), SIDE = 8 * (B - 1);
    static constexpr int WIDTH = WARPS * COLUMNS + 2 * SIDE;
    static constexpr int PITCH = WIDTH / 16 % 2 ? WIDTH : WIDTH + 16;  // 8 rows meet all banks
    static constexpr int SLABS = S + 1;  // of 16 rows: in use, and one on its way
    static constexpr int PAIRS = (S + 1) / 2;  // of slabs, that an mma takes at once

    uint8 ring[SLABS][TILE][PITCH];
    uint8 made[WARPS][TILE][OUT_PITCH];
    int sources[WIDTH];  // the element that answers for each of a row, in strips at an edge
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

// A strip of a block, whose rows come by 16s into a ring of slabs.
template <int S, int B>
struct Slabs {
    using Own = Block<S, B>;
    const Images& images;
    const uint8* plane;
    const int* sources;
    const Strip& strip;
    int columns;         // of a row in shared memory that results need

    // 16 rows from `y` on.
    __device__ __forceinline__ void fetch(uint8* slab, int y) const {
        const int lane = threadIdx.x, warp = threadIdx.y;
        if (strip.inside) {
            const uint8* from = plane + y * images.input.row + strip.x - Own::SIDE;
            const uint8* row = from + warp * images.input.row + PACK * lane;
            uint8* to = slab + warp * Own::PITCH + PACK * lane;
#pragma unroll
            for (int r = 0; r < TILE / WARPS; ++r) {
#pragma unroll
                for (int p = 0; p < WARPS * COLUMNS; p += 32 * PACK)
                    copy_async<PACK>(to + p, row + p);
                row += WARPS * images.input.row;
                to += WARPS * Own::PITCH;
            }
            // What lies behind: 32 packs are this many rows of it.
            constexpr int PACKS = 2 * Own::SIDE / PACK;
#pragma unroll
            for (int first = 0; first < TILE * PACKS; first += 32) {
                const int pack = first + lane, r = pack / PACKS;
                const int place = WARPS * COLUMNS + pack % PACKS * PACK;
                if (first / 32 % WARPS == warp && pack < TILE * PACKS)
                    copy_async<PACK>(slab + r * Own::PITCH + place,
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
    __device__ __forceinline__ void fetch_row(uint8* to, int from_y) const {
        const int lane = threadIdx.x, start = strip.x - Own::SIDE;
        const uint8* row = plane + from_y * images.input.row;
        int first = 0, last = 0;
        if (from_y >= 0) {
            first = (max(0, -start) + PACK - 1) / PACK;
            last = max(first, min(columns, images.row_elements() - start) / PACK);
        }
#pragma unroll 1
        for (int pack = first + lane; pack < last; pack += 32)
            copy_async<PACK>(to + pack * PACK, row + start + pack * PACK);
        const int between = (last - first) * PACK;
#pragma unroll 1
        for (int e = lane; e < columns - between; e += 32) {
            const int place = e < first * PACK ? e : e + between;
            const int element = from_y < 0 ? -1 : sources[place];
            to[place] = element < 0 ? images.value.as<uint8>() : row[element];
        }
    }
};

// A lane's share of all factors but the image.
template <int S, int B>
struct Weights {
    unsigned down[Block<S, B>::PAIRS][2][4];  // along H: of the high bytes, of the low ones
    unsigned across[B][2][2];                 // along W: by tile of the middle, half of the results
    int first[4];                             // sums along H begin with it: the bits of 2^23 and
                                              // so much that none is negative
    float start[4];                           // sums along W begin with it
    unsigned upper;                           // see FRACTIONS
};

// 16 × 16 elements of the middle, as left factors.
struct Middle {
    unsigned high[4], low[4];
};

// The middle of 16 columns: pixels of S slabs, from where each lane's row of a slab begins, times
// the weights along H.
template <int S, int B>
__device__ __forceinline__ void make_middle(Middle& middle,
                                            const uint8* const (&rows)[Block<S, B>::PAIRS],
                                            int column, const Weights<S, B>& weights,
                                            const SeparableTensorParams& params) {
    unsigned raw[2 * Block<S, B>::PAIRS][2] = {};
#pragma unroll
    for (int s = 0; s < S; s += 2) {
        if (s + 1 < S) {
            unsigned four[4];
            load_matrices<true>(four, rows[s / 2] + column);
            raw[s][0] = four[0], raw[s][1] = four[1];
            raw[s + 1][0] = four[2], raw[s + 1][1] = four[3];
        } else {
            load_matrices<true>(raw[s], rows[s / 2] + column);
        }
    }
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
        const int nothing[4] = {};
        int high[4], low[4];
#pragma unroll
        for (int p = 0; p < Block<S, B>::PAIRS; ++p) {
            unsigned pixels[2];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                pixels[i] =
                    __byte_perm(raw[2 * p + i][0], raw[2 * p + i][1], odd ? 0x7531 : 0x6420);
            if (p == 0) {
                mma_s8_u8(high, weights.down[p][0], pixels, nothing);
                mma_s8_u8(low, weights.down[p][1], pixels, weights.first);
            } else {
                mma_s8_u8(high, weights.down[p][0], pixels);
                mma_s8_u8(low, weights.down[p][1], pixels);
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
            middle.low[2 * odd + i] = __byte_perm(both, weights.upper, FRACTIONS);
            middle.high[2 * odd + i] = lower(__byte_perm(both, weights.upper, WHOLES));
        }
    }
}
#endif

// That a multiprocessor has registers for. Twin of `blocks_of` there.
template <int S, int B>
constexpr int BLOCKS = S + B <= 4 ? 5 : S + B <= 6 ? 4 : S + B == 7 ? 3 : 2;

// `registers`: those of Weights, each of all lanes. The compiler would put constants together anew
// at each use if it knew them.
template <int S, int B>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS<S, B>)
    separable_tensor(const uint8* input, uint8* output, const unsigned* registers,
                     const SeparableTensorParams params) {
#ifdef HAS_TENSOR_CORES
    using Own = Block<S, B>;
    DYNAMIC_SHARED(Own, shared);
    auto& ring = shared->ring;
    auto& made = shared->made;
    int* sources = shared->sources;
    const Images& images = params.images;
    const int lane = threadIdx.x, warp = threadIdx.y;
    unsigned own[sizeof(Weights<S, B>) / 4];
#pragma unroll
    for (int i = 0; i < int(sizeof own / 4); ++i) own[i] = registers[i * 32 + lane];
    Weights<S, B> weights;
    memcpy(&weights, own, sizeof own);
    for (int64 job = blockIdx.x; job < params.strips.jobs; job += gridDim.x) {
        const Strip strip = params.strips.at(job, images);
        const int left = images.row_elements() - strip.x;  // results of a row, from the strip's
        const Slabs<S, B> slabs = {
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
        // Tiles of the warp that have results; where a lane writes its 16 of every fourth row.
        const int tiles = min(TILES, (left - warp * COLUMNS + TILE - 1) / TILE);
        const int place = warp * COLUMNS + lane % 8 * TILE;
        uint8* target = output + images.plane_offset(images.output, strip.plane) +
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
                const uint8* rows[Own::PAIRS];
#pragma unroll
                for (int s = 0; s < S; s += 2) {
                    const int slab = s + 1 < S ? s + lane / 16 : s;
                    rows[s / 2] =
                        ring[(oldest + slab) % Own::SLABS][lane % 16] + warp * COLUMNS;
                }
                Middle middles[B];
#pragma unroll
                for (int tile = 1 - B; tile < TILES; ++tile) {
                    if (tile >= tiles) break;
                    make_middle<S, B>(middles[(tile + B - 1) % B], rows, (tile + B - 1) * TILE,
                                      weights, params);
                    if (tile < 0) continue;
                    float results[2][4];
#pragma unroll
                    for (int t = 0; t < 2; ++t) {
                        mma_f16(results[t], middles[tile % B].high, weights.across[0][t],
                                weights.start);
                        mma_f16(results[t], middles[tile % B].low, weights.across[0][t]);
#pragma unroll
                        for (int b = 1; b < B; ++b) {
                            const Middle& middle = middles[(tile + b) % B];
                            mma_f16(results[t], middle.high, weights.across[b][t]);
                            mma_f16(results[t], middle.low, weights.across[b][t]);
                        }
                    }
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const float* of = results[0] + 2 * half;
                        const float* others = results[1] + 2 * half;
                        *reinterpret_cast<uint32*>(&made[warp][lane / 4 + 8 * half]
                                                        [tile * TILE + lane % 4 * 4]) =
                            bytes_of(of[0], of[1], others[0], others[1]);
                    }
                }
                __syncwarp();
#pragma unroll
                for (int r = 0; r < TILE; r += 4) {
                    if (step * TILE + r + lane / 8 < strip.rows && place < left)
                        store_words(target + r * images.output.row,
                                    load_words<uint8, TILE>(
                                        &made[warp][r + lane / 8][lane % 8 * TILE]),
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
