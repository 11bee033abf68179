// Openings, closings and gradients with boxes of 3×3 or 5×5, as in
// gpuconv/backends/numpy/morphology.py.
//
//   morph_small    a warp marches down a strip; each row is read once (common/strip.cuh)
//
// Each step goes along rows first, then along columns, in registers: a lane reads all that its
// windows meet, neighbours' elements from the L1 cache, and lanes hand each other nothing where no
// border is. So an opening reads the image once, and needs neither shared memory nor barriers.
//
// sm_90 compares on 64 lanes a clock and multiprocessor, where a copy makes 8.2 bytes: 7.8 a byte
// are there. An opening of 16 bytes of a lane takes, with boxes of 3×3 (5×5), 12 (16) to put
// elements in pairs, 10 + 10 (16 + 24) for the first step, 8 + 8 (12 + 16) for the second, 8 to
// pack results and 10 to toggle: with all else 4.6 (6.6) a byte. A gradient takes 10 (12), 2 × 16
// (2 × 27), 8 for differences, 8 and 6: 4.5 (5.8). Memory limits all but openings with 5×5; those
// of interleaved channels have as many elements more on either side as there are channels.
#include "common/compared.cuh"

constexpr int STRIP_WARPS = 4;  // twin of WARPS in gpuconv/backends/cuda/strips.py

// Windows of SIZE words each, C apart. Neighbours share what they have in common, and where an
// instruction compares but two, what lies on either side of that.
template <typename T, bool HIGHEST, int SIZE, int C, int COUNT>
__device__ __forceinline__ void reduce_row(uint32 (&found)[COUNT],
                                           const uint32 (&line)[COUNT + (SIZE - 1) * C]) {
    constexpr bool THREE = Order<T>::THREE;
    constexpr int GROUP = THREE ? (SIZE == 5 ? 3 : 1) : SIZE - 1;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        if (i / C % GROUP) continue;
        uint32 shared = line[i + (GROUP - 1) * C];
#pragma unroll
        for (int k = GROUP; k < SIZE; ++k) shared = join<T, HIGHEST>(shared, line[i + k * C]);
        uint32 before[GROUP];
#pragma unroll
        for (int g = GROUP - 1; g >= 0; --g) {
            before[g] = shared;
            if (!THREE && g < GROUP - 1)
                before[g] = join<T, HIGHEST>(before[(g + 1) % GROUP], line[i + g * C]);
#pragma unroll
            for (int k = g; THREE && k < GROUP - 1; ++k)
                before[g] = join<T, HIGHEST>(before[g], line[i + k * C]);
        }
        uint32 behind = 0;
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
            if (i + g * C >= COUNT) continue;
            uint32 result = before[g];
            if (THREE) {
#pragma unroll
                for (int k = SIZE; k < SIZE + g; ++k)
                    result = join<T, HIGHEST>(result, line[i + k * C]);
            } else if (g > 0) {
                const uint32 next = line[i + (SIZE + g - 1) * C];
                behind = g > 1 ? join<T, HIGHEST>(behind, next) : next;
                result = join<T, HIGHEST>(result, behind);
            }
            found[i + g * C] = result;
        }
    }
}

// The same of columns, a row at a time: line NEWEST is new, the one behind it is the oldest. Where
// an instruction compares but two, lines between hold theirs and the next row's, joined.
template <typename T, bool HIGHEST, int SIZE, int NEWEST, int COUNT>
__device__ __forceinline__ void reduce_columns(uint32 (&found)[COUNT],
                                               uint32 (&lines)[SIZE][COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const auto at = [&](int k) -> uint32& { return lines[(NEWEST + 1 + k) % SIZE][i]; };
        if constexpr (SIZE == 5 && !Order<T>::THREE) {
            found[i] = join<T, HIGHEST>(at(0), at(2), at(4));
            at(3) = join<T, HIGHEST>(at(3), at(4));
        } else {
            // In the order of lines, so that the next rows share what does not change.
            found[i] = lines[0][i];
#pragma unroll
            for (int k = 1; k < SIZE; ++k) found[i] = join<T, HIGHEST>(found[i], lines[k][i]);
        }
    }
}

// Reads the rows of a strip from `first` to `last` in turn, then the last again. A lane's own
// elements are asked for two rows ahead; those on either side a row later, when the L1 cache has
// them.
template <typename U, int N, int REACH>
struct InnerReader {
    using Row = StripRow<U, N, REACH>;
    const U* place;  // of the own elements that were asked for last
    int64 step;
    int left;  // rows
    Words<U, N> ahead;

    __device__ __forceinline__ InnerReader(const U* input, const Images& images, int64 plane, int x,
                                           int first, int last)
        : place(input + images.plane_offset(images.input, plane) + first * images.input.row + x),
          step(images.input.row),
          left(last - first),
          ahead(load_words<U, N>(place)) {}

