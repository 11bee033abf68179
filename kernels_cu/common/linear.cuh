// Weighted sums over images: what dense.cu and separable.cu share.
//
// A block of 32 × 8 threads answers for a tile; a thread for packs of Q neighbours in several rows.
// The taps of a kernel row come in entries: Q neighbouring elements from a multiple of Q on, with
// a mask of those that a tap meets. So pixels and weights are read a pack at a time wherever the
// window begins and however many channels lie between two taps.
//
// Sums are kept in A: float and double (exact for the integers that the host sends there), int128
// for all others. What is left of a sum is in Finish.
#pragma once
#include "image.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS;

// Twins of ROWS_EACH and of the packs in gpuconv/backends/cuda/sums.py.
template <typename A>
constexpr int PACK = 16 / int(sizeof(A));
template <typename A>
constexpr int ROWS_EACH = sizeof(A) == 4 ? 4 : 2;
template <typename A>
constexpr int ROWS = WARPS * ROWS_EACH<A>;
template <typename A>
constexpr int COLUMNS = 32 * PACK<A>;

// Blocks that a multiprocessor shall have registers for: left to itself, the compiler takes so many
// that one block has them all.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool CONVERTS_BFLOAT16 = true;  // in several instructions, and more registers
#else
constexpr bool CONVERTS_BFLOAT16 = false;
#endif
template <typename T, typename A>
constexpr int BLOCKS_EACH =
    sizeof(A) == 16 || (CONVERTS_BFLOAT16 && same_type<T, bfloat16>) ? 1 : 2;

template <typename A>
using Weight = either<same_type<A, int128>, int64, A>;

__device__ __forceinline__ float multiply_add(float weight, float value, float sum) {
    return __fmaf_rn(weight, value, sum);
}
__device__ __forceinline__ double multiply_add(double weight, double value, double sum) {
    return __fma_rn(weight, value, sum);
}
__device__ __forceinline__ int128 multiply_add(int64 weight, int128 value, int128 sum) {
    return sum + weight * value;
}

// What is exact where sums in A are finished: int64 for the small sums of float.
template <typename A>
using Whole = either<same_type<A, float>, int64, int128>;

// Sums of a thread by row and element, and of several stencils.
template <typename A>
using RowSums = A[ROWS_EACH<A>][PACK<A>];
template <typename A, int STENCILS>
using Sums = RowSums<A>[STENCILS];

// How sums become results. Twin of HOW in gpuconv/backends/cuda/sums.py.
//
//   Sum         (sum + offset) * scale, rounded as it is stored; exact in A for integers
//   Exact       sum / 2^shift + delta for whatever delta
//   Magnitude   the root of the sum of two squares
//   Small       the same where both sums are below 2^15
//   Unsharp     pixel + amount * (pixel - sum)
enum class How : int { Sum, Exact, Magnitude, Small, Unsharp };

// Twin of FINISH in gpuconv/backends/cuda/sums.py.
struct Finish {
    double scale, offset;
    double real_amount;  // of floats
    int64 amount;        // of integers, in 1/2^AMOUNT_BITS
    // delta = even + (whole + about rest / 4) / 2^shift; rest tells 0, below, at, above a half.
    int64 even_high;
    uint64 even_low;
    int64 whole;
    int rest, shift;
    How how;
    int from_registers;  // rows of the output take packs, and the sums are soon finished
};
constexpr int AMOUNT_BITS = 12;

// Twin of LINEAR in gpuconv/backends/cuda/linear.py. A chunk is what shared memory holds at once;
// offsets (`_at`) count bytes.
struct LinearParams {
    Images images;
    Tiling tiling;
    Finish finish;
    int height, entries;                         // of the kernel
    int top;                                     // rows above the output's own
    int left;                                    // packs from an output to its first entry's
    int chunk_height, chunk_entries;
    int flush_height, flush_entries;             // after so many, another block of taps begins
    int pitch, middle_packs;                     // of the tile, of the middle of two passes
    int column_shift;
    int row_at, places_at, middle_at, tile_at;
};

constexpr int NEVER = 0x7fffffff;  // flush_entries of short windows

// Places of entries: pack * 16 + mask.
__device__ __forceinline__ int pack_of(int place) {
    return place >> 4;
}

