// Dense filters on tensor cores: a row of an image times a banded (Toeplitz) matrix of weights.
//
//   toeplitz_roll    kernels of fewer rows than H: H sums roll down the image, each row is met once
//   toeplitz_still   kernels of any height: H rows of results stay while all their rows pass
//
// A tile is 16 blocks of 8 neighbouring results. Row m of A is what block m sees: elements from
// 8 * m on, so that rows of A overlap in the image as it lies in shared memory, and nothing is
// gathered. Column n of B is a kernel row, n elements further down:
//
//   A (16 × k)           B (k × 8)
//   x0 x1 x2 x3 ...      w0                A is taken in slabs of 16 bytes a row: one ldmatrix
//   x8 x9 ...            w1 w0             reads 8 blocks of a slab, for 16-bit elements from 128
//   x16 ...              w2 w1 w0          neighbouring bytes. Interleaved channels lie further
//   ...                  .. w2 w1 w0       apart in the band; nothing else changes.
//
// One mma takes two slabs: the same slab of two image rows, whose weights are those of two
// neighbouring kernel rows. So a window is padded to whole slabs only (24 elements for 15 taps,
// not 32), and a register of weights serves two products: as row r's and as row r + 1's.
//
// Weights are sums of up to two TERMS of 11 (f16), 8 (bf16) or 11 (tf32) bits; pixels of 8 bits are
// exact in f16. Integer sums stay below 2^24, whatever their order: each is exact.
//
// What limits: 128 results of a row take H / 2 * slabs * parts * terms mma of 2048 products (1024
// of tf32). At 1.7 clocks a multiprocessor each (sm_90: 63 % of wgmma's rate, 1194 a clock) 15 × 15
// with one term takes 24 of them or 41 clocks, 3.1 results a clock; 31 × 31 takes 80, 0.94 a clock.
// For an mma shared memory is busy 1 / TILES clocks with weights and 4 / H with pixels, and each of
// four schedulers issues 9 (H = 16) or 11 (H = 32) instructions in the time of four, 27 clocks.
//
// NaN and Inf would reach all of a block's results through the band's zeros: rows of results that
// met one are summed again, tap by tap.
#include "common/image.cuh"
#include "common/ptx.cuh"

constexpr int WARPS = 4;  // twin of WARPS in gpuconv/backends/cuda/toeplitz.py

// Twin of TOEPLITZ in gpuconv/backends/cuda/toeplitz.py.
struct ToeplitzParams {
    Images images;
    int64 jobs;
    int down, across;           // strips of a plane, one a warp
    int rows;                   // results of a strip
    int height, width;          // of the kernel
    int top, left;              // rows and pixels before the result's own
    int pad;                    // rows of zeros before the kernel's first, rolling
    int slabs, chunk, terms;    // of the band; slabs in shared memory at once
    int pairs;                  // of kernel rows, of each slab, part and term
    int before, skip;           // elements from the first of a row in shared memory to its first
                                // result, and to its first slab
    int packs, pitch;           // of a row in shared memory, in 16 bytes and bytes
    int rings_at, sources_at, taken_at;  // bytes
    int log_steps;              // of two rows, for one bit that tells of NaN and Inf
    int parts, bits;            // of sums of integers: Σ part << bits * number
    int whole;                  // floats do not hold all: results are (that + whole_offset) / 2^shift
    int shift, whole_offset;
    float scale, offset;        // otherwise they are (sum + offset) * scale
    float value;                // the border's
    int wide_stores;            // rows of the output begin at multiples of 16 bytes, steps are 1
};

#ifdef HAS_TENSOR_CORES

// Twins of the constants in gpuconv/backends/cuda/toeplitz.py.
constexpr int STAGES = 4, TILE = 128;  // pairs of rows under way and in use; results of a tile

// Elements of a slab, and of 16 bytes in memory.
template <typename T>
constexpr int SLAB = sizeof(T) == 4 ? 4 : 8;
template <typename T>
constexpr int WIDE = 16 / int(sizeof(T));
// Neighbouring tiles of a warp: weights that are read from shared memory serve all of them.
template <int H>
constexpr int TILES = H <= 16 ? 2 : 1;
template <int H>
using Sums = float[H][TILES<H>][4];
// What tensor cores multiply: bytes as f16.
template <typename T>
using Factor = either<Scalar<T>::integer, float16, T>;

