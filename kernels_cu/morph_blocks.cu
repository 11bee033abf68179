// Openings, closings and gradients with boxes of 7×7, 9×9 or 15×15 of one channel, as in
// gpuconv/backends/numpy/morphology.py.
//
//   morph_blocks    a warp marches down a strip, four rows at a time; each row is read once
//
// Both axes go in blocks of four (van Herk 1992, Gil and Werman 1993), a window of which is
//
//   ... | . S S S | B B B B | B B B B | P P P . | ...      S, whole blocks, P
//
// Along rows lanes hand each other what they have joined by shuffles. Along columns S and whole
// blocks wait for the rows that their windows end with: S in shared memory, of the warp alone. Of
// an opening the first results go on to the second step as they are, in registers; the lanes at
// either end of a warp make nothing but them.
//
// sm_90 compares on 64 lanes a clock and multiprocessor, where a copy makes 8.2 bytes: 7.8 a byte
// are there. Of the 16 bytes of a lane and row, 15 of which are results, an opening with 15×15
// takes 8 to put elements in pairs, 2 × 20 along columns, 2 × (20 + 14 to put in pairs what lanes
// hand over) along rows, 16 to toggle and to pack, and 10 for all else: 9.5 to 10 a byte, and up to
// a quarter more for the rows above a strip and at edges. A gradient takes as many, but has fewer
// rows above. Of 16 and 32 bits twice and four times as many are there, and memory limits them.
#include "common/compared.cuh"

constexpr int WARPS = 2;  // twin of BLOCK_WARPS in gpuconv/backends/cuda/morph_small.py
constexpr int BLOCK = 4;

// Windows of SIZE around element r of a block: which element of which block they begin and end
// with, relative to that block, and the blocks that all four of them hold.
template <int SIZE>
struct Blocks {
    static constexpr int HALF = SIZE / 2;
    static __device__ constexpr int divide(int x) {  // down
        return x >= 0 ? x / BLOCK : -((BLOCK - 1 - x) / BLOCK);
    }
    static __device__ constexpr int first_block(int r) { return divide(r - HALF); }
    static __device__ constexpr int first_of(int r) { return r - HALF - BLOCK * first_block(r); }
    static __device__ constexpr int last_block(int r) { return divide(r + HALF); }
    static __device__ constexpr int last_of(int r) { return r + HALF - BLOCK * last_block(r); }
    // The whole blocks from -WHOLE to WHOLE; FAR is the first beyond.
    static constexpr int WHOLE = (HALF - BLOCK + 1) / BLOCK, FAR = WHOLE + 1;
    // Whether window r begins before these, ends behind these: in the next blocks.
    static __device__ constexpr bool begins_before(int r) { return first_block(r) < -WHOLE; }
    static __device__ constexpr bool ends_behind(int r) { return last_block(r) > WHOLE; }
    static constexpr int LEAST = HALF % BLOCK == BLOCK - 1 ? 1 : 0;  // of all that is `first_of`
    static_assert(SIZE % 2 == 1 && SIZE >= 7 && (HALF % BLOCK == 0 || LEAST == 1),
                  "windows end in the same blocks, or with them");
};

// Columns of one step of a warp, row by row.
template <typename T, bool HIGHEST, int SIZE, int COUNT>
struct Columns {
    using B = Blocks<SIZE>;
    // Suffixes of so many blocks before the newest wait.
    static constexpr int SLOTS = 2 * B::FAR, KEPT = BLOCK - B::LEAST;
    static constexpr int PIECES = COUNT / 4;
    static constexpr int WORDS = SLOTS * KEPT * COUNT;  // of a lane

    uint4* ring;  // the lane's first piece; pieces are 32 lanes apart
    int slot;     // of the oldest block, which the newest follows
    uint32 whole[2 * B::WHOLE + 1][COUNT];  // blocks, the oldest first
    uint32 rows[BLOCK][COUNT], prefix[COUNT];

    __device__ __forceinline__ Columns(uint4* place) : ring(place), slot(0), whole(), rows() {}

    __device__ __forceinline__ uint4* piece(int p, int i) const {
        return ring + ((slot * KEPT + p - B::LEAST) * PIECES + i) * 32;
    }