    __device__ __forceinline__ Row request() {
        Row row;
        row.own = ahead;
#pragma unroll
        for (int p = 0; p < Row::PACKS; ++p) {
            row.before[p] = load_words<U, Row::PACK>(place - Row::HALO + p * Row::PACK);
            row.behind[p] = load_words<U, Row::PACK>(place + N + p * Row::PACK);
        }
        if (left-- > 0) place += step;
        ahead = load_words<U, N>(place);
        return row;
    }
    __device__ __forceinline__ void complete(Row&) const {}
};

// The same at an edge of the image. What lies beyond the ends of a row lanes fetch together, an
// element each, and take of each other: which elements answer there is found once.
template <typename U, int N, int REACH>
struct EdgeReader {
    struct Row : StripRow<U, N, REACH> {
        U beyond;  // of those elements, this lane's
    };
    static constexpr int EACH = 4 / int(sizeof(U)), HALO = Row::HALO, PACK = Row::PACK;
    static_assert(2 * HALO <= 32, "an element a lane");
    const U* plane;
    const Images& images;
    int x, y, last, number, place;
    U value;
    Words<U, N> ahead;

    __device__ __forceinline__ EdgeReader(const U* input, const Images& all, int64 plane_number,
                                          int x, int first, int last)
        : plane(input + all.plane_offset(all.input, plane_number)),
          images(all),
          x(x),
          y(first),
          last(last),
          value(all.value.as<U>()) {
        const int lane = threadIdx.x;
        place = map_element(all, lane < HALO ? lane - HALO : all.row_elements() + lane - HALO);
        ask();
    }

    __device__ __forceinline__ bool holds(int from, int count) const {
        return from >= 0 && from + count <= images.row_elements();
    }
    __device__ __forceinline__ void ask() {
        number = map_index(images.border, y, images.height);
        ahead = Words<U, N>();
        if (number >= 0 && holds(x, N))
            ahead = load_words<U, N>(plane + number * images.input.row + x);
    }

    __device__ __forceinline__ Row request() {
        Row row = {};
        row.number = number;
        row.own = ahead;
        row.beyond = value;
        if (number >= 0) {
            const U* from = plane + number * images.input.row;
            if (place >= 0) row.beyond = from[place];
#pragma unroll
            for (int p = 0; p < Row::PACKS; ++p) {
                const int left = x - HALO + p * PACK, right = x + N + p * PACK;
                if (holds(left, PACK)) row.before[p] = load_words<U, PACK>(from + left);
                if (holds(right, PACK)) row.behind[p] = load_words<U, PACK>(from + right);
            }
        }
        if (y < last) ++y;
        ask();
        return row;
    }

    // Every lane must call it.
    __device__ __forceinline__ void complete(Row& row) const {
        uint32 word = row.beyond;  // with those of the lanes behind: all of a word in some lanes
        if constexpr (EACH == 4) word |= __shfl_down_sync(FULL_WARP, word, 1) << 8;
        if constexpr (EACH > 1) word |= __shfl_down_sync(FULL_WARP, word, EACH / 2) << 16;
        const bool outside = row.number < 0;
        const int end = images.row_elements();
#pragma unroll
        for (int w = 0; w < HALO / EACH; ++w) {
            const int left = x - HALO + w * EACH, right = x + N + w * EACH;
            const uint32 before = __shfl_sync(FULL_WARP, word, left + HALO & 31);
            const uint32 behind = __shfl_sync(FULL_WARP, word, HALO + right - end & 31);
            uint32& own_before = row.before[w * EACH / PACK].words[w * EACH % PACK / EACH];
            uint32& own_behind = row.behind[w * EACH / PACK].words[w * EACH % PACK / EACH];
            if (outside || left < 0) own_before = before;
            if (outside || right >= end) own_behind = behind;
        }
        if (outside) {
#pragma unroll
            for (int w = 0; w < 4; ++w) row.own.words[w] = word;
        }
    }
};

// A strip from its first row to its last.
template <Boxes BOXES, int SIZE, int C, typename T, bool INSIDE>
struct March {
    using U = Key<T>;
    using Elements = Compared<T>;
    static constexpr int N = Elements::N, COUNT = Elements::COUNT, HALF = SIZE / 2;
    static constexpr bool TWICE = BOXES == Boxes::Twice;
    static constexpr int SIDE = TWICE ? HALF * C : 0;  // first results on either side of a lane's
    static constexpr int REACH = HALF * C + SIDE;
    static constexpr int ABOVE = TWICE ? 2 * HALF : HALF;  // rows of the image
    using Reader = either<INSIDE, InnerReader<U, N, REACH>, EdgeReader<U, N, REACH>>;
    using Row = typename Reader::Row;