template <typename A, typename T>
__device__ __forceinline__ void load_values(A* values, const T* place) {
    const Pack<T, PACK<A>> pack = load_pack<PACK<A>>(place);
#pragma unroll
    for (int q = 0; q < PACK<A>; ++q) {
        if constexpr (same_type<A, T>) {
            values[q] = pack.values[q];
        } else {
            values[q] = A(widen(pack.values[q]));
        }
    }
}

// Copies of a few host numbers, by all threads together.
template <typename T>
__device__ __forceinline__ void copy_numbers(T* target, const T* source, int count) {
    const int rank = threadIdx.y * 32 + threadIdx.x;
    for (int i = rank; i < count; i += THREADS) target[i] = source[i];
}

template <typename A>
__device__ __forceinline__ void clear(RowSums<A>& sums) {
#pragma unroll
    for (int r = 0; r < ROWS_EACH<A>; ++r)
#pragma unroll
        for (int q = 0; q < PACK<A>; ++q) sums[r][q] = A(0);
}

// A block of taps is whole: its sums join the totals and begin again.
template <typename A>
__device__ __forceinline__ void flush(A (&totals)[PACK<A>], A (&sums)[PACK<A>]) {
#pragma unroll
    for (int q = 0; q < PACK<A>; ++q) {
        totals[q] += sums[q];
        sums[q] = A(0);
    }
}
template <typename A>
__device__ __forceinline__ void flush(RowSums<A>& totals, RowSums<A>& sums) {
#pragma unroll
    for (int r = 0; r < ROWS_EACH<A>; ++r) flush<A>(totals[r], sums[r]);
}

template <typename A>
__device__ __forceinline__ int128 magnitude(A down, A across) {
    if constexpr (sizeof(A) < 16) {
        if (fabs(down) < 67108864 && fabs(across) < 67108864) {
            // Squares below 2^52: exact, and no integer's root lies close to a half.
            const double a = down, b = across;
            return int128(rint(sqrt(a * a + b * b)));
        }
    }
    const int128 a = int128(down), b = int128(across);
    const uint128 x = uint128(a < 0 ? -a : a), y = uint128(b < 0 ? -b : b);
    const uint128 most = ~uint64(0);
    if (x > most || y > most) return int128(most);
    const uint128 square = x * x, both = square + y * y;
    return int128(both < square ? ~uint64(0) : round_root(both));
}

// The same of sums below 2^15.
__device__ __forceinline__ int small_magnitude(int a, int b) {
    const int square = a * a + b * b;
    int root = __float2int_rn(sqrtf(float(square)));
    // root is the answer if root^2 - root < square <= root^2 + root.
    root += square > root * root + root;
    root -= root && square <= root * root - root;
    return root;
}
__device__ __forceinline__ float length(float x, float y) {
    return hypotf(x, y);
}
__device__ __forceinline__ double length(double x, double y) {
    return hypot(x, y);
}

// One result from its sums; every way there is.
template <typename T, typename A, int STENCILS, typename In, typename Out>
__device__ __forceinline__ void finish_element(const A (&sums)[STENCILS], const In* input,
                                               Out* output, const Images& images,
                                               const Finish& finish, int64 plane, int y, int x) {
    const auto pixel = [&] {
        return widen(fetch<T>(input,
                              images.plane_offset(images.input, plane) + y * images.input.row +
                                  x * images.input.step,
                              images.input_kind));
    };
    if constexpr (!Scalar<T>::integer) {
        A result = sums[0] + A(finish.offset);
        if constexpr (STENCILS == 2) {
            result = length(sums[0], sums[1]);
        } else if (finish.how == How::Unsharp) {
            const A own = A(pixel());
            result = own + (own - sums[0]) * A(finish.real_amount);
        }
        write_element(output, images, plane, y, x, result);
    } else {
        int128 result;
        if constexpr (STENCILS == 2) {
            result = magnitude(sums[0], sums[1]);
        } else if (finish.how == How::Unsharp) {
            const int bits = finish.shift + AMOUNT_BITS;
            const Whole<A> own = Whole<A>(pixel());
            const Whole<A> missing = (own << finish.shift) - Whole<A>(sums[0]);
            result = drop_bits((own << bits) + missing * finish.amount, bits);
        } else {
            if constexpr (sizeof(A) < 16) {
                if (finish.how == How::Sum) {
                    const A scaled = (sums[0] + A(finish.offset)) * A(finish.scale);
                    write_element(output, images, plane, y, x, scaled);
                    return;
                }
            }
            const Whole<A> quarters = (Whole<A>(sums[0]) + finish.whole) * 4 + finish.rest;
            const int128 even = int128(uint128(finish.even_high) << 64 | finish.even_low);
            result = drop_bits(quarters, finish.shift + 2) + even;
        }
        // All outputs' ranges lie within these two.
        if (result < 0) {
            const int128 least = Scalar<int64>::lowest();
            write_element(output, images, plane, y, x, int64(result < least ? least : result));
        } else {
            const int128 most = Scalar<uint64>::highest();
            write_element(output, images, plane, y, x, uint64(result > most ? most : result));
        }
    }
}

