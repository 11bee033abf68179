// Chains of image operations in one launch: what lies between them never leaves the block.
//
//   chain   loads a tile with the halo of all steps, sweeps over it step by step, stores the last
//
// Pixels lie in shared memory as floats, which hold every value of T. A step is one sweep, or one
// along H and one along W, from one buffer to another, with a barrier between. All regions of a
// block have the same size wherever the block lies: cells outside a step's image are computed as
// the others are, and then filled again from those inside (see `fill_outside`); a wrapping border
// needs no filling, since what was computed there is periodic already.
//
// Integers are exact, as gpuconv/plan/chain.py has checked. Floats meet the same operations in the
// same order as in dense.cu, separable.cu and the strips of gradients.
//
// A warp takes some rows of a region, a lane four neighbours of each, which it marches down. On
// sm_90 the issue of instructions is the limit: a cell of uint8 takes about 9 to load, 17 in a sweep
// of nine taps, 19 in one of a gradient, 13 to store; of float32 8, 12, 41 (hypot) and 12. A
// Gaussian of 9 × 9, Sobel's magnitude and a 2 × 2 pool of a large image, in tiles whose halos cost
// 1.7, 1.2, 1.2 and 1.07 times their pixels, are 82 a pixel of uint8 and 99 of float32. At 128 a
// clock an H200 makes 0.41 and 0.34 Tpx/s of that. What three launches read and write allows 0.82
// and 0.2: so bytes share a launch where images are small, and floats always.
#include "common/convert.cuh"
#include "common/hidden.cuh"
#include "common/image.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int Q = 4;  // neighbours of a thread

// Blocks of a multiprocessor that there shall be registers for: while one loads, others sweep.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 1200
template <typename T, int C>
constexpr int BLOCKS = Scalar<T>::integer || (__CUDA_ARCH__ == 900 && C != 3) ? 3 : 2;
#else
template <typename T, int C>
constexpr int BLOCKS = 2;
#endif

// Twins of the constants in gpuconv/backends/cuda/chain.py.
constexpr int MOST_SWEEPS = 8, MOST_TAPS = 25;

// What a sweep makes of a sum of integers; floats know Raw and Result. Twin of ENDINGS.
//
//   Raw       the sum as it is
//   Rounded   sum * scale, rounded: the middle of two sweeps, and what T surely holds
//   Result    sum * scale + offset, rounded and saturated
enum class Ending : int { Raw, Rounded, Result };

// One sweep over a tile. Its regions begin at the block's own places in a step's image: the input's
// at row place.y * scale_y + from_y. Twin of SWEEP.
struct Sweep {
    float weights[MOST_TAPS];
    float scale, offset;
    float real_amount;  // of floats
    int64 amount;       // of integers, in 1/2^AMOUNT_BITS
    int form;           // which window: see `sweep_tile`
    Ending ending;
    int shift;          // bits behind the point of a sum
    int rows, columns;                 // of what it gives, in elements; columns are whole packs
    int in_at, in_columns, out_at;     // buffers, in floats
    int own_at, own_columns;           // the pixels that an unsharp mask adds to
    int scale_y, from_y, scale_x, from_x;
    int height, width;  // of the image that it reads, in pixels
    Border border;
    int fills;          // cells outside that image are filled before
    float outside;      // under a constant border
    int window_y, window_x, stride_y, stride_x;  // of a pool
    int low_y, high_y, low_x, high_x;            // what an average counts
    uint32 flip_in, flip_out;                    // the sign: minima are maxima of -x
};
constexpr int AMOUNT_BITS = 12;

// Twin of CHAIN.
struct ChainParams {
    Images images;  // the output's strides are its own: its size may differ
    Tiling tiling;
    int tile_rows, tile_columns;
    int height, row;  // of the output, in elements
    int wide_stores;  // rows of the output begin at multiples of a pack, steps are 1
    int result_at;
    int in_rows, sweeps;
    Sweep sweep[MOST_SWEEPS];
};

