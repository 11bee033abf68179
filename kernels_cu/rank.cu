// The `rank`-th smallest pixel of a box, as in gpuconv/backends/numpy/rank.py.
//
//   rank_any    any window: the answer is found bit by bit, from the highest down, by counting the
//               keys of the window that lie below a trial value (radix selection)
//   median      3×3, 5×5 and 7×7: sorting networks in registers, for two rows at once
//
// Both compare keys, unsigned numbers that order as the pixels do (common/keys.cuh). A block takes
// a tile of one plane. The tile with its halo lies in shared memory; rank_any reads windows that
// are too large for that from memory.
#include "common/image.cuh"
#include "common/keys.cuh"

constexpr int ROWS = 8, COLUMNS = 32;

// Twin of RANK in gpuconv/backends/cuda/rank.py.
struct RankParams {
    Images images;
    Tiling tiling;
    Keys keys;
    int height, width;  // of the window
    int pad_y, pad_x;   // pixels of the window above and left of its own
    int rank;
    int rows;   // of a tile
    int pitch;  // of the tile in shared memory; 0 where windows are read from memory
};

template <typename T, typename In, typename Out>
__global__ void __launch_bounds__(256, 1)
    rank_any(const Memory<In>* input, Memory<Out>* output, const RankParams params) {
    using U = Key<T>;
    DYNAMIC_SHARED(T, tile);
    const Images& images = params.images;
    const Keys& keys = params.keys;
    const int channels = images.channels;
    for (int64 job = blockIdx.x; job < params.tiling.jobs; job += gridDim.x) {
        const Tile place = params.tiling.at(job, ROWS, COLUMNS);
        const int top = place.y - params.pad_y;
        const int left = place.x - params.pad_x * channels, lead = lead_in<T>(left);
        if (params.pitch) {
            load_tile(tile, params.pitch, ROWS + params.height - 1,
                      lead + COLUMNS + (params.width - 1) * channels, input, images, place.plane,
                      top, left - lead);
            __syncthreads();
        }
        const int y = place.y + int(threadIdx.y), x = place.x + int(threadIdx.x);
        if (y < images.height && x < images.row_elements()) {
            const T* window = tile + int(threadIdx.y) * params.pitch + lead + int(threadIdx.x);
            // The greatest key with at most `rank` pixels below it is the answer's.
            U found = 0;
            bool has_nan = false;
            for (int bit = sizeof(T) * 8 - 1; bit >= 0; --bit) {
                const U trial = U(found | U(U(1) << bit));
                int below = 0;
                for (int i = 0; i < params.height; ++i) {
                    for (int j = 0; j < params.width; ++j) {
                        const U key = keys.of(
                            params.pitch
                                ? window[i * params.pitch + j * channels]
                                : read_element<T>(input, images, place.plane,
                                                  top + int(threadIdx.y) + i,
                                                  left + int(threadIdx.x) + j * channels));
                        below += key < trial;
                        has_nan |= keys.is_nan(key);
                    }
                }
                if (below <= params.rank) found = trial;
            }
            if (has_nan) found = U(~U(0));
            write_element(output, images, place.plane, y, x, pixel_of<T>(keys.bits(found)));
        }
        __syncthreads();  // the next job overwrites the tile
    }
}

// Two keys of 16 bits side by side, compared by one instruction where the GPU has it.
#if defined(GPUCONV_EMULATOR) || __CUDA_ARCH__ >= 900
constexpr bool PAIRS = true;
#else
constexpr bool PAIRS = false;
#endif

__device__ __forceinline__ uint32 minimum_pair(uint32 a, uint32 b) {
#ifdef GPUCONV_EMULATOR
    return min(a & 0xffffu, b & 0xffffu) | min(a >> 16, b >> 16) << 16;
#else
    return __vminu2(a, b);
#endif
}
__device__ __forceinline__ uint32 maximum_pair(uint32 a, uint32 b) {
#ifdef GPUCONV_EMULATOR
    return max(a & 0xffffu, b & 0xffffu) | max(a >> 16, b >> 16) << 16;
#else
    return __vmaxu2(a, b);
#endif
}

// What is compared: `WIDTH` keys at once, of columns 32 apart.
template <typename U, bool pairs = PAIRS && sizeof(U) <= 2>
struct Comparand {
    static constexpr int WIDTH = 1;
    U key;

    static __device__ __forceinline__ Comparand load(const U* place) { return {*place}; }
    __device__ __forceinline__ U part(int) const { return key; }
    static __device__ __forceinline__ Comparand lower(Comparand a, Comparand b) {
        return {a.key < b.key ? a.key : b.key};
    }
    static __device__ __forceinline__ Comparand higher(Comparand a, Comparand b) {
        return {a.key < b.key ? b.key : a.key};
    }
};
template <typename U>
struct Comparand<U, true> {
    static constexpr int WIDTH = 2;
    uint32 keys;