// How::Sum, of what is exact in A.
template <typename T, typename A>
__device__ __forceinline__ T rounded_sum(A sum, const Finish& finish) {
    sum += A(finish.offset);
    if constexpr (Scalar<T>::integer) sum *= A(finish.scale);
    return convert<T>(sum);
}

// The first `count` of a pack's values, or all; rows take whole packs.
template <typename T, int Q>
__device__ __forceinline__ void write_pack(T* target, const Pack<T, Q>& pack, int count) {
    if (count >= Q) {
        store_pack(target, pack);
    } else {
#pragma unroll
        for (int q = 0; q < Q; ++q)
            if (q < count) target[q] = pack.values[q];
    }
}

// The results of a tile from its threads' sums. `shared` is overwritten: every thread of the block
// must be done with it, and must wait at a barrier before using it again.
template <typename T, typename A, int STENCILS, typename In, typename Out>
__device__ __forceinline__ void finish_tile(const Sums<A, STENCILS>& sums, unsigned char* shared,
                                            const In* input, Out* output, const Images& images,
                                            const Finish& finish, const Tile& place) {
    constexpr int Q = PACK<A>, R = ROWS_EACH<A>;
    const int lane = threadIdx.x, warp = threadIdx.y, first = place.y + warp * R;
    if constexpr (same_type<Out, T> && !same_type<A, int128>) {
        if (finish.from_registers) {
            const int64 start = images.plane_offset(images.output, place.plane);
            const int x = place.x + lane * Q;
#pragma unroll
            for (int r = 0; r < R; ++r) {
                Pack<T, Q> results;
#pragma unroll
                for (int q = 0; q < Q; ++q) {
                    if constexpr (STENCILS == 2 && Scalar<T>::integer) {
                        results.values[q] =
                            convert<T>(small_magnitude(int(sums[0][r][q]), int(sums[1][r][q])));
                    } else if constexpr (STENCILS == 2) {
                        results.values[q] = convert<T>(length(sums[0][r][q], sums[1][r][q]));
                    } else {
                        results.values[q] = rounded_sum<T>(sums[0][r][q], finish);
                    }
                }
                const int y = first + r;
                if (y < images.height)
                    write_pack(output + start + y * images.output.row + x, results,
                               images.row_elements() - x);
            }
            return;
        }
    }
    // By way of shared memory, where a warp has its place: so that neighbouring threads write
    // neighbouring elements, and the code of all the ways is there once.
    A* stage = reinterpret_cast<A*>(shared) + warp * (STENCILS * R * COLUMNS<A>);
#pragma unroll
    for (int s = 0; s < STENCILS; ++s)
#pragma unroll
        for (int r = 0; r < R; ++r) {
            Pack<A, Q> pack;
#pragma unroll
            for (int q = 0; q < Q; ++q) pack.values[q] = sums[s][r][q];
            store_pack(stage + (s * R + r) * COLUMNS<A> + lane * Q, pack);
        }
    __syncwarp();
#pragma unroll 1
    for (int i = lane; i < R * COLUMNS<A>; i += 32) {
        const int y = first + i / COLUMNS<A>, x = place.x + i % COLUMNS<A>;
        if (y < images.height && x < images.row_elements()) {
            A own[STENCILS];
#pragma unroll
            for (int s = 0; s < STENCILS; ++s) own[s] = stage[s * R * COLUMNS<A> + i];
            finish_element<T>(own, input, output, images, finish, place.plane, y, x);
        }
    }
}