// All of rows × columns in steps of STEP neighbours: work(y, x). A warp takes a row.
template <int STEP, typename Work>
__device__ __forceinline__ void each_place(int rows, int columns, Work work) {
    const int lane = hidden(threadIdx.x % 32), warp = hidden(threadIdx.x / 32);
    for (int y = warp; y < rows; y += WARPS)
        for (int x = lane * STEP; x < columns; x += 32 * STEP) work(y, x);
}

// The same in packs, where a warp takes R rows at a time: work.rows<R>(y, x, left) is for those
// from y on, of which `left` are there.
template <int R, typename Work>
__device__ __forceinline__ void each_group(int rows, int columns, const Work& work) {
    const int lane = hidden(threadIdx.x % 32), warp = hidden(threadIdx.x / 32);
    for (int y = warp * R; y < rows; y += WARPS * R)
        for (int x = lane * Q; x < columns; x += 32 * Q) work.template rows<R>(y, x, rows - y);
}

// value * scale, half to even, where that is below 2^22: the last bit of the sum is a unit.
__device__ __forceinline__ float round_whole(float value, float scale = 1.0f) {
    return __fmaf_rn(value, scale, 12582912.0f) - 12582912.0f;
}

template <typename T>
__device__ __forceinline__ float saturated(float value) {
    return round_whole(
        fminf(fmaxf(value, float(Scalar<T>::lowest())), float(Scalar<T>::highest())));
}

// A result as T holds it, in a float again.
template <typename T>
__device__ __forceinline__ float as_stored(float value) {
    if constexpr (Scalar<T>::integer) {
        return saturated<T>(value);
    } else if constexpr (same_type<T, float>) {
        return value;
    } else {
        return widen(convert<T>(value));
    }
}

// Four neighbours' sums become what lies in the next buffer. MIDDLE: they are never saturated.
template <bool MIDDLE, typename T>
__device__ __forceinline__ void finish(const float (&sums)[Q], float* target, const Sweep& sweep) {
    Pack<float, Q> results;
    if (!MIDDLE && sweep.ending == Ending::Result) {
#pragma unroll
        for (int q = 0; q < Q; ++q) {
            if constexpr (Scalar<T>::integer) {
                results.values[q] = saturated<T>(__fmaf_rn(sums[q], sweep.scale, sweep.offset));
            } else {
                results.values[q] = as_stored<T>(sums[q] + sweep.offset);
            }
        }
    } else if (Scalar<T>::integer && sweep.ending == Ending::Rounded) {
#pragma unroll
        for (int q = 0; q < Q; ++q) results.values[q] = round_whole(sums[q], sweep.scale);
    } else {
#pragma unroll
        for (int q = 0; q < Q; ++q) results.values[q] = sums[q];
    }
    store_pack(target, results);
}

// The first N neighbours from a multiple of four on. Half a pack would take the banks as long.
template <int N>
__device__ __forceinline__ void load_line(float (&values)[N], const float* place) {
#pragma unroll
    for (int n = 0; n < N; n += 4) {
        const auto pack = load_pack<4>(place + n);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (n + i < N) values[n + i] = pack.values[i];
    }
}

// Line `line` of those that `left` windows of H rows need, or the last one where it is beyond.
template <int H>
__device__ __forceinline__ int inside(int line, int left) {
    return line < H ? line : min(line, left + H - 2);
}

// Weighted sums over H × W: a lane marches down the lines of its rows and meets each once.
template <int H, int W, int C, typename T>
struct SumSweep {
    const Sweep& sweep;
    const float* in;
    float* out;
    float weights[H * W];