    // Row R of the newest block → the windows around row R of the block FAR before it, where these
    // are wanted: not before all that they meet has been here.
    template <int R>
    __device__ __forceinline__ void meet(uint32 (&found)[COUNT], const uint32 (&row)[COUNT],
                                         bool is_wanted) {
        uint32 before[COUNT];
        memcpy(before, whole[0], sizeof before);  // anything: it is at hand
        if (B::begins_before(R) && is_wanted) {
#pragma unroll
            for (int i = 0; i < PIECES; ++i) {
                const uint4 four = *piece(B::first_of(R), i);
                memcpy(before + 4 * i, &four, 16);
            }
        }
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const uint32 ended = prefix[i];
            prefix[i] = R ? join<T, HIGHEST>(ended, row[i]) : row[i];
            rows[R][i] = row[i];
            uint32 result = whole[0][i];
#pragma unroll
            for (int b = 1; b < 2 * B::WHOLE + 1; ++b)
                result = join<T, HIGHEST>(result, whole[b][i]);
            if constexpr (B::begins_before(R)) result = join<T, HIGHEST>(result, before[i]);
            if constexpr (B::ends_behind(R))
                result = join<T, HIGHEST>(result, B::last_of(R) == R ? prefix[i] : ended);
            found[i] = result;
        }
    }

    // After row 3 of a block.
    __device__ __forceinline__ void end_block() {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
#pragma unroll
            for (int p = BLOCK - 2; p >= B::LEAST; --p)
                rows[p][i] = join<T, HIGHEST>(rows[p][i], rows[p + 1][i]);
#pragma unroll
            for (int b = 0; b < 2 * B::WHOLE; ++b) whole[b][i] = whole[b + 1][i];
            whole[2 * B::WHOLE][i] = prefix[i];
        }
#pragma unroll
        for (int p = B::LEAST; p < BLOCK; ++p) {
#pragma unroll
            for (int i = 0; i < PIECES; ++i) {
                uint4 four;
                memcpy(&four, rows[p] + 4 * i, 16);
                *piece(p, i) = four;
            }
        }
        slot = slot + 1 == SLOTS ? 0 : slot + 1;
    }
};

// Rows of one step. A lane has blocks of four words; where words hold two elements, those of word i
// are in blocks that lie GROUPS apart.
template <typename T, bool HIGHEST, int SIZE, int COUNT>
struct Across {
    using B = Blocks<SIZE>;
    static constexpr bool TWO = sizeof(T) < 4;
    static constexpr int GROUPS = COUNT / BLOCK;
    using Line = uint32[COUNT];

    // Of words of which each lane has one a group: those of the blocks that are BY blocks on.
    template <int BY, int GROUP>
    static __device__ __forceinline__ uint32 moved(const uint32 (&words)[GROUPS]) {
        constexpr int AT = GROUP + BY, LEAP = AT >= 0 ? AT / GROUPS : -((GROUPS - 1 - AT) / GROUPS);
        const uint32 word = words[AT - LEAP * GROUPS];
        if constexpr (!TWO) {
            return from_lane<LEAP>(word);
        } else if constexpr (LEAP % 2 == 0) {
            return from_lane<LEAP / 2>(word);
        } else {
            constexpr int LANE = (LEAP - (LEAP < 0)) / 2;
            return __byte_perm(from_lane<LANE>(word), from_lane<LANE + 1>(word), 0x5432);
        }
    }
    template <int BY>
    static __device__ __forceinline__ uint32 from_lane(uint32 word) {
        if constexpr (BY == 0) {
            return word;
        } else if constexpr (BY < 0) {
            return __shfl_up_sync(FULL_WARP, word, -BY);
        } else {
            return __shfl_down_sync(FULL_WARP, word, BY);
        }
    }

    template <int BY, int GROUP>
    static __device__ __forceinline__ uint32 join_wholes(const uint32 (&blocks)[GROUPS]) {
        const uint32 own = moved<BY, GROUP>(blocks);
        if constexpr (BY == B::WHOLE) {
            return own;
        } else {
            return join<T, HIGHEST>(own, join_wholes<BY + 1, GROUP>(blocks));
        }
    }

    template <int GROUP, int R>
    static __device__ __forceinline__ void close(Line& line, uint32 wholes,
                                                 const uint32 (&prefixes)[BLOCK][GROUPS],
                                                 const uint32 (&suffixes)[BLOCK][GROUPS]) {
        if constexpr (R < BLOCK) {
            uint32 result = wholes;
            if constexpr (B::begins_before(R))
                result = join<T, HIGHEST>(
                    result, moved<-B::FAR, GROUP>(suffixes[B::first_of(R)]));
            if constexpr (B::ends_behind(R))
                result = join<T, HIGHEST>(result, moved<B::FAR, GROUP>(prefixes[B::last_of(R)]));
            line[GROUP * BLOCK + R] = result;
            close<GROUP, R + 1>(line, wholes, prefixes, suffixes);
        }
    }
    template <int GROUP>
    static __device__ __forceinline__ void close_group(Line& line,
                                                       const uint32 (&prefixes)[BLOCK][GROUPS],
                                                       const uint32 (&suffixes)[BLOCK][GROUPS]) {
        if constexpr (GROUP < GROUPS) {
            const uint32 wholes = join_wholes<-B::WHOLE, GROUP>(prefixes[BLOCK - 1]);
            close<GROUP, 0>(line, wholes, prefixes, suffixes);
            close_group<GROUP + 1>(line, prefixes, suffixes);
        }
    }

