// The `rank`-th smallest pixel of a box, as in gpuconv/backends/numpy/rank.py.
//
//   rank_any    any window: the answer is found bit by bit, from the highest down, by counting the
//               keys of the window that lie below a trial value (radix selection)
//   median      3×3, 5×5 and 7×7: sorting networks in registers, shared by neighbouring windows
//
// Both compare keys, unsigned numbers that order as the pixels do (common/keys.cuh). A block takes
// a tile of one plane. The tile with its halo lies in shared memory; rank_any reads windows that
// are too large for that from memory.
//
// `median` is bound by the pipe that compares, 64 lanes a clock and multiprocessor. Its 5×5 takes
// 60 comparisons a median, its 7×7 122, of which sm_90 does two at once for keys of 16 bits: with
// the PRMT that make pairs 37 and 71 lanes a pixel, 1.7 and 0.9 pixels a clock.
#include "common/image.cuh"
#include "common/keys.cuh"
#include "common/pairs.cuh"

constexpr int ROWS = 8, COLUMNS = 32, WARPS = 4;

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
    int wide_stores;  // rows of the output begin at multiples of 16 bytes, steps are 1
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

// Of `PIXELS` pixels in order, those from the rank `BELOW` on that may be a window's median.
template <typename C, int N, int PIXELS, int BELOW>
struct Ranked {
    static constexpr int COUNT = N, pixels = PIXELS, below = BELOW;
    C values[N];
};

// Batcher's odd-even merge (1968) of N and M values, every STEP-th of a and b from FIRST on. All
// places are known when this is compiled: comparisons that lead to no value that is read later are
// left out by the compiler.
template <int FIRST, int STEP, int N, int M, typename C, int A, int B>
__device__ __forceinline__ void merge(C (&merged)[N + M], const C (&a)[A], const C (&b)[B]) {
    if constexpr (N == 0 || M == 0) {
#pragma unroll
        for (int i = 0; i < N; ++i) merged[i] = a[FIRST + i * STEP];
#pragma unroll
        for (int i = 0; i < M; ++i) merged[i] = b[FIRST + i * STEP];
    } else if constexpr (N == 1 && M == 1) {
        merged[0] = C::lower(a[FIRST], b[FIRST]);
        merged[1] = C::higher(a[FIRST], b[FIRST]);
    } else {
        constexpr int EVEN = (N + 1) / 2 + (M + 1) / 2, ODD = N / 2 + M / 2;
        constexpr int PAIRED = ODD < EVEN - 1 ? ODD : EVEN - 1;
        C even[EVEN], odd[ODD];
        merge<FIRST, 2 * STEP, (N + 1) / 2, (M + 1) / 2>(even, a, b);
        merge<FIRST + STEP, 2 * STEP, N / 2, M / 2>(odd, a, b);
        merged[0] = even[0];
#pragma unroll
        for (int i = 0; i < PAIRED; ++i) {
            merged[2 * i + 1] = C::lower(odd[i], even[i + 1]);
            merged[2 * i + 2] = C::higher(odd[i], even[i + 1]);
        }
#pragma unroll
        for (int i = PAIRED; i < EVEN - 1; ++i) merged[i + 1 + PAIRED] = even[i + 1];
#pragma unroll
        for (int i = PAIRED; i < ODD; ++i) merged[i + EVEN] = odd[i];
    }
}

// Medians of SIZE × SIZE pixels.
template <int SIZE, typename C>
struct Medians {
    static constexpr int PIXELS = SIZE * SIZE, RANK = PIXELS / 2;

    static __device__ constexpr int power_below(int n) {
        int power = 1;
        while (power * 2 < n) power *= 2;
        return power;
    }

    // Both in order, without what is no window's median whatever its other pixels are.
    template <typename A, typename B>
    static __device__ __forceinline__ auto join(const A& a, const B& b) {
        constexpr int COUNT = A::pixels + B::pixels, BELOW = A::below + B::below;
        constexpr int ALL = A::COUNT + B::COUNT, SURE = COUNT - PIXELS + RANK;
        constexpr int FIRST = SURE > BELOW ? SURE - BELOW : 0;
        constexpr int END = RANK + 1 - BELOW < ALL ? RANK + 1 - BELOW : ALL;
        C merged[ALL];
        merge<0, 1, A::COUNT, B::COUNT>(merged, a.values, b.values);
        Ranked<C, END - FIRST, COUNT, BELOW + FIRST> result;
#pragma unroll
        for (int i = FIRST; i < END; ++i) result.values[i - FIRST] = merged[i];
        return result;
    }
    // N things from `first` on, joined: part(i) is the i-th.
    template <int N, typename Part>
    static __device__ __forceinline__ auto join_all(int first, Part part) {
        if constexpr (N == 1) {
            return part(first);
        } else {
            constexpr int HALF = power_below(N);
            return join(join_all<HALF>(first, part), join_all<N - HALF>(first + HALF, part));
        }
    }
    // N pixels of a column (`down`) or of a row.
    template <int N, typename Load>
    static __device__ __forceinline__ auto line(int y, int x, bool down, Load load) {
        return join_all<N>(0, [&](int i) {
            return Ranked<C, 1, 1, 0>{{load(down ? y + i : y, down ? x : x + i)}};
        });
    }
    // The median of both: the least, over all ways to take as many values from their fronts, of
    // the highest value taken.
    template <typename A, typename B>
    static __device__ __forceinline__ C select(const A& a, const B& b) {
        constexpr int WANTED = RANK + 1 - A::below - B::below;
        constexpr int FEWEST = WANTED > B::COUNT ? WANTED - B::COUNT : 0;
        constexpr int MOST = A::COUNT < WANTED ? A::COUNT : WANTED;
        C found;
#pragma unroll
        for (int i = FEWEST; i <= MOST; ++i) {
            const int j = WANTED - i;
            const C highest = i == 0   ? b.values[j - 1]
                              : j == 0 ? a.values[i - 1]
                                       : C::higher(a.values[i - 1], b.values[j - 1]);
            found = i == FEWEST ? highest : C::lower(found, highest);
        }
        return found;
    }