    template <int ROWS>
    __device__ __forceinline__ void rows(int y, int x, int left) const {
        const float* from = in + y * sweep.in_columns + x;
        float* target = out + y * sweep.columns + x;
        float sums[ROWS][Q];
#pragma unroll
        for (int line = 0; line < ROWS + H - 1; ++line) {
            float values[Q + (W - 1) * C];
            load_line(values, from + inside<H>(line, left) * sweep.in_columns);
#pragma unroll
            for (int i = 0; i < H; ++i) {
                const int r = line - i;
                if (r < 0 || r >= ROWS) continue;
#pragma unroll
                for (int j = 0; j < W; ++j)
#pragma unroll
                    for (int q = 0; q < Q; ++q)
                        sums[r][q] = __fmaf_rn(weights[i * W + j], values[q + j * C],
                                                  i + j ? sums[r][q] : 0.0f);
            }
            const int r = line - (H - 1);
            if (r == 0 || (r > 0 && r < left))
                finish<(H > W), T>(sums[r], target + r * sweep.columns, sweep);
        }
    }
};
template <int H, int W, int C, typename T>
__device__ __forceinline__ void sum_sweep(const Sweep& sweep, float* shared) {
    SumSweep<H, W, C, T> work = {sweep, shared + sweep.in_at, shared + sweep.out_at, {}};
#pragma unroll
    for (int i = 0; i < H * W; ++i) work.weights[i] = sweep.weights[i];
    constexpr int R = H > 1 && W > 1 ? 2 : H > 1 ? 4 : 1;
    each_group<R>(sweep.rows, sweep.columns, work);
}

// pixel + amount * (pixel - sum), for sums in place.
template <typename T>
__device__ __forceinline__ void unsharp_sweep(const Sweep& sweep, float* shared) {
    const float* own = shared + sweep.own_at;
    float* sums = shared + sweep.out_at;
    each_place<1>(sweep.rows, sweep.columns, [&](int y, int x) {
        const float pixel = own[y * sweep.own_columns + x];
        float& target = sums[y * sweep.columns + x];
        if constexpr (Scalar<T>::integer) {
            const int bits = sweep.shift + AMOUNT_BITS;
            const int64 whole = int64(pixel), missing = (whole << sweep.shift) - int64(target);
            const int64 result = drop_bits((whole << bits) + missing * sweep.amount, bits);
            target = float(int(convert<T>(result)));
        } else {
            target = as_stored<T>(pixel + (pixel - target) * sweep.real_amount);
        }
    });
}

// The length of the gradient.
template <typename T>
__device__ __forceinline__ float magnitude(float down, float across) {
    if constexpr (same_type<T, uint8>) {
        // Squares below 2^24 are exact, and larger ones saturate. The root of an integer below
        // 256^2 is at least 2^-11 from a half, and off by less than 2^-15.
        const float square = __fmaf_rn(down, down, across * across);
        return round_whole(fminf(quick_root(square), 255.0f));
    } else if constexpr (Scalar<T>::integer) {
        // A level off at most, and then what is missing is known modulo 2^32.
        const int a = int(across), b = int(down);
        const float square = __fmaf_rn(across, across, down * down);
        const int root = __float2int_rn(fminf(quick_root(square), 65536.0f));
        const int missing =
            int(uint32(a) * uint32(a) + uint32(b) * uint32(b) - uint32(root) * uint32(root));
        return float(min(max(root + (missing > root) - (missing <= -root), 0), 65535));
    } else {
        if constexpr (same_type<T, float16>) {
            // Float holds the squares. Infinity beside NaN is infinity, as hypot has it.
            const float larger = fmaxf(fabsf(across), fabsf(down));
            const float root = quick_root(__fmaf_rn(across, across, down * down));
            return as_stored<T>(larger > 1e30f ? larger : root);
        }
        return as_stored<T>(hypotf(down, across));
    }
}

// Both derivatives of a 3×3 window, [-1, 0, 1] along one axis and [outer, inner, outer] across, and
// their length, in the order of separable_strip.cu. Sums are floats, exact for integers.
template <int C, typename T>
struct GradientSweep {
    const Sweep& sweep;
    const float* in;
    float* out;
    float outer, inner;

