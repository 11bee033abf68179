// The windows of most networks, as in gpuconv/backends/numpy/pool.py: 2×2 and 3×3, 1 or 2 apart.
//
//   pool_small     channels first: a thread slides down the N columns that it reads at once
//   pool_columns   channels last: a thread slides down some columns of 16 bytes of channels
//
// Two rows of the input make one row of windows that are 2 apart, or two rows of those that are 1
// apart. Reduced rows that windows share with those below stay in registers. Columns on either side
// come from the L1 cache, where a neighbouring thread's load brings them.
//
// On sm_90 copies move 13 bytes of a 2×2 pool's input a clock and multiprocessor, which has 128
// issue slots of a lane then: 10 a byte. Maxima take 3 to 5, averages 6 to 8; of channels 2 to 4.
#include "common/pool_lanes.cuh"

constexpr int THREADS = 256;

// Twin of SMALL in gpuconv/backends/cuda/pool.py. Counts of windows are those of a thread.
struct SmallParams {
    PoolAxis z, y, x;  // z: planes, or the channels of a batch; nothing where channels are last
    Places batch;
    Operation operation;
    Number outside;
    int64 threads;
    Divider packs;            // of channels; 1 where these are first
    Divider groups_x, groups_y;
    int rows;                 // rows of windows
    int wide_stores;          // rows of the output allow packs too
    Count counts[10];         // of averages, by the elements that a window counts
};

// The plane, and the windows in it, of a thread.
struct SmallPlace {
    Places place;
    int pack, group_x, out_y, stop_y;

    __device__ __forceinline__ SmallPlace(const SmallParams& params, int64 thread) {
        int group_y, z;
        thread = params.packs.split(thread, pack);
        thread = params.groups_x.split(thread, group_x);
        thread = params.groups_y.split(thread, group_y);
        thread = params.z.outputs.split(thread, z);
        place = {0, 0, 0};
        place.move(params.batch, thread);
        place.move(params.z.step, z);
        out_y = group_y * params.rows;
        stop_y = min(out_y + params.rows, params.y.count());
    }
};

template <typename T>
__device__ __forceinline__ uint32 bits_of(T element) {
    typename BitsOf<sizeof(T)>::type bits;
    memcpy(&bits, &element, sizeof(T));
    return bits;
}
template <typename T, int N>
__device__ __forceinline__ Words<T, N> filled(T element) {
    constexpr uint32 EACH = sizeof(T) == 1 ? 0x01010101u : sizeof(T) == 2 ? 0x00010001u : 1u;
    Words<T, N> words;
#pragma unroll
    for (int w = 0; w < words.COUNT; ++w) words.words[w] = bits_of(element) * EACH;
    return words;
}

// A thread's windows, row by row. `request(wanted)` asks for the next row of the input if that is
// wanted, without a branch; `reduce(row, raw)` makes a row of reduced windows of it;
// `write(y, rows)` joins SIZE of these and writes the next row of the output. AHEAD: rows are asked
// for as soon as those before them are reduced.
template <int SIZE, int STRIDE, bool AHEAD, typename Row, typename Request, typename Reduce,
          typename Write>
__device__ __forceinline__ void slide_down(int out_y, int stop_y, Request request, Reduce reduce,
                                           Write write) {
    constexpr int KEPT = SIZE - STRIDE;  // rows that windows share with those below
    constexpr int MADE = 2 / STRIDE;     // rows of windows of a trip
    using Raw = decltype(request(true));
    Row rows[KEPT + 2];
    {
        Raw raw[KEPT + 1];
#pragma unroll
        for (int k = 0; k < KEPT; ++k) raw[k] = request(true);
#pragma unroll
        for (int k = 0; k < KEPT; ++k) reduce(rows[k], raw[k]);
    }
    Raw next[2];
    if constexpr (AHEAD) {
        next[0] = request(true);
        next[1] = request(true);
    }
#pragma unroll 1
    for (; out_y < stop_y; out_y += MADE) {
        if constexpr (!AHEAD) {
            next[0] = request(true);
            next[1] = request(true);
        }
        reduce(rows[KEPT], next[0]);
        reduce(rows[KEPT + 1], next[1]);
        if constexpr (AHEAD) {
            const bool wanted = out_y + MADE < stop_y;
            next[0] = request(wanted);
            next[1] = request(wanted);
        }
#pragma unroll
        for (int m = 0; m < MADE; ++m)
            if (m == 0 || out_y + m < stop_y) write(out_y + m, rows + m);
#pragma unroll
        for (int k = 0; k < KEPT; ++k) rows[k] = rows[k + 2];
    }
}