// Warps that make a strip together.
template <typename T>
__device__ __forceinline__ int parts_of(const ToeplitzParams& params) {
    return Scalar<T>::integer ? params.parts : 1;
}

// Where in shared memory, beside the weights, a warp has its rows, the elements that they come from
// (see Strip), and the sums that it hands over.
__device__ __forceinline__ unsigned char* ring_of(unsigned char* shared,
                                                  const ToeplitzParams& params) {
    return shared + params.rings_at + threadIdx.y * (STAGES * 2) * params.pitch;
}
template <typename T>
__device__ __forceinline__ int* sources_of(unsigned char* shared, const ToeplitzParams& params) {
    return reinterpret_cast<int*>(shared + params.sources_at) +
           threadIdx.y * params.packs * WIDE<T>;
}
template <typename T, int H>
__device__ __forceinline__ float* taken_of(unsigned char* shared, const ToeplitzParams& params,
                                           int step) {
    const int turn = parts_of<T>(params) > 1 ? step % 2 * WARPS : 0;
    return reinterpret_cast<float*>(shared + params.taken_at) +
           (turn + threadIdx.y) * (2 * TILES<H> * TILE);
}

// Two pixels of 8 bits as f16: 0x64 above a byte makes 1024 + it.
__device__ __forceinline__ unsigned to_halves(uint16 pixels) {
    const unsigned raised = __byte_perm(pixels, 0x64, 0x4140), least = 0xe400e400u;  // -1024
    __half2 values, down;
    memcpy(&values, &raised, 4);
    memcpy(&down, &least, 4);
    values = __hadd2(values, down);
    unsigned result;
    memcpy(&result, &values, 4);
    return result;
}

// Sets the highest bit of each element whose exponent is all ones: NaN and Inf.
template <typename T>
__device__ __forceinline__ unsigned strange_bits(unsigned elements) {
    constexpr unsigned EXPONENT = same_type<T, float16>    ? 0x7c007c00u
                                  : same_type<T, bfloat16> ? 0x7f807f80u
                                                           : 0x7f800000u;
    constexpr unsigned CARRY = same_type<T, float16>    ? 0x04000400u
                               : same_type<T, bfloat16> ? 0x00800080u
                                                        : 0x00800000u;
    return (elements & EXPONENT) + CARRY;
}

// Where 16 bytes of a row lie. Blocks of floats are 32 bytes apart: every second half of 128 bytes
// is turned, so that eight of them meet all banks.
template <typename T>
__device__ __forceinline__ int pack_place(int pack) {
    return sizeof(T) == 4 ? pack ^ (pack >> 3 & 1) : pack;
}

// A lane's share of a slab of two rows, for a tile: its first element is `first`.
template <typename T>
__device__ __forceinline__ void load_pixels(unsigned (&a)[4], const unsigned char* rows, int pitch,
                                            int first) {
    const int lane = threadIdx.x;
    if constexpr (sizeof(T) == 1) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            a[i] = to_halves(*reinterpret_cast<const uint16*>(rows + (i / 2) * pitch + first +
                                                              i % 2 * 64 + 2 * lane));
    } else {
        const int block = lane % 16, element = first + 8 * block;
        load_matrices(a, rows + lane / 16 * pitch + pack_place<T>(element / WIDE<T>) * 16);
        if constexpr (sizeof(T) == 4) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = to_tf32(__uint_as_float(a[i]));
        }
    }
}

// Some rows of a plane and some of its columns: what a warp makes, and how it comes by the rows.
// Each warp's lies in shared memory, for registers are scarce.
template <typename T>
struct Strip {
    int64 input, output;        // where the plane begins
    int y, x, rows;             // no rows: there is nothing to do
    int first_pack, last_pack;  // of a row in shared memory, that lie in the image as they are
    int round;                  // of the block's strips
    unsigned strange;           // a bit for each 2^log_steps steps that met NaN or Inf