    // A lane's elements → the windows around them, but for what lies beyond the ends of the warp.
    static __device__ __forceinline__ void reduce(Line& line) {
        uint32 prefixes[BLOCK][GROUPS], suffixes[BLOCK][GROUPS];
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            const uint32* own = line + g * BLOCK;
            prefixes[0][g] = own[0];
            suffixes[BLOCK - 1][g] = own[BLOCK - 1];
#pragma unroll
            for (int i = 1; i < BLOCK; ++i) {
                prefixes[i][g] = join<T, HIGHEST>(prefixes[i - 1][g], own[i]);
                suffixes[BLOCK - 1 - i][g] =
                    join<T, HIGHEST>(own[BLOCK - 1 - i], suffixes[BLOCK - i][g]);
            }
        }
        close_group<0>(line, prefixes, suffixes);
    }
};

// A lane's elements of the rows of a strip from `first` to `last` in turn, then of the last again.
// At an edge of the image, what lies up to BEYOND elements beyond the ends of a row lanes fetch
// together, one each, and then take of each other: which elements answer there is found once.
template <typename U, int N, bool INSIDE>
struct LaneRows {
    static constexpr int BEYOND = 16, EACH = 4 / int(sizeof(U));
    struct Row {
        Words<U, N> own;
        U beyond;  // of those elements, this lane's
        bool is_value;
    };
    const U* place;  // the lane's elements in row y, where that is INSIDE, else those of row 0
    const U* answers;
    const Images& images;
    int x, y, last;
    bool is_there, answered;

    __device__ __forceinline__ LaneRows(const U* input, const Images& all, int64 plane, int x,
                                        int first, int last)
        : images(all), x(x), y(first), last(last), is_there(true), answered(false) {
        const U* start = input + all.plane_offset(all.input, plane);
        place = start + x + (INSIDE ? first * all.input.row : 0);
        answers = start;
        if constexpr (!INSIDE) {
            const int lane = threadIdx.x;
            const int beyond = lane < BEYOND ? lane - BEYOND : all.row_elements() + lane - BEYOND;
            const int from = map_element(all, beyond);
            answered = from >= 0;
            answers += from;
            is_there = x >= 0 && x < all.row_elements();
        }
    }

    __device__ __forceinline__ Row request() {
        Row row = {};
        if constexpr (INSIDE) {
            row.own = load_words<U, N>(place);
            if (y < last) place += images.input.row;
        } else {
            const int number = map_index(images.border, y, images.height);
            const int64 offset = number * images.input.row;
            row.is_value = number < 0;
            row.beyond = images.value.as<U>();
            if (number >= 0 && is_there) row.own = load_words<U, N>(place + offset);
            if (number >= 0 && answered) row.beyond = answers[offset];
        }
        if (y < last) ++y;
        return row;
    }

    // Every lane must call it.
    __device__ __forceinline__ Words<U, N> complete(const Row& row) const {
        Words<U, N> own = row.own;
        if constexpr (!INSIDE) {
            uint32 word = row.beyond;  // with the lanes behind, in some lanes all of a word
            if constexpr (EACH == 4) word |= __shfl_down_sync(FULL_WARP, word, 1) << 8;
            if constexpr (EACH > 1) word |= __shfl_down_sync(FULL_WARP, word, EACH / 2) << 16;
            const int from = x < 0 ? x + BEYOND : x - images.row_elements() + BEYOND;
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const uint32 answer = __shfl_sync(FULL_WARP, word, from + w * EACH & 31);
                if (row.is_value || !is_there) own.words[w] = answer;
            }
        }
        return own;
    }
};

// A strip from its first row to its last.
template <Boxes BOXES, int SIZE, typename T, bool INSIDE>
struct March {
    using U = Key<T>;
    using Elements = Compared<T>;
    using B = Blocks<SIZE>;
    static constexpr int N = Elements::N, COUNT = Elements::COUNT;
    static constexpr bool TWICE = BOXES == Boxes::Twice;
    static constexpr int STEPS = TWICE ? 2 : 1;
    static constexpr int LANES = (STEPS * B::HALF + N - 1) / N;  // on either side, without results
    using Reader = LaneRows<U, N, INSIDE>;
    using Highest = Columns<T, true, SIZE, COUNT>;
    using Lowest = Columns<T, false, SIZE, COUNT>;
    static constexpr int SHARED_WORDS = Highest::WORDS + Lowest::WORDS;