    template <int ROWS>
    __device__ __forceinline__ void rows(int y, int x, int left) const {
        constexpr int N = Q + 2 * C;
        const float* from = in + y * sweep.in_columns + x;
        float* target = out + y * sweep.columns + x;
        float lines[3][N];
        load_line(lines[0], from);
        load_line(lines[1], from + sweep.in_columns);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            if (r > 0 && r >= left) break;
            load_line(lines[(r + 2) % 3], from + (r + 2) * sweep.in_columns);
            float smooth[N], difference[N];
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const float above = lines[r % 3][n], own = lines[(r + 1) % 3][n],
                            below = lines[(r + 2) % 3][n];
                smooth[n] = __fmaf_rn(outer, above + below, inner * own);
                difference[n] = below - above;
                // What lies in the middle has no weight, but its NaN and Inf shall be seen.
                if constexpr (!Scalar<T>::integer)
                    difference[n] = __fmaf_rn(0.0f, own, difference[n]);
            }
            Pack<float, Q> results;
#pragma unroll
            for (int q = 0; q < Q; ++q) {
                float across = smooth[q + 2 * C] - smooth[q];
                if constexpr (!Scalar<T>::integer) across = __fmaf_rn(0.0f, smooth[q + C], across);
                const float down = __fmaf_rn(outer, difference[q] + difference[q + 2 * C],
                                             inner * difference[q + C]);
                results.values[q] = magnitude<T>(down, across);
            }
            store_pack(target + r * sweep.columns, results);
        }
    }
};

__device__ __forceinline__ float flipped(float value, uint32 mask) {
    return __uint_as_float(__float_as_uint(value) ^ mask);
}

// The highest of H × W integers.
template <int H, int W, int C>
struct ExtremeSweep {
    const Sweep& sweep;
    const float* in;
    float* out;

    template <int ROWS>
    __device__ __forceinline__ void rows(int y, int x, int left) const {
        constexpr int N = Q + (W - 1) * C;
        const float* from = in + y * sweep.in_columns + x;
        float* target = out + y * sweep.columns + x;
        Pack<float, Q> best[ROWS];
#pragma unroll
        for (int line = 0; line < ROWS + H - 1; ++line) {
            float values[N];
            load_line(values, from + inside<H>(line, left) * sweep.in_columns);
#pragma unroll
            for (int n = 0; n < N; ++n) values[n] = flipped(values[n], sweep.flip_in);
#pragma unroll
            for (int i = 0; i < H; ++i) {
                const int r = line - i;
                if (r < 0 || r >= ROWS) continue;
#pragma unroll
                for (int j = 0; j < W; ++j)
#pragma unroll
                    for (int q = 0; q < Q; ++q) {
                        const float value = values[q + j * C];
                        best[r].values[q] = i + j ? fmaxf(best[r].values[q], value) : value;
                    }
            }
            const int r = line - (H - 1);
            if (r < 0 || (r > 0 && r >= left)) continue;
#pragma unroll
            for (int q = 0; q < Q; ++q)
                best[r].values[q] = flipped(best[r].values[q], sweep.flip_out);
            store_pack(target + r * sweep.columns, best[r]);
        }
    }
};
template <int H, int W, int C>
__device__ __forceinline__ void extreme_sweep(const Sweep& sweep, float* shared) {
    const ExtremeSweep<H, W, C> work = {sweep, shared + sweep.in_at, shared + sweep.out_at};
    each_group<H == 1 ? 1 : 4>(sweep.rows, sweep.columns, work);
}

__device__ __forceinline__ int counted(int first, int size, int low, int high) {
    return min(first + size, high) - max(first, low);
}

template <typename T>
__device__ __forceinline__ float larger(float a, float b) {
    if constexpr (Scalar<T>::integer) {
        return fmaxf(a, b);
    } else {
        return maximum(a, b);
    }
}

// The highest of 2 × 2, two apart: a pack of results from two packs of two rows.
template <int C, typename T>
__device__ __forceinline__ void pair_sweep(const Sweep& sweep, float* shared) {
    const float* in = shared + sweep.in_at;
    float* out = shared + sweep.out_at;
    each_place<Q>(sweep.rows, sweep.columns, [&](int y, int x) {
        const float* from = in + 2 * (y * sweep.in_columns + x);
        float lines[2][2 * Q];
        load_line(lines[0], from);
        load_line(lines[1], from + sweep.in_columns);
        Pack<float, Q> results;
#pragma unroll
        for (int q = 0; q < Q; ++q) {
            float best = lowest<float>();
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 2; ++j)
                    best = larger<T>(best, flipped(lines[i][q / C * 2 * C + q % C + j * C],
                                                   sweep.flip_in));
            results.values[q] = flipped(best, sweep.flip_out);
        }
        store_pack(out + y * sweep.columns + x, results);
    });
}