// SIZE neighbouring rows of `values` each, joined in their order.
template <typename L, int SIZE, int W, typename Row>
__device__ __forceinline__ void join_rows(typename L::Value (&result)[W], const Row* rows) {
#pragma unroll
    for (int w = 0; w < W; ++w) {
        result[w] = rows[0].values[w];
#pragma unroll
        for (int k = 1; k < SIZE; ++k) result[w] = L::join(result[w], rows[k].values[w]);
    }
}

// Neighbours that a thread reads at once: 16 bytes, or fewer so that rows of more lengths are whole
// packs.
template <typename T>
constexpr int NEIGHBOURS = sizeof(T) == 1 ? 8 : 16 / int(sizeof(T));

// Windows of SIZE × SIZE, STRIDE apart, the first of which begins PAD elements before the input;
// rows are whole packs.
template <typename Op, int SIZE, int STRIDE, int PAD>
__global__ void __launch_bounds__(THREADS, STRIDE == 1 ? 3 : 4)
    pool_small(const typename Op::Element* input, typename Op::Element* output, void*,
               const SmallParams params) {
    using T = typename Op::Element;
    using L = Lanes<Op>;
    using Value = typename L::Value;
    constexpr int N = NEIGHBOURS<T>, WINDOWS = N / STRIDE, H = N / (2 * L::LANES);
    constexpr int W = STRIDE == 1 ? 2 * H : H;
    constexpr bool BEFORE = PAD > 0, BEHIND = SIZE - STRIDE - PAD > 0;
    struct Raw {
        Words<T, N> own;
        uint32 before, behind;
    };
    struct Row {
        Value values[W];
    };
    const T outside = params.outside.as<T>();
    const typename L::Context context(params.operation);
    const int64 all = int64(gridDim.x) * THREADS;
    for (int64 i = int64(blockIdx.x) * THREADS + threadIdx.x; i < params.threads; i += all) {
        const SmallPlace where(params, i);
        const int first = where.group_x * N, out_x = where.group_x * WINDOWS;
        int in_y = where.out_y * STRIDE - PAD;
        const T* from = input + where.place.input + in_y * params.y.step.input + first;
        T* target = output + where.place.output + where.out_y * params.y.step.output +
                    out_x * params.x.step.output;
        const bool is_there = first < params.x.length;
        const bool has_before = first > 0, has_behind = first + N < params.x.length;
        const bool is_whole = params.wide_stores && out_x + WINDOWS <= params.x.count();
        Averaged<SIZE, STRIDE, PAD> averaged(params.counts, params.x, out_x, WINDOWS);
        slide_down<SIZE, STRIDE, true, Row>(
            where.out_y, where.stop_y,
            [&](bool wanted) {
                const bool inside = params.y.holds(in_y++) && wanted;
                Raw raw = {filled<T, N>(outside), bits_of(outside), bits_of(outside)};
                if (inside && is_there) raw.own = load_words<T, N>(from);
                if (BEFORE && inside && has_before) raw.before = bits_of(from[-1]);
                if (BEHIND && inside && has_behind) raw.behind = bits_of(from[N]);
                from += params.y.step.input;
                return raw;
            },
            [&](Row& row, const Raw& raw) {
                Value even[H], odd[H];
                L::split(even, odd, raw.own, context);
                reduce_row<L, SIZE, STRIDE, PAD>(row.values, even, odd,
                                                 L::all(raw.before, context),
                                                 L::all(raw.behind, context));
            },
            [&](int y, const Row* rows) {
                Value joined[W];
                join_rows<L, SIZE>(joined, rows);
                if constexpr (L::has_count) averaged.set(params.y, y);
                const auto results = L::template close<STRIDE>(
                    joined, context, [&](int w) { return averaged.of(w, WINDOWS); });
                if (is_whole) {
                    store_words(target, results);
                } else {
#pragma unroll
                    for (int w = 0; w < WINDOWS; ++w)
                        if (out_x + w < params.x.count())
                            target[w * params.x.step.output] = results[w];
                }
                target += params.y.step.output;
            });
    }
}