    static __device__ __forceinline__ Comparand load(const U* place) {
        return {uint32(place[0]) | uint32(place[32]) << 16};
    }
    __device__ __forceinline__ U part(int i) const { return U(i ? keys >> 16 : keys); }
    static __device__ __forceinline__ Comparand lower(Comparand a, Comparand b) {
        return {minimum_pair(a.keys, b.keys)};
    }
    static __device__ __forceinline__ Comparand higher(Comparand a, Comparand b) {
        return {maximum_pair(a.keys, b.keys)};
    }
};

// Batcher's odd-even merge sort (1968) of N values. All places are known when this is compiled:
// comparisons that lead to no value that is read later are left out by the compiler.
template <int STEP = 1, int GAP = 1, typename C, int N>
__device__ __forceinline__ void sort(C (&values)[N]) {
    if constexpr (STEP < N) {
        constexpr int START = GAP % STEP;
#pragma unroll
        for (int i = START; i < N - GAP; ++i) {
            if ((i - START) / GAP % 2 == 0 && i / (2 * STEP) == (i + GAP) / (2 * STEP)) {
                const C lower = C::lower(values[i], values[i + GAP]);
                values[i + GAP] = C::higher(values[i], values[i + GAP]);
                values[i] = lower;
            }
        }
        if constexpr (GAP > 1) {
            sort<STEP, GAP / 2>(values);
        } else {
            sort<2 * STEP, 2 * STEP>(values);
        }
    }
}

constexpr int MEDIAN_COLUMNS = 64;

// Windows of SIZE × SIZE, SIZE odd. Two windows, one above the other, share SIZE - 1 rows. Of
// these, sorted, only the SIZE + 1 values in the middle can be a median, whatever the window's own
// row adds. The median is the middle of both sorted lists together: the least, over all ways to
// take SIZE + 1 values from their fronts, of the highest value taken.
template <int SIZE, typename U>
__global__ void __launch_bounds__(256, 1)
    median(const U* input, U* output, const RankParams params) {
    using C = Comparand<U>;
    DYNAMIC_SHARED(U, tile);
    const Images& images = params.images;
    const Keys& keys = params.keys;
    const int channels = images.channels, pitch = params.pitch;
    const int lane = threadIdx.x, warp = threadIdx.y;
    for (int64 job = blockIdx.x; job < params.tiling.jobs; job += gridDim.x) {
        const Tile place = params.tiling.at(job, params.rows, MEDIAN_COLUMNS);
        const int top = place.y - params.pad_y;
        const int left = place.x - params.pad_x * channels, lead = lead_in<U>(left);
        const int rows = params.rows + SIZE - 1;
        const int columns = lead + MEDIAN_COLUMNS + (SIZE - 1) * channels;
        load_tile(tile, pitch, rows, columns, input, images, place.plane, top, left - lead);
        __syncthreads();
        bool has_nan = false;
        if (!keys.trivial())
            has_nan = __syncthreads_or(turn_to_keys(tile, pitch, rows, columns, keys));
        const int tasks = params.rows / C::WIDTH;
#pragma unroll 1
        for (int task = warp; task < tasks; task += blockDim.y) {
            // A task is two rows of all columns where keys are compared in pairs, else of half.
            const int y = task / (3 - C::WIDTH) * 2;
            const int x = lane + task % (3 - C::WIDTH) * 32;
            const U* corner = tile + y * pitch + lead + x;
            C shared[SIZE * (SIZE - 1)];
#pragma unroll
            for (int i = 0; i < SIZE - 1; ++i) {
#pragma unroll
                for (int j = 0; j < SIZE; ++j)
                    shared[i * SIZE + j] = C::load(corner + (i + 1) * pitch + j * channels);
            }
            sort(shared);
            constexpr int FIRST = SIZE * SIZE / 2 - SIZE;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                C own[SIZE];
#pragma unroll
                for (int j = 0; j < SIZE; ++j)
                    own[j] = C::load(corner + half * SIZE * pitch + j * channels);
                sort(own);
                C found = shared[FIRST + SIZE];
#pragma unroll
                for (int i = 0; i < SIZE; ++i)
                    found = C::lower(found, C::higher(shared[FIRST + i], own[SIZE - 1 - i]));
#pragma unroll
                for (int i = 0; i < C::WIDTH; ++i) {
                    U key = found.part(i);
                    if (has_nan) {
                        const U* window = corner + half * pitch + i * 32;
                        for (int j = 0; j < SIZE * SIZE; ++j) {
                            const U other = window[j / SIZE * pitch + j % SIZE * channels];
                            if (keys.is_nan(other)) key = other;
                        }
                    }
                    const int to_y = place.y + y + half, to_x = place.x + x + i * 32;
                    if (to_y < images.height && to_x < images.row_elements())
                        write_element(output, images, place.plane, to_y, to_x, keys.bits(key));
                }
            }
        }
        __syncthreads();  // the next job overwrites the tile
    }
}