// Pools, an element a thread: extremes, where NaN wins, or means. `at_y`, `at_x`: where the input's
// region begins.
template <bool MEAN, int C, typename T>
__device__ __forceinline__ void pool_sweep(const Sweep& sweep, float* shared, int at_y,
                                           int at_x) {
    const float* in = shared + sweep.in_at;
    float* out = shared + sweep.out_at;
    const int pitch = sweep.in_columns;
    const int height = sweep.window_y, width = sweep.window_x;
    each_place<1>(sweep.rows, sweep.columns, [&](int y, int x) {
        const int from_y = y * sweep.stride_y, pixel = x / C * sweep.stride_x;
        const float* from = in + from_y * pitch + pixel * C + x % C;
        float result = MEAN ? 0.0f : lowest<float>();
#pragma unroll 1
        for (int i = 0; i < height; ++i) {
            float part = 0.0f;
#pragma unroll 1
            for (int j = 0; j < width; ++j) {
                const float value = from[i * pitch + j * C];
                if constexpr (MEAN) {
                    part += value;
                } else {
                    result = larger<T>(result, flipped(value, sweep.flip_in));
                }
            }
            if constexpr (MEAN) result += part;
        }
        if constexpr (MEAN) {
            const int count = counted(at_y + from_y, height, sweep.low_y, sweep.high_y) *
                              counted(at_x + pixel, width, sweep.low_x, sweep.high_x);
            // Sums below 2^24: a quotient is never rounded onto a half that it does not equal.
            result = as_stored<T>(__fdiv_rn(result, float(max(count, 1))));
        } else {
            result = flipped(result, sweep.flip_out);
        }
        out[y * sweep.columns + x] = result;
    });
}

// What a step's border answers, for the cells of its input outside the image. Those that lie too
// far outside for any result are left as they are: the element that answers for them may not be
// there. Returns once all is readable.
template <int C>
__device__ __forceinline__ void fill_outside(const Sweep& sweep, float* shared, int rows,
                                             int at_y, int at_x) {
    const int columns = sweep.in_columns;
    if (at_y >= 0 && at_y + rows <= sweep.height && at_x >= 0 &&
        at_x * C + columns <= sweep.width * C)
        return;
    float* tile = shared + sweep.in_at;
    each_place<1>(rows, columns, [&](int row, int column) {
        const int y = at_y + row, x = at_x + column / C;
        if (unsigned(y) < unsigned(sweep.height) && unsigned(x) < unsigned(sweep.width)) return;
        float value = sweep.outside;
        if (sweep.border != Border::Constant) {
            const int from_y = map_index(sweep.border, y, sweep.height) - at_y;
            const int from_x =
                (map_index(sweep.border, x, sweep.width) - at_x) * C + column % C;
            if (unsigned(from_y) >= unsigned(rows) || unsigned(from_x) >= unsigned(columns)) return;
            value = tile[from_y * columns + from_x];
        }
        tile[row * columns + column] = value;
    });
    __syncthreads();
}