    // `sources` gets the element of a row of the image for each in shared memory.
    __device__ __forceinline__ void begin(const ToeplitzParams& params, int* sources, int number,
                                          int columns) {
        constexpr int N = WIDE<T>;
        __syncwarp();  // the last strip is done with
        int64 job = (int64(number) * gridDim.x + blockIdx.x) * (WARPS / parts_of<T>(params)) +
                    threadIdx.y / parts_of<T>(params);
        const bool exists = job < params.jobs;
        if (!exists) job = 0;
        const int64 plane = job / (int64(params.down) * params.across);
        const int rest = int(job - plane * (int64(params.down) * params.across));
        const int own_x = rest % params.across * columns, start = own_x - params.before;
        for (int i = threadIdx.x; i < params.packs * N; i += 32)
            sources[i] = map_element(params.images, start + i);
        if (threadIdx.x == 0) {
            y = rest / params.across * params.rows;
            x = own_x;
            rows = exists ? min(params.rows, params.images.height - y) : 0;
            input = params.images.plane_offset(params.images.input, plane);
            output = params.images.plane_offset(params.images.output, plane);
            const int length = params.images.row_elements();
            first_pack = params.images.wide_loads ? max(0, -start) / N : 0;
            last_pack = params.images.wide_loads
                            ? max(first_pack, min(params.packs, (length - start) / N))
                            : 0;
            round = number;
            strange = 0;
        }
        __syncwarp();
    }

    // Two rows from `row` on, counted from the first that the strip reads.
    __device__ __forceinline__ void fetch(unsigned char* target, const T* all, const int* sources,
                                          const ToeplitzParams& params, int row) const {
        constexpr int N = WIDE<T>;
        const Images& images = params.images;
#pragma unroll 1
        for (int i = 0; i < 2; ++i, target += params.pitch) {
            const int from_y = map_index(images.border, y - params.top + row + i, images.height);
            const T* source = all + input + from_y * images.input.row;
            const int first = from_y < 0 ? 0 : first_pack, last = from_y < 0 ? 0 : last_pack;
#pragma unroll 1
            for (int pack = first + threadIdx.x; pack < last; pack += 32)
                copy_async<16>(target + pack_place<T>(pack) * 16,
                               source + x - params.before + pack * N);
            const int between = (last - first) * N;
#pragma unroll 1
            for (int e = threadIdx.x; e < params.packs * N - between; e += 32) {
                const int place = e < first * N ? e : e + between;
                const int element = from_y < 0 ? -1 : sources[place];
                T* elements = reinterpret_cast<T*>(target + pack_place<T>(place / N) * 16);
                elements[place % N] = element < 0 ? convert<T>(params.value)
                                                  : source[element * images.input.step];
            }
        }
    }

    __device__ __forceinline__ T result(float sum, const ToeplitzParams& params) const {
        return convert<T>((sum + params.offset) * params.scale);
    }

    // A result from the sums of several parts, which lie `apart`.
    __device__ __forceinline__ T whole_result(const float* sums, const ToeplitzParams& params,
                                              int apart) const {
        int whole = params.whole_offset;
#pragma unroll 1
        for (int part = 0; part < params.parts; ++part)
            whole += __float2int_rn(sums[part * apart]) << part * params.bits;
        // Half to even, from the floor and what is left of it.
        const int floor = whole >> params.shift, rest = whole - (floor << params.shift);
        return convert<T>(floor + (2 * rest + (floor & 1) > 1 << params.shift));
    }

    // Two rows of results, counted from the strip's first, from the sums of its warps; each writes
    // one of them where there are several.
    __device__ __forceinline__ void write(T* all, const float* sums, const ToeplitzParams& params,
                                          int row, int columns) const {
        const Images& images = params.images;
        const int count = min(columns, images.row_elements() - x);
        const int part = threadIdx.y % parts_of<T>(params);
        sums -= part * 2 * columns;
#pragma unroll 1
        for (int i = 0; i < 2; ++i, ++row, sums += columns) {
            if (row < 0 || row >= rows || (parts_of<T>(params) > 1 && part != i)) continue;
            T* target = all + output + (y + row) * images.output.row + x * images.output.step;
            int done = 0;
            if (Scalar<T>::integer && params.whole) {
#pragma unroll 1
                for (; done < count; done += 32)
                    if (done + threadIdx.x < count)
                        target[(done + threadIdx.x) * images.output.step] =
                            whole_result(sums + done + threadIdx.x, params, 2 * columns);
            } else if (params.wide_stores) {
                done = count & ~3;
#pragma unroll 1
                for (int e = 4 * threadIdx.x; e < done; e += 4 * 32) {
                    const auto four = load_pack<4>(sums + e);
                    Pack<T, 4> results;
#pragma unroll
                    for (int q = 0; q < 4; ++q) results.values[q] = result(four.values[q], params);
                    store_pack(target + e, results);
                }
            }
#pragma unroll 1
            for (int e = done + threadIdx.x; e < count; e += 32)
                target[e * images.output.step] = result(sums[e], params);
        }
    }