// The same where packs of channels lie side by side.
template <typename Op, int SIZE, int STRIDE, int PAD>
__global__ void __launch_bounds__(THREADS, STRIDE == 1 ? 1 : 2)
    pool_columns(const typename Op::Element* input, typename Op::Element* output, void*,
                 const SmallParams params) {
    using T = typename Op::Element;
    constexpr int N = 16 / sizeof(T), WINDOWS = 2, H = STRIDE == 1 ? 1 : 2;
    using L = Lanes<Op>;
    using C = Columns<L, N>;
    using Value = typename C::Value;
    constexpr int BEFORE = PAD, OWN = 2 * H, BEHIND = SIZE - STRIDE - PAD;
    struct Raw {
        Words<T, N> columns[BEFORE + OWN + BEHIND];
    };
    struct Row {
        Value values[WINDOWS];
    };
    const T outside = params.outside.as<T>();
    const typename C::Context context(params.operation);
    const int64 all = int64(gridDim.x) * THREADS;
    for (int64 i = int64(blockIdx.x) * THREADS + threadIdx.x; i < params.threads; i += all) {
        const SmallPlace where(params, i);
        const int first = where.group_x * OWN, out_x = where.group_x * WINDOWS;
        int in_y = where.out_y * STRIDE - PAD;
        const T* from = input + where.place.input + in_y * params.y.step.input +
                        (first - BEFORE) * params.x.step.input + where.pack * N;
        T* target = output + where.place.output + where.out_y * params.y.step.output +
                    out_x * params.x.step.output + where.pack * N;
        Averaged<SIZE, STRIDE, PAD> averaged(params.counts, params.x, out_x, WINDOWS);
        slide_down<SIZE, STRIDE, false, Row>(
            where.out_y, where.stop_y,
            [&](bool wanted) {
                const bool inside = params.y.holds(in_y++) && wanted;
                Raw raw;
#pragma unroll
                for (int c = 0; c < BEFORE + OWN + BEHIND; ++c) {
                    raw.columns[c] = filled<T, N>(outside);
                    if (inside && params.x.holds(first - BEFORE + c))
                        raw.columns[c] = load_words<T, N>(from + c * params.x.step.input);
                }
                from += params.y.step.input;
                return raw;
            },
            [&](Row& row, const Raw& raw) {
                Value even[H], odd[H], before = {}, behind = {};
#pragma unroll
                for (int j = 0; j < H; ++j) {
                    even[j] = C::open(raw.columns[BEFORE + 2 * j], context);
                    odd[j] = C::open(raw.columns[BEFORE + 2 * j + 1], context);
                }
                if constexpr (BEFORE > 0) before = C::open(raw.columns[0], context);
                if constexpr (BEHIND > 0) behind = C::open(raw.columns[BEFORE + OWN], context);
                reduce_row<C, SIZE, STRIDE, PAD>(row.values, even, odd, before, behind);
            },
            [&](int y, const Row* rows) {
                Value joined[WINDOWS];
                join_rows<C, SIZE>(joined, rows);
                if constexpr (L::has_count) averaged.set(params.y, y);
#pragma unroll
                for (int w = 0; w < WINDOWS; ++w) {
                    if (out_x + w >= params.x.count()) continue;
                    const auto results = L::template close<1>(
                        joined[w].values, context, [&](int) { return averaged.of(w, WINDOWS); });
                    store_words(target + w * params.x.step.output, results);
                }
                target += params.y.step.output;
            });
    }
}