// Windows that sweeps are compiled for. Twin of FORMS.
template <int C, typename T>
__device__ __forceinline__ void sweep_tile(const Sweep& sweep, float* shared, int at_y,
                                           int at_x) {
    switch (sweep.form) {
        case 0: return sum_sweep<1, 1, C, T>(sweep, shared);
        case 1: return sum_sweep<3, 1, C, T>(sweep, shared);
        case 2: return sum_sweep<5, 1, C, T>(sweep, shared);
        case 3: return sum_sweep<7, 1, C, T>(sweep, shared);
        case 4: return sum_sweep<9, 1, C, T>(sweep, shared);
        case 5: return sum_sweep<1, 3, C, T>(sweep, shared);
        case 6: return sum_sweep<1, 5, C, T>(sweep, shared);
        case 7: return sum_sweep<1, 7, C, T>(sweep, shared);
        case 8: return sum_sweep<1, 9, C, T>(sweep, shared);
        case 9: return sum_sweep<3, 3, C, T>(sweep, shared);
        case 10: return sum_sweep<5, 5, C, T>(sweep, shared);
        case 11: {
            const GradientSweep<C, T> work = {sweep, shared + sweep.in_at,
                                                 shared + sweep.out_at, sweep.weights[0],
                                                 sweep.weights[1]};
            return each_group<4>(sweep.rows, sweep.columns, work);
        }
        case 12: return unsharp_sweep<T>(sweep, shared);
        case 13: return pool_sweep<false, C, T>(sweep, shared, at_y, at_x);
        case 14: return pool_sweep<true, C, T>(sweep, shared, at_y, at_x);
    }
    if constexpr (Q % C == 0) {
        if (sweep.form == 15) return pair_sweep<C, T>(sweep, shared);
    }
    if constexpr (Scalar<T>::integer) {
        switch (sweep.form) {
            case 16: return extreme_sweep<3, 1, C>(sweep, shared);
            case 17: return extreme_sweep<5, 1, C>(sweep, shared);
            case 18: return extreme_sweep<7, 1, C>(sweep, shared);
            case 19: return extreme_sweep<1, 3, C>(sweep, shared);
            case 20: return extreme_sweep<1, 5, C>(sweep, shared);
            case 21: return extreme_sweep<1, 7, C>(sweep, shared);
        }
    }
}

// Four elements from element `lead` on of two packs that follow each other.
template <typename T>
__device__ __forceinline__ Pack<T, Q> pick(const Pack<T, Q>& first, const Pack<T, Q>& second,
                                           int lead) {
    Pack<T, Q> picked;
    if constexpr (sizeof(T) <= 2) {
        using Word = either<sizeof(T) == 2, uint64, uint32>;
        Word low, high;
        memcpy(&low, &first, sizeof(Word));
        memcpy(&high, &second, sizeof(Word));
        const int bits = 8 * int(sizeof(T)) * lead;
        if (lead) low = low >> bits | high << (8 * int(sizeof(Word)) - bits);
        memcpy(&picked, &low, sizeof(Word));
    } else {
#pragma unroll
        for (int q = 0; q < Q; ++q) {
            picked.values[q] = first.values[q];
#pragma unroll
            for (int i = 1; i < Q; ++i)
                if (lead == i) picked.values[q] = q + i < Q ? first.values[(q + i) % Q]
                                                            : second.values[(q + i) % Q];
        }
    }
    return picked;
}

// Four pixels as floats; bytes by way of the last bits of 2^23, which the conversion of integers
// would take longer for.
template <typename T>
__device__ __forceinline__ Pack<float, Q> widened(const Pack<T, Q>& pixels) {
    Pack<float, Q> wide;
#pragma unroll
    for (int q = 0; q < Q; ++q) {
        if constexpr (same_type<T, uint8>) {
            uint32 word;
            memcpy(&word, &pixels, sizeof(word));
            wide.values[q] =
                __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7650 + q)) - 8388608.0f;
        } else {
            wide.values[q] = widen(pixels.values[q]);
        }
    }
    return wide;
}

// Pixels of the image: packs as they lie in memory, two for each that begins between them (a cache
// has the second), of several rows before the first arrives.
template <typename T>
struct LoadInside {
    float* tile;
    const T* corner;
    int64 pitch;
    int columns, lead;