    // A row of results, tap by tap.
    __device__ __forceinline__ void write_again(const T* all, T* results, const int* sources,
                                                const float* taps, const ToeplitzParams& params,
                                                int row, int columns) const {
        const Images& images = params.images;
#pragma unroll 1
        for (int i = threadIdx.x; i < columns; i += 32) {
            if (x + i >= images.row_elements()) break;
            float sum = 0;
#pragma unroll 1
            for (int tap_y = 0; tap_y < params.height; ++tap_y) {
                const int from_y =
                    map_index(images.border, y + row - params.top + tap_y, images.height);
                const T* source = all + input + from_y * images.input.row;
#pragma unroll 1
                for (int tap_x = 0; tap_x < params.width; ++tap_x) {
                    const int place =
                        params.before + i + (tap_x - params.left) * images.channels;
                    const int element = from_y < 0 ? -1 : sources[place];
                    const T pixel = element < 0 ? convert<T>(params.value)
                                                : source[element * images.input.step];
                    sum = __fmaf_rn(taps[tap_y * params.width + tap_x], float(widen(pixel)), sum);
                }
            }
            results[output + (y + row) * images.output.row + (x + i) * images.output.step] =
                result(sum, params);
        }
    }
};

// sums += two rows times the weights of some slabs. `active` has a bit for each two sums that are
// wanted; ALL of them are, where the template says so.
//
// Weights lie in shared memory by slab, part, term and two kernel rows, as each lane wants them;
// `weights` is where those of the first sum's two begin.
template <typename T, int H, bool ALL>
__device__ __forceinline__ void add_rows(Sums<H>& sums, unsigned& strange,
                                         const unsigned char* rows, const uint2* weights,
                                         unsigned active, int first_slab, int slabs,
                                         const ToeplitzParams& params) {
    constexpr int PAIRS = H / 2;
    const int others = (parts_of<T>(params) - 1) * params.terms * params.pairs * 32;
#pragma unroll 1
    for (int s = 0; s < slabs; ++s, weights += others) {
        unsigned pixels[TILES<H>][4];
#pragma unroll
        for (int tile = 0; tile < TILES<H>; ++tile) {
            load_pixels<T>(pixels[tile], rows, params.pitch,
                           params.skip + (first_slab + s) * SLAB<T> + tile * TILE);
            if constexpr (!Scalar<T>::integer) {
#pragma unroll
                for (int i = 0; i < 4; ++i) strange |= strange_bits<T>(pixels[tile][i]);
            }
        }
#pragma unroll 1
        for (int term = 0; term < params.terms; ++term) {
            uint2 next = weights[PAIRS * 32];
#pragma unroll
            for (int pair = PAIRS - 1; pair >= 0; --pair) {
                if (!ALL && !(active >> pair & 1)) continue;
                if (!ALL) next = weights[(pair + 1) * 32];
                const uint2 own = weights[pair * 32];
                const unsigned upper[2] = {own.y, next.x}, lower[2] = {own.x, own.y};
#pragma unroll
                for (int tile = 0; tile < TILES<H>; ++tile) {
                    mma(Factor<T>(), sums[2 * pair + 1][tile], pixels[tile], upper);
                    mma(Factor<T>(), sums[2 * pair][tile], pixels[tile], lower);
                }
                next = own;
            }
            weights += params.pairs * 32;
        }
    }
}