    const MorphSmallParams& params;
    Reader reader;
    typename Reader::Row next[BLOCK];
    Highest highest;
    Lowest lowest;  // of the highest, or of the image
    int x, y, rows;  // the lane's; the first of the next four results in the strip; the strip's
    int top;
    bool has_result;
    U* target;

    __device__ __forceinline__ March(const U* input, U* output, uint4* ring,
                                     const MorphSmallParams& all, const Strip& strip, int own_x)
        : params(all),
          reader(input, all.images, strip.plane, own_x, strip.y - BLOCK * STEPS * B::FAR,
                 strip.y + strip.rows - 1 + STEPS * B::HALF),
          highest(ring),
          lowest(ring + Highest::WORDS / 4 * 32),
          x(own_x),
          y(-2 * BLOCK * STEPS * B::FAR),
          rows(strip.rows),
          top(strip.y) {
        const int lane = threadIdx.x;
        has_result = lane >= LANES && lane < 32 - LANES && x < all.images.row_elements();
        target = output + all.images.plane_offset(all.images.output, strip.plane) +
                 strip.y * all.images.output.row + x;
#pragma unroll
        for (int r = 0; r < BLOCK; ++r) next[r] = reader.request();
    }

    __device__ __forceinline__ void run() {
#pragma unroll 1
        for (; y < rows; y += BLOCK) {
            typename Reader::Row block[BLOCK];
#pragma unroll
            for (int r = 0; r < BLOCK; ++r) block[r] = next[r];
#pragma unroll
            for (int r = 0; r < BLOCK; ++r) next[r] = reader.request();
            meet<0>(block);
            highest.end_block();
            if (!TWICE || y >= -2 * BLOCK * B::FAR) lowest.end_block();
        }
    }

    // Row R of the newest block, and those behind. Results of a step begin when the windows of all
    // that come of them are whole.
    template <int R>
    __device__ __forceinline__ void meet(const typename Reader::Row (&block)[BLOCK]) {
        if constexpr (R < BLOCK) {
            uint32 line[COUNT], found[COUNT], results[COUNT];
            Elements::open(line, reader.complete(block[R]), params.mask);
            const bool is_needed = y >= (TWICE ? -2 * BLOCK * B::FAR : 0);
            highest.template meet<R>(found, line, is_needed);
            if constexpr (TWICE) {
                if (is_needed) {
                    Across<T, true, SIZE, COUNT>::reduce(found);
                    if (!INSIDE && params.has_outside)
                        put_outside(found, top + y + R + BLOCK * B::FAR);
                    lowest.template meet<R>(results, found, y >= 0);
                    if (y >= 0) {
                        Across<T, false, SIZE, COUNT>::reduce(results);
                        write(results, params.mask, y + R);
                    }
                }
            } else {
                lowest.template meet<R>(results, line, is_needed);
                if (is_needed) {
                    Across<T, true, SIZE, COUNT>::reduce(found);
                    Across<T, false, SIZE, COUNT>::reduce(results);
#pragma unroll
                    for (int i = 0; i < COUNT; ++i)
                        results[i] = Order<T>::difference(found[i], results[i], params.most);
                    write(results, 0, y + R);
                }
            }
            meet<R + 1>(block);
        }
    }

    __device__ __forceinline__ void write(const uint32 (&results)[COUNT], uint32 mask, int row) {
        if (has_result && row < rows) store_words(target, Elements::close(results, mask));
        target += params.images.output.row;
    }

    // What answers for first results of row `at` of the image that lie outside.
    __device__ __forceinline__ void put_outside(uint32 (&line)[COUNT], int at) const {
        if (reader.is_there && at >= 0 && at < params.images.height) return;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) line[i] = params.outside;
    }
};

template <Boxes BOXES, int SIZE, typename T>
__global__ void __launch_bounds__(32 * WARPS, 4)
    morph_blocks(const Key<T>* input, Key<T>* output, const MorphSmallParams params) {
    using Inner = March<BOXES, SIZE, T, true>;
    DYNAMIC_SHARED(uint4, shared);
    uint4* ring = shared + threadIdx.y * (Inner::SHARED_WORDS / 4 * 32) + threadIdx.x;
    const int64 step = int64(gridDim.x) * WARPS;
    for (int64 job = int64(blockIdx.x) * WARPS + threadIdx.y; job < params.strips.jobs;
         job += step) {
        const Strip strip = params.strips.at(job, params.images);
        const int x = strip.x + (int(threadIdx.x) - Inner::LANES) * Inner::N;
        if (strip.inside) {
            Inner(input, output, ring, params, strip, x).run();
        } else {
            March<BOXES, SIZE, T, false>(input, output, ring, params, strip, x).run();
        }
    }
}