    template <int ROWS>
    __device__ __forceinline__ void rows(int y, int x, int left) const {
        const T* from = corner + y * pitch + x;
        Pack<T, Q> first[ROWS], second[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            first[r] = load_pack<Q>(from);
            if (lead) second[r] = load_pack<Q>(from + Q);
            if (r + 1 < left) from += pitch;
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
            if (r < left)
                store_pack(tile + (y + r) * columns + x,
                           widened(pick(first[r], second[r], lead)));
    }
};

// The first step's input, from row y and element x on. Where the image does not answer for all of
// it, or rows do not allow packs, the border is asked, element by element.
template <typename T>
__device__ __forceinline__ void load_pixels(float* tile, int rows, int columns, const T* input,
                                            const Images& images, int64 plane, int y, int x) {
    const T* start = input + images.plane_offset(images.input, plane);
    const int64 pitch = images.input.row;
    const int lead = fold(x, Q);
    if (images.wide_loads && y >= 0 && y + rows <= images.height && x >= lead &&
        x - lead + columns + Q <= images.row_elements()) {
        const LoadInside<T> work = {tile, start + y * pitch + x - lead, pitch, columns, lead};
        each_group<4>(rows, columns, work);
        return;
    }
    const T value = images.value.template as<T>();
    each_place<1>(rows, columns, [&](int row, int column) {
        const int from_y = map_index(images.border, y + row, images.height);
        const int from_x = map_element(images, x + column);
        const T* line = start + from_y * pitch;
        tile[row * columns + column] =
            widen(from_y < 0 || from_x < 0 ? value : line[from_x * images.input.step]);
    });
}

// A value that T holds, without a conversion of integers: they are the last bits of a larger sum.
template <typename T>
__device__ __forceinline__ T stored(float value) {
    if constexpr (Scalar<T>::integer) {
        return T(__float_as_uint(value + 12582912.0f));
    } else {
        return convert<T>(value);
    }
}

template <typename T>
__device__ __forceinline__ void store_pixels(T* output, const float* results,
                                             const ChainParams& params, const Tile& place) {
    const Images& images = params.images;
    T* start = output + images.plane_offset(images.output, place.plane);
    each_place<Q>(params.tile_rows, params.tile_columns, [&](int row, int column) {
        const int y = place.y + row, x = place.x + column, count = params.row - x;
        if (y >= params.height || count <= 0) return;
        const auto wide = load_pack<Q>(results + row * params.tile_columns + column);
        T* target = start + y * images.output.row + x * images.output.step;
        Pack<T, Q> pack;
#pragma unroll
        for (int q = 0; q < Q; ++q) pack.values[q] = stored<T>(wide.values[q]);
        if (params.wide_stores && count >= Q) {
            store_pack(target, pack);
        } else {
#pragma unroll
            for (int q = 0; q < Q; ++q)
                if (q < count) target[q * images.output.step] = pack.values[q];
        }
    });
}

template <typename T, int C>
__global__ void __launch_bounds__(THREADS, BLOCKS<T, C>)
    chain(const T* input, T* output, const ChainParams params) {
    DYNAMIC_SHARED(float, shared);
    const Images& images = params.images;
    for (int64 job = blockIdx.x; job < params.tiling.jobs; job += gridDim.x) {
        const Tile place = params.tiling.at(job, params.tile_rows, params.tile_columns);
        const auto begins_y = [&](const Sweep& sweep) {
            return place.y * sweep.scale_y + sweep.from_y;
        };
        const auto begins_x = [&](const Sweep& sweep) {
            return place.x / C * sweep.scale_x + sweep.from_x;
        };
        const Sweep& first = params.sweep[0];
        load_pixels(shared + first.in_at, params.in_rows, first.in_columns, input, images,
                    place.plane, begins_y(first), begins_x(first) * C);
        __syncthreads();
        int rows = params.in_rows;
#pragma unroll 1
        for (int s = 0; s < params.sweeps; ++s) {
            const Sweep& sweep = params.sweep[s];
            const int at_y = begins_y(sweep), at_x = begins_x(sweep);
            if (sweep.fills) fill_outside<C>(sweep, shared, rows, at_y, at_x);
            sweep_tile<C, T>(sweep, shared, at_y, at_x);
            rows = sweep.rows;
            __syncthreads();
        }
        store_pixels(output, shared + params.result_at, params, place);
        __syncthreads();  // the next job overwrites the buffers
    }
}