// Two rows of sums into shared memory, the upper first, and zeros in their place. A register has no
// address: each pair is asked in turn, from P on.
template <int H, int P = 0>
__device__ __forceinline__ void take(float* taken, Sums<H>& sums, int pair) {
    constexpr int COLUMNS = TILES<H> * TILE;
    if (pair == P || P == H / 2 - 1) {
#pragma unroll
        for (int a = 0; a < 2; ++a)
#pragma unroll
            for (int tile = 0; tile < TILES<H>; ++tile)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float* two = sums[2 * P + 1 - a][tile] + 2 * half;
                    store_pack(taken + a * COLUMNS + tile * TILE + half * 64 + 2 * threadIdx.x,
                               Pack<float, 2>{two[0], two[1]});
                    two[0] = two[1] = 0;
                }
    } else if constexpr (P < H / 2 - 1) {
        take<H, P + 1>(taken, sums, pair);
    }
}

// Two rows of sums become results.
template <typename T, int H>
__device__ __forceinline__ void hand_over(T* output, unsigned char* shared, Sums<H>& sums,
                                          const Strip<T>& strip, const ToeplitzParams& params,
                                          int pair, int step, int row) {
    float* taken = taken_of<T, H>(shared, params, step);
    __syncwarp();  // the last ones may still be read
    take<H>(taken, sums, pair);
    __syncwarp();
    // Sums of the step before the last were read before every warp came here.
    if (parts_of<T>(params) > 1) __syncthreads();
    strip.write(output, taken, params, row, TILES<H> * TILE);
}

// A bit for each two of `count` places of which one lies in [low, high].
__device__ __forceinline__ unsigned pairs_of(int low, int high, int count) {
    low = max(low, 0);
    high = min(high, count - 1);
    return low > high ? 0 : (2u << high / 2) - (1u << low / 2);
}

// All rows that a strip reads, two at a time, times the weights of some slabs. `strange` gets a bit
// for each 2^log_steps steps that met NaN or Inf.
//
// Still, sum a is that of row H - 1 - a. Rolling, it is that of row 2 * step + 1 + pad - place,
// where place = (a + 2 * step) % H: each step ends the sums at the last two places.
template <typename T, int H, bool ROLLING>
__device__ __forceinline__ void march(const T* input, T* output, Sums<H>& sums, Strip<T>& strip,
                                      unsigned char* shared, int first_slab, int slabs,
                                      const ToeplitzParams& params) {
    constexpr int PAIRS = H / 2;
    constexpr unsigned ALL = (1u << PAIRS) - 1;
    constexpr unsigned HIGHEST = sizeof(T) == 4 ? 0x80000000u : 0x80008000u;
    const int stage_bytes = 2 * params.pitch;
#pragma unroll 1
    for (int step = 1 - STAGES;; ++step) {
        // Warps that make the parts of a sum go at one pace, in all strips of the block.
        const int made = parts_of<T>(params) > 1 ? params.rows : strip.rows;
        const int steps = ROLLING ? (made + params.height) / 2 : (made + params.height - 1) / 2 + 1;
        if (step >= steps) break;
        wait_copies<STAGES - 2>();
        __syncwarp();  // these rows are there, and those of the last step are done with
        const int coming = step + STAGES - 1;
        if (coming < steps)
            strip.fetch(ring_of(shared, params) + coming % STAGES * stage_bytes, input,
                        sources_of<T>(shared, params), params, 2 * coming - (ROLLING ? 0 : 1));
        commit_copies();
        if (step >= 0) {
            int turn = step;
            unsigned active;
            if constexpr (ROLLING) {
                turn %= PAIRS;
                const int newest = 2 * step + 1 + params.pad;
                active = pairs_of(max(params.pad, newest + 1 - strip.rows), newest, H);
                active = (active << PAIRS | active) >> turn & ALL;
            } else {
                active = pairs_of(max(H - 1 - 2 * step, H - strip.rows),
                                  H - 1 - 2 * step + params.height, H);
            }
            const unsigned char* rows = ring_of(shared, params) + step % STAGES * stage_bytes;
            // Rolling, the weights lie there twice: every turn finds a round of them.
            const uint2* weights =
                reinterpret_cast<const uint2*>(shared) + threadIdx.x +
                (threadIdx.y % parts_of<T>(params) * params.terms * params.pairs + turn) * 32;
            unsigned met = 0;
            if (active == ALL) {
                add_rows<T, H, true>(sums, met, rows, weights, active, first_slab, slabs, params);
            } else {
                add_rows<T, H, false>(sums, met, rows, weights, active, first_slab, slabs, params);
            }
            if constexpr (!Scalar<T>::integer) {
                if (__any_sync(FULL_WARP, int(met & HIGHEST)) && threadIdx.x == 0)
                    strip.strange |= 1u << (step >> params.log_steps);
            }
            if constexpr (ROLLING) {
                hand_over<T, H>(output, shared, sums, strip, params, PAIRS - 1 - turn, step,
                                2 * step + 1 - params.height);
            }
        }
    }
}