    // The windows of H × W outputs from (y, x) on, halved again and again (Sugy 2025). All share
    // the pixels of the core; what some of them have besides lies in W - 1 columns left of the core
    // and right of it, H - 1 rows above and below, each in order, and in the corners. A half takes
    // the columns that all its windows have into its core, and their corners into its rows.
    //
    //   corner  row row  corner
    //   column   core    column
    //   corner  row row  corner
    template <int H, int W, typename Core, typename Column, typename Row, typename Load,
              typename Store>
    static __device__ __forceinline__ void halve(int y, int x, const Core& core,
                                                 const Column* columns, const Row* rows, Load load,
                                                 Store store) {
        if constexpr (H >= W) {
            constexpr int HALF = H / 2;
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                const int top = y + side * HALF, first = side ? H - 1 : HALF - 1;
                const int from = side ? y + SIZE : y + HALF - 1;  // of the rows that join the core
                const auto taken = join_all<HALF>(first, [&](int i) { return rows[i]; });
                if constexpr (H * W == 2) {
                    store(top, x, select(core, taken));
                } else {
                    using Longer = decltype(join(columns[0], line<HALF>(0, 0, true, load)));
                    Longer longer[W > 1 ? 2 * (W - 1) : 1];
#pragma unroll
                    for (int i = 0; i < 2 * (W - 1); ++i) {
                        const int at = i < W - 1 ? x + i : x + SIZE + i - (W - 1);
                        longer[i] = join(columns[i], line<HALF>(from, at, true, load));
                    }
                    Row left[HALF > 1 ? 2 * (HALF - 1) : 1];
#pragma unroll
                    for (int i = 0; i < HALF - 1; ++i) {
                        left[i] = rows[side * HALF + i];
                        left[HALF - 1 + i] = rows[H - 1 + side * HALF + i];
                    }
                    halve<HALF, W>(top, x, join(core, taken), longer, left, load, store);
                }
            }
        } else {
            constexpr int HALF = W / 2;
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                const int left = x + side * HALF, first = side ? W - 1 : HALF - 1;
                const int from = side ? x + SIZE : x + HALF - 1;
                const auto taken = join_all<HALF>(first, [&](int i) { return columns[i]; });
                if constexpr (H * W == 2) {
                    store(y, left, select(core, taken));
                } else {
                    using Longer = decltype(join(rows[0], line<HALF>(0, 0, false, load)));
                    Longer longer[H > 1 ? 2 * (H - 1) : 1];
#pragma unroll
                    for (int i = 0; i < 2 * (H - 1); ++i) {
                        const int at = i < H - 1 ? y + i : y + SIZE + i - (H - 1);
                        longer[i] = join(rows[i], line<HALF>(at, from, false, load));
                    }
                    Column rest[HALF > 1 ? 2 * (HALF - 1) : 1];
#pragma unroll
                    for (int i = 0; i < HALF - 1; ++i) {
                        rest[i] = columns[side * HALF + i];
                        rest[HALF - 1 + i] = columns[W - 1 + side * HALF + i];
                    }
                    halve<H, HALF>(y, left, join(core, taken), rest, longer, load, store);
                }
            }
        }
    }

    // H × W medians: load(y, x) is a pixel of the first window or beyond, store(y, x, median).
    template <int H, int W, typename Load, typename Store>
    static __device__ __forceinline__ void find(Load load, Store store) {
        constexpr int HIGH = SIZE - H + 1, WIDE = SIZE - W + 1;  // of the core
        const auto core = join_all<WIDE>(
            W - 1, [&](int x) { return line<HIGH>(H - 1, x, true, load); });
        decltype(line<HIGH>(0, 0, true, load)) columns[2 * (W - 1)];
        decltype(line<WIDE>(0, 0, false, load)) rows[2 * (H - 1)];
#pragma unroll
        for (int i = 0; i < W - 1; ++i) {
            columns[i] = line<HIGH>(H - 1, i, true, load);
            columns[W - 1 + i] = line<HIGH>(H - 1, SIZE + i, true, load);
        }
#pragma unroll
        for (int i = 0; i < H - 1; ++i) {
            rows[i] = line<WIDE>(i, W - 1, false, load);
            rows[H - 1 + i] = line<WIDE>(SIZE + i, W - 1, false, load);
        }
        halve<H, W>(0, 0, core, columns, rows, load, store);
    }
};