    const MorphSmallParams& params;
    Reader reader;
    Row next;
    // Rows of windows along rows, of which columns are reduced: the newest is where the oldest was.
    // Highest elements; lowest of the results, or of the image.
    uint32 above[SIZE][COUNT + 2 * SIDE], below[SIZE][COUNT];
    int x, y, rows;  // of the next result, its row in the strip; the strip's
    int top;         // the strip's first row
    U* target;

    __device__ __forceinline__ March(const U* input, U* output, const MorphSmallParams& all,
                                     const Strip& own)
        : params(all),
          reader(input, all.images, own.plane, own.x + int(threadIdx.x) * N, own.y - ABOVE,
                 own.y + own.rows - 1 + ABOVE),
          next(reader.request()),
          above(),
          below(),
          x(own.x + int(threadIdx.x) * N),
          y(-2 * ABOVE),
          rows(own.rows),
          top(own.y) {
        const Images& images = all.images;
        target = output + images.plane_offset(images.output, own.plane) +
                 own.y * images.output.row + x;
    }

    __device__ __forceinline__ void run() {
        if constexpr (INSIDE) {
            while (step<0>() && step<1>() && step<2>() && more()) {
            }
        } else {  // a fraction of the code
            do {
                move_up(above);
                move_up(below);
            } while (step<SIZE - 1>());
        }
    }
    __device__ __forceinline__ bool more() {
        if constexpr (SIZE == 3) {
            return true;
        } else {
            return step<3>() && step<4>();
        }
    }
    template <int M>
    static __device__ __forceinline__ void move_up(uint32 (&lines)[SIZE][M]) {
#pragma unroll
        for (int k = 0; k + 1 < SIZE; ++k) memcpy(lines[k], lines[k + 1], sizeof lines[k]);
    }

    // A row of results, or one before the first whose windows are not whole yet.
    template <int SLOT>
    __device__ __forceinline__ bool step() {
        Row row = next;
        next = reader.request();
        reader.complete(row);
        uint32 line[COUNT + 2 * REACH], results[COUNT];
        Elements::template open<REACH>(line, row, params.mask);
        reduce_row<T, true, SIZE, C>(above[SLOT], line);
        if constexpr (TWICE) {
            uint32 between[COUNT + 2 * SIDE];
            reduce_columns<T, true, SIZE, SLOT>(between, above);
            if (!INSIDE && params.has_outside) put_outside(between, top + y + HALF);
            reduce_row<T, false, SIZE, C>(below[SLOT], between);
            reduce_columns<T, false, SIZE, SLOT>(results, below);
        } else {
            uint32 lowest[COUNT];
            reduce_row<T, false, SIZE, C>(below[SLOT], line);
            reduce_columns<T, true, SIZE, SLOT>(results, above);
            reduce_columns<T, false, SIZE, SLOT>(lowest, below);
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
                results[i] = Order<T>::difference(results[i], lowest[i], params.most);
        }
        if (y >= 0 && (INSIDE || x < params.images.row_elements())) {
            store_words(target, Elements::close(results, TWICE ? params.mask : 0));
            target += params.images.output.row;
        }
        return ++y < rows;
    }

    // What answers for first results of row `at` of the image that lie outside.
    __device__ __forceinline__ void put_outside(uint32 (&line)[COUNT + 2 * SIDE], int at) const {
        const uint32 outside = params.outside;
        const bool all = at < 0 || at >= params.images.height;
        const int end = params.images.row_elements();
#pragma unroll
        for (int i = 0; i < COUNT + 2 * SIDE; ++i) {
            const auto is_outside = [&](int element) {
                return all || (element < 0 && x + element < 0) ||
                       (element >= N && x + element >= end);
            };
            if constexpr (COUNT == N) {
                if (is_outside(i - SIDE)) line[i] = outside;
            } else {
                if (is_outside(i - SIDE)) line[i] = __byte_perm(line[i], outside, 0x3254);
                if (is_outside(i - SIDE + N / 2)) line[i] = __byte_perm(line[i], outside, 0x7610);
            }
        }
    }
};

template <Boxes BOXES, int SIZE, int C, typename T>
__global__ void __launch_bounds__(32 * STRIP_WARPS, 2)
    morph_small(const Key<T>* input, Key<T>* output, const MorphSmallParams params) {
    const int64 step = int64(gridDim.x) * STRIP_WARPS;
    for (int64 job = int64(blockIdx.x) * STRIP_WARPS + threadIdx.y; job < params.strips.jobs;
         job += step) {
        const Strip strip = params.strips.at(job, params.images);
        if (strip.inside) {
            March<BOXES, SIZE, C, T, true>(input, output, params, strip).run();
        } else {
            March<BOXES, SIZE, C, T, false>(input, output, params, strip).run();
        }
    }
}