// The strips of a block's warps, one after the other.
template <typename T, int H, bool ROLLING>
__device__ __forceinline__ void filter(const T* input, T* output, const uint4* weights,
                                       const float* taps, const ToeplitzParams& params,
                                       unsigned char* shared) {
    constexpr int COLUMNS = TILES<H> * TILE;
    const int warp = threadIdx.y, rank = 32 * warp + threadIdx.x;
    SHARED_ARRAY(Strip<T>, strips, [WARPS]);
    Strip<T>& strip = strips[warp];
    const int slab_packs = parts_of<T>(params) * params.terms * params.pairs * 16;  // of 16 bytes
#pragma unroll 1
    for (int round = 0;; round = strip.round + 1) {
        const int at_once = WARPS / parts_of<T>(params);
        if ((int64(round) * gridDim.x + blockIdx.x) * at_once >= params.jobs) break;
        strip.begin(params, sources_of<T>(shared, params), round, COLUMNS);
        Sums<H> sums;
#pragma unroll
        for (int a = 0; a < H; ++a)
#pragma unroll
            for (int tile = 0; tile < TILES<H>; ++tile)
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[a][tile][i] = 0;
        int slab = 0;
#pragma unroll 1
        do {
            const int slabs = ROLLING ? params.slabs : min(params.chunk, params.slabs - slab);
            if (round == 0 || slabs < params.slabs) {
                __syncthreads();  // the weights before are done with
                uint4* some = reinterpret_cast<uint4*>(shared);
                for (int i = rank; i < slabs * slab_packs; i += 32 * WARPS)
                    some[i] = weights[slab * slab_packs + i];
                __syncthreads();
            }
            if (strip.rows || parts_of<T>(params) > 1)
                march<T, H, ROLLING>(input, output, sums, strip, shared, slab, slabs, params);
            if (!ROLLING) slab += slabs;
        } while (!ROLLING && slab < params.slabs);
        if constexpr (!ROLLING) {
#pragma unroll 1
            for (int row = 0; row < H; row += 2)
                hand_over<T, H>(output, shared, sums, strip, params, (H - 1 - row) / 2, row / 2,
                                row);
        }
        if constexpr (!Scalar<T>::integer) {
            const unsigned strange = strip.strange;
            __syncwarp();  // other lanes' results are about to be overwritten
#pragma unroll 1
            for (int row = 0; strange && row < strip.rows; ++row) {
                // Rolling, the steps that a row's sum went through.
                const int begin = max(0, row + params.height - H) / 2 >> params.log_steps,
                          end = (row + params.height - 1) / 2 >> params.log_steps;
                if (!ROLLING || (strange >> begin & ((2u << (end - begin)) - 1)))
                    strip.write_again(input, output, sources_of<T>(shared, params), taps, params,
                                      row, COLUMNS);
            }
        }
    }
}
#endif

// GPUs before sm_80 have none of these instructions; the host sends nothing there.
template <typename T, int H>
__global__ void __launch_bounds__(32 * WARPS, H == 8 ? 4 : 3)
    toeplitz_roll(const T* input, T* output, const uint4* weights, const float* taps,
                  const ToeplitzParams params) {
#ifdef HAS_TENSOR_CORES
    DYNAMIC_SHARED(unsigned char, shared);
    filter<T, H, true>(input, output, weights, taps, params, shared);
#else
    asm volatile("trap;");
#endif
}

template <typename T, int H>
__global__ void __launch_bounds__(32 * WARPS, 2)
    toeplitz_still(const T* input, T* output, const uint4* weights, const float* taps,
                   const ToeplitzParams params) {
#ifdef HAS_TENSOR_CORES
    DYNAMIC_SHARED(unsigned char, shared);
    filter<T, H, false>(input, output, weights, taps, params, shared);
#else
    asm volatile("trap;");
#endif
}