// A lane finds SIDE × SIDE medians, or two such squares, one below the other, where keys are
// compared in pairs. Neighbouring lanes take the channels of a pixel, then the next SIDE pixels.
// Twin of _side in gpuconv/backends/cuda/rank.py.
template <int SIZE, int BYTES>
constexpr int SIDE = SIZE == 3 || BYTES == 8 ? 2 : 4;


// Blocks that a multiprocessor has registers for: some load while others compare.
template <int SIZE, int BYTES>
constexpr int BLOCKS = SIZE == 3 ? 4 : SIZE == 5 || BYTES == 8 ? 3 : 2;

template <int SIZE, typename U>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS<SIZE, sizeof(U)>)
    median(const U* input, U* output, const RankParams params) {
    using C = Comparand<U>;
    constexpr int N = SIDE<SIZE, sizeof(U)>;
    DYNAMIC_SHARED(U, tile);
    const Images& images = params.images;
    const Keys& keys = params.keys;
    const int channels = images.channels, pitch = params.pitch;
    const int groups = 32 / channels;
    const bool idle = threadIdx.x >= groups * channels;  // of three channels: two lanes
    const int lane = idle ? 0 : threadIdx.x, warp = threadIdx.y;
    const int x = lane / channels * N * channels + lane % channels;
    for (int64 job = blockIdx.x; job < params.tiling.jobs; job += gridDim.x) {
        const int width = groups * channels * N;
        const Tile place = params.tiling.at(job, params.rows, width);
        const int top = place.y - params.pad_y;
        const int left = place.x - params.pad_x * channels, lead = lead_in<U>(left);
        const int rows = params.rows + SIZE - 1;
        const int columns = lead + width + (SIZE - 1) * channels;
        load_tile(tile, pitch, rows, columns, input, images, place.plane, top, left - lead);
        __syncthreads();
        bool has_nan = false;
        if (!keys.trivial())
            has_nan = __syncthreads_or(turn_to_keys(tile, pitch, rows, columns, keys));
        U* plane = output + images.plane_offset(images.output, place.plane);
        const int tasks = params.rows / (N * C::WIDTH), to_x = place.x + x;
#pragma unroll 1
        for (int task = warp; task < tasks; task += blockDim.y) {
            const int y = task * N * C::WIDTH;
            const U* corner = tile + y * pitch + lead + x;
            C found[N][N];
            Medians<SIZE, C>::template find<N, N>(
                [&](int i, int j) {
                    const U* pixel = corner + i * pitch + j * channels;
                    if constexpr (C::WIDTH == 2) {
                        return C{uint32(pixel[0]) | uint32(pixel[N * pitch]) << 16};
                    } else {
                        return C{pixel[0]};
                    }
                },
                [&](int i, int j, C median) { found[i][j] = median; });
#pragma unroll
            for (int i = 0; i < N * C::WIDTH; ++i) {
                Pack<U, N> medians;
#pragma unroll
                for (int j = 0; j < N; ++j)
                    medians.values[j] = keys.number_bits(found[i % N][j].part(i / N));
                if (idle || place.y + y + i >= images.height) continue;
                U* row = plane + (place.y + y + i) * images.output.row;
                if (params.wide_stores && channels == 1 && to_x + N <= images.width) {
                    store_pack(row + to_x, medians);
                } else {
#pragma unroll
                    for (int j = 0; j < N; ++j) {
                        const int at = to_x + j * channels;
                        if (at < images.row_elements())
                            row[at * images.output.step] = medians.values[j];
                    }
                }
            }
        }
        if (has_nan) {  // put where it belongs over what was found
            __syncthreads();
            for (int y = warp; y < min(params.rows, images.height - place.y); y += blockDim.y) {
                for (int x = threadIdx.x; x < min(width, images.row_elements() - place.x); x += 32) {
                    const U* window = tile + y * pitch + lead + x;
                    U highest = 0;
#pragma unroll 1
                    for (int i = 0; i < SIZE; ++i) {
                        for (int j = 0; j < SIZE; ++j)
                            highest = max(highest, window[i * pitch + j * channels]);
                    }
                    if (keys.is_nan(highest))
                        write_element(output, images, place.plane, place.y + y, place.x + x,
                                      keys.bits(highest));
                }
            }
        }
        __syncthreads();  // the next job overwrites the tile
    }
}
