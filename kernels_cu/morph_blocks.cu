// Openings, closings and gradients with boxes of 7×7 to 17×17 of up to four interleaved channels,
// as in gpuconv/backends/numpy/morphology.py.
//
//   morph_blocks    a warp marches down a strip, four rows at a time; each row is read once
//
// Both axes go in blocks (van Herk 1992, Gil and Werman 1993), a window of which is
//
//   ... | . S S S | B B B B | B B B B | P P P . | ...      S, whole blocks, P
//
// Along columns blocks have four rows. S and whole blocks wait for the rows that their windows end
// with: S in shared memory, of the warp alone. Along rows a block is what a lane has in its words,
// or of elements that stand two in a word, half of it: those of a word lie a block apart. Of
// several channels every second, third or fourth element belongs to a window, and goes on in
// another chain of the next block, so that all are compared where they lie. Lanes hand each other
// by shuffles what they have joined. They make the windows some blocks on, so that S is at hand;
// the second step of an opening goes back as far. Its first results go on to it as they are, in
// registers; the lanes at either end of a warp make nothing but them.
//
// sm_90 compares on 64 lanes a clock and multiprocessor, where a copy makes 8.2 bytes: 7.8 a byte
// are there. Of the 16 bytes of a lane and row an opening with 15×15 takes 4 to put elements in
// pairs, 2 × 20 along columns, 2 × 22 along rows of one channel (2 × 24 of three), 8 to pack
// results and 10 for all else: 106 (110), of which 30 (26) of 32 lanes have results: 7.1 (8.5) a
// byte, and 6 to 20 % more for the rows above a strip and at edges. A row takes 48 (60) clocks of
// shared memory: 2 × 8 (2 × 14) shuffles, 24 for what waits and 8 to read and write, which allows
// 10 (6.9) bytes a clock. A gradient compares as often, takes 16 to make differences and has fewer
// rows above. Of 16 and 32 bits twice and four times as many clocks are there; memory limits those,
// or of three channels shuffles.
#include "common/compared.cuh"

constexpr int WARPS = 2;  // twin of BLOCK_WARPS in gpuconv/backends/cuda/morph_small.py
constexpr int BLOCK = 4;

// Windows of SIZE rows, over blocks of four. With row r of the newest block that window is whole
// whose middle is LAG rows before it: which row of which block it begins with, relative to the
// newest. Where it is one more than half a window, it ends a row before: all four hold as many
// whole blocks then.
template <int SIZE>
struct Blocks {
    static_assert(SIZE % 2 == 1 && SIZE >= 7, "every window holds a whole block");
    static constexpr int HALF = SIZE / 2, LAG = HALF + (HALF % BLOCK == BLOCK - 1);
    static constexpr int BACK = LAG + HALF;  // rows, from the newest to the window's first
    static constexpr int SLOTS = (BACK + BLOCK - 1) / BLOCK;  // blocks that windows begin in
    static __device__ constexpr int first_of(int r) { return (r - BACK + SLOTS * BLOCK) % BLOCK; }
    static __device__ constexpr int first_block(int r) {
        return (r - BACK + SLOTS * BLOCK) / BLOCK - SLOTS;
    }
    // Whole blocks before the newest: in all windows, in the first. If in others too, joined once.
    static constexpr int ALL = (BACK - BLOCK + 1) / BLOCK, MOST = BACK / BLOCK;
    static constexpr bool JOINED = ALL < MOST && BACK % BLOCK > 0;
    static __device__ constexpr bool has_most(int r) { return ALL < MOST && r <= BACK % BLOCK; }
};

// Columns of one step of a warp, row by row.
template <typename T, bool HIGHEST, int SIZE, int COUNT>
struct Columns {
    using B = Blocks<SIZE>;
    static constexpr int PIECES = COUNT / 4, KEPT = BLOCK - 1;  // windows begin with rows 1 to 3
    static constexpr int WORDS = B::SLOTS * KEPT * COUNT;       // of a lane

    uint4* ring;  // the lane's first piece; pieces are 32 lanes apart
    int slot;     // of the oldest block, which the newest follows
    uint32 whole[B::MOST][COUNT];  // blocks, the oldest first
    uint32 all[COUNT], most[COUNT];  // of these, joined
    uint32 rows[BLOCK][COUNT], prefix[COUNT];

    __device__ __forceinline__ Columns(uint4* place)
        : ring(place), slot(0), whole(), all(), most(), rows(), prefix() {}

    // Of the suffix from row p on of a block.
    __device__ __forceinline__ uint4* piece(int from, int p, int i) const {
        return ring + ((from * KEPT + p - 1) * PIECES + i) * 32;
    }

    // Row R of the newest block → the window that it completes, where that is wanted: not before
    // all that it meets has been here.
    template <int R>
    __device__ __forceinline__ void meet(uint32 (&found)[COUNT], const uint32 (&row)[COUNT],
                                         bool is_wanted) {
        constexpr bool BEGINS = B::first_of(R) > 0, MOST = B::has_most(R) && B::JOINED;
        uint32 before[COUNT];
        memcpy(before, all, sizeof before);  // anything: it is at hand
        if (BEGINS && is_wanted) {
            int from = slot;
            if (B::first_block(R) > -B::SLOTS) from = slot + 1 == B::SLOTS ? 0 : slot + 1;
#pragma unroll
            for (int i = 0; i < PIECES; ++i) {
                const uint4 four = *piece(from, B::first_of(R), i);
                memcpy(before + 4 * i, &four, 16);
            }
        }
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const uint32 ended = prefix[i];
            prefix[i] = R ? join<T, HIGHEST>(ended, row[i]) : row[i];
            rows[R][i] = row[i];
            uint32 result = MOST ? most[i] : all[i];
            if constexpr (B::has_most(R) && !MOST)
                result = join<T, HIGHEST>(result, whole[0][i]);
            if constexpr (BEGINS) result = join<T, HIGHEST>(result, before[i]);
            if constexpr (B::LAG == B::HALF) {
                result = join<T, HIGHEST>(result, prefix[i]);
            } else if constexpr (R > 0) {
                result = join<T, HIGHEST>(result, ended);
            }
            found[i] = result;
        }
    }

    // After row 3 of a block.
    __device__ __forceinline__ void end_block() {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
#pragma unroll
            for (int p = BLOCK - 2; p > 0; --p)
                rows[p][i] = join<T, HIGHEST>(rows[p][i], rows[p + 1][i]);
#pragma unroll
            for (int b = 0; b + 1 < B::MOST; ++b) whole[b][i] = whole[b + 1][i];
            whole[B::MOST - 1][i] = all[i] = prefix[i];
#pragma unroll
            for (int b = 1; b < B::ALL; ++b)
                all[i] = join<T, HIGHEST>(all[i], whole[B::MOST - 1 - b][i]);
            if (B::JOINED) most[i] = join<T, HIGHEST>(all[i], whole[0][i]);
        }
#pragma unroll
        for (int p = 1; p < BLOCK; ++p) {
#pragma unroll
            for (int i = 0; i < PIECES; ++i) {
                uint4 four;
                memcpy(&four, rows[p] + 4 * i, 16);
                *piece(slot, p, i) = four;
            }
        }
        slot = slot + 1 == B::SLOTS ? 0 : slot + 1;
    }
};

// Windows of SIZE pixels of CHANNELS along a row, over blocks of COUNT elements: a lane has one, or
// where words hold two elements those two that lie next to each other. Element e of a block belongs
// to the pixels of one channel before and behind it: a chain of every CHANNELS-th element, which
// goes on in the next block at `onward`.
template <int SIZE, int CHANNELS, int COUNT>
struct Chains {
    static constexpr int REACH = SIZE / 2 * CHANNELS;
    static constexpr int BLOCKS = (REACH + COUNT - 1) / COUNT;  // met on either side
    static __device__ constexpr int divide(int x) {  // down
        return x >= 0 ? x / COUNT : -((COUNT - 1 - x) / COUNT);
    }
    // Of the window around element e: which element of which block is its first, and its last.
    static __device__ constexpr int first_block(int e) { return divide(e - REACH); }
    static __device__ constexpr int first_of(int e) { return e - REACH - COUNT * first_block(e); }
    static __device__ constexpr int last_block(int e) { return divide(e + REACH); }
    static __device__ constexpr int last_of(int e) { return e + REACH - COUNT * last_block(e); }
    // The blocks that it meets all elements of its chain of.
    static __device__ constexpr int first_whole(int e) {
        return first_block(e) + (first_of(e) >= CHANNELS);
    }
    static __device__ constexpr int last_whole(int e) {
        return last_block(e) - (last_of(e) < COUNT - CHANNELS);
    }
    // Which of the first CHANNELS elements of the block BY blocks on follows element e, or begins
    // the chain that e is in.
    static __device__ constexpr int onward(int e, int by) {
        const int rest = (e - by * COUNT) % CHANNELS;
        return rest < 0 ? rest + CHANNELS : rest;
    }
    // The blocks that all windows meet wholly.
    static __device__ constexpr int from() {
        int found = first_whole(0);
        for (int e = 1; e < COUNT; ++e) found = first_whole(e) > found ? first_whole(e) : found;
        return found;
    }
    static __device__ constexpr int to() {
        int found = last_whole(0);
        for (int e = 1; e < COUNT; ++e) found = last_whole(e) < found ? last_whole(e) : found;
        return found;
    }
    // Whether it begins before these, ends behind these. Where there are none, one within a block
    // is all that its first element, or its last, has behind or before it.
    static __device__ constexpr bool has_begin(int e) {
        if (from() <= to()) return first_block(e) < from();
        return first_block(e) < last_block(e) || first_of(e) >= CHANNELS;
    }
    static __device__ constexpr bool has_end(int e) {
        if (from() <= to()) return last_block(e) > to();
        return first_block(e) < last_block(e) || first_of(e) < CHANNELS;
    }

    // What it costs to take a word from so many blocks on, in half clocks: shuffles, and where they
    // lie in two lanes, to put them together.
    static __device__ constexpr int cost(int by, bool two) {
        if (!two || by % 2 == 0) return by ? 2 : 0;
        return by == 1 || by == -1 ? 3 : 5;
    }
    // How many blocks before its window a lane is best: if there are pairs (see Across), one before
    // the blocks that all windows meet wholly.
    static __device__ constexpr int ahead(bool two) {
        if (from() < to()) return 1 - from();
        int best = 0, least = 1 << 20;
        for (int by = 0; by <= BLOCKS; ++by) {
            int all = from() == to() ? CHANNELS * cost(from() + by, two) : 0;
            for (int e = 0; e < COUNT; ++e) {
                if (has_begin(e)) all += cost(first_block(e) + by, two);
                if (has_end(e)) all += cost(last_block(e) + by, two);
            }
            if (all < least) {
                best = by;
                least = all;
            }
        }
        return best;
    }
};

// Rows of one step: a lane's elements → the windows around those `AHEAD` blocks on, so that what
// windows begin with is at hand. All that lies beyond the ends of the warp is anything. BACKWARD:
// the same turned over, which takes the results of another step back to where they belong.
template <typename T, bool HIGHEST, int SIZE, int CHANNELS, int COUNT, bool BACKWARD>
struct Across {
    using Plan = Chains<SIZE, CHANNELS, COUNT>;
    static constexpr bool TWO = sizeof(T) < 4;
    static constexpr int FROM = Plan::from(), TO = Plan::to();
    static constexpr bool COMMON = FROM <= TO;
    static constexpr int AHEAD = Plan::ahead(TWO);

    uint32 prefix[COUNT], suffix[COUNT];  // of chains, up to an element and from it on
    uint32 begins[COUNT], ends[COUNT];    // what the windows begin and end with
    uint32 common[CHANNELS];              // the blocks that all windows of a chain meet wholly

    static __device__ __forceinline__ uint32& at(uint32 (&line)[COUNT], int e) {
        return line[BACKWARD ? COUNT - 1 - e : e];
    }

    // A word of the lane that is so many lanes on.
    template <int BY>
    static __device__ __forceinline__ uint32 from_lane(uint32 word) {
        constexpr int ON = BACKWARD ? -BY : BY;
        if constexpr (ON == 0) {
            return word;
        } else if constexpr (ON < 0) {
            return __shfl_up_sync(FULL_WARP, word, -ON);
        } else {
            return __shfl_down_sync(FULL_WARP, word, ON);
        }
    }
    // The last element of a word and the first of that of the next lane.
    static __device__ __forceinline__ uint32 between(uint32 word, uint32 next) {
        return BACKWARD ? __byte_perm(next, word, 0x5432) : __byte_perm(word, next, 0x5432);
    }
    // A word of the blocks that are BY blocks on.
    template <int BY>
    static __device__ __forceinline__ uint32 moved(uint32 word) {
        if constexpr (!TWO) {
            return from_lane<BY>(word);
        } else if constexpr (BY % 2 == 0) {
            return from_lane<BY / 2>(word);
        } else {
            constexpr int LANE = (BY - (BY < 0)) / 2;
            return between(from_lane<LANE>(word), from_lane<LANE + 1>(word));
        }
    }

    // Window E and those behind: what they begin and end with.
    template <int E>
    __device__ __forceinline__ void hand_over() {
        if constexpr (E < COUNT) {
            if constexpr (Plan::has_begin(E))
                begins[E] = moved<Plan::first_block(E) + AHEAD>(suffix[Plan::first_of(E)]);
            if constexpr (Plan::has_end(E))
                ends[E] = moved<Plan::last_block(E) + AHEAD>(prefix[Plan::last_of(E)]);
            hand_over<E + 1>();
        }
    }
    // The blocks that all windows meet wholly, from the one BEGIN blocks on. If that is the next
    // one, `pairs` of a block and the next are handed over by an even number of blocks: no word
    // need be made of two lanes'.
    static constexpr int BEGIN = FROM + AHEAD, END = TO + AHEAD;
    __device__ __forceinline__ void find_common() {
        uint32 chains[CHANNELS], next[CHANNELS], pairs[CHANNELS];
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) {
            chains[c] = prefix[COUNT - 1 - (COUNT - 1 - c) % CHANNELS];
            next[c] = moved<BEGIN>(chains[c]);
        }
#pragma unroll
        for (int c = 0; c < CHANNELS; ++c) common[c] = next[Plan::onward(c, FROM)];
        if constexpr (BEGIN < END) {
            static_assert(BEGIN == 1, "the next block");
#pragma unroll
            for (int c = 0; c < CHANNELS; ++c)
                pairs[c] = join<T, HIGHEST>(chains[c], next[Plan::onward(c, 1)]);
            add_pairs<2>(chains, pairs);
        }
    }
    template <int BY>
    __device__ __forceinline__ void add_pairs(const uint32 (&chains)[CHANNELS],
                                              const uint32 (&pairs)[CHANNELS]) {
        if constexpr (BY <= END) {
            uint32 both[CHANNELS];
#pragma unroll
            for (int c = 0; c < CHANNELS; ++c) both[c] = moved<BY>(BY < END ? pairs[c] : chains[c]);
#pragma unroll
            for (int c = 0; c < CHANNELS; ++c)
                common[c] = join<T, HIGHEST>(common[c], both[Plan::onward(c, BY - AHEAD)]);
            add_pairs<BY + 2>(chains, pairs);
        }
    }

    template <int E>
    __device__ __forceinline__ void close(uint32 (&line)[COUNT]) {
        if constexpr (E < COUNT) {
            constexpr int FIRST = Plan::first_block(E), LAST = Plan::last_block(E);
            constexpr int FIRST_OF = Plan::first_of(E), LAST_OF = Plan::last_of(E);
            uint32 result;
            if constexpr (COMMON) {
                result = common[E % CHANNELS];
                if constexpr (Plan::has_begin(E)) result = join<T, HIGHEST>(result, begins[E]);
                if constexpr (Plan::has_end(E)) result = join<T, HIGHEST>(result, ends[E]);
                if constexpr (FIRST < FROM - 1) {  // a whole block, that another begins with
                    constexpr int OTHER = E + COUNT - FIRST_OF + Plan::onward(FIRST_OF, 1);
                    static_assert(FIRST == FROM - 2 && OTHER < COUNT, "another begins so");
                    result = join<T, HIGHEST>(result, begins[OTHER]);
                }
            } else if constexpr (FIRST == LAST) {
                static_assert(FIRST_OF < CHANNELS || LAST_OF >= COUNT - CHANNELS, "not longer");
                result = Plan::has_begin(E) ? begins[E] : ends[E];
            } else {
                result = join<T, HIGHEST>(begins[E], ends[E]);
            }
            if constexpr (COMMON ? LAST > TO + 1 : LAST > FIRST + 1) {  // likewise
                constexpr int OTHER = E - 1 - LAST_OF - Plan::onward(COUNT - 1 - LAST_OF, 1);
                static_assert(LAST == (COMMON ? TO : FIRST) + 2 && OTHER >= 0, "another ends so");
                result = join<T, HIGHEST>(result, ends[OTHER]);
            }
            at(line, E) = result;
            close<E + 1>(line);
        }
    }

    __device__ __forceinline__ void run(uint32 (&line)[COUNT]) {
#pragma unroll
        for (int e = 0; e < COUNT; ++e) {
            const int back = COUNT - 1 - e;
            prefix[e] = at(line, e);
            suffix[back] = at(line, back);
            if (e >= CHANNELS) {
                prefix[e] = join<T, HIGHEST>(prefix[e - CHANNELS], prefix[e]);
                suffix[back] = join<T, HIGHEST>(suffix[back], suffix[back + CHANNELS]);
            }
        }
        hand_over<0>();
        if constexpr (COMMON) find_common();
        close<0>(line);
    }
};

// A lane's elements of the rows from `first` on. Where some lane's are not in the image, what lies
// up to LANES lanes beyond the ends of a row lanes fetch together, an element each of every 16 on
// either side, and then take of each other: which elements answer there is found once.
template <typename U, int N, int LANES>
struct LaneRows {
    static constexpr int GROUP = 16, GROUPS = (LANES * N + GROUP - 1) / GROUP;
    static constexpr int EACH = 4 / int(sizeof(U)), NONE = -2147483647 - 1;
    struct Rows {
        Words<U, N> own[BLOCK];
        uint32 beyond[BLOCK][GROUPS];  // of those elements, this lane's
    };
    const Images& images;
    const U *place, *inside;  // the lane's elements in row 0, and in row y
    int x, y;                 // the next row
    bool is_there, all_there;  // in the image, the lane's elements; those of all lanes
    int answers[GROUPS];  // from `place` on; where they are NONE, the value answers
    uint32 value;

    __device__ __forceinline__ LaneRows(const U* input, const Images& all, int64 plane, int x,
                                        int first)
        : images(all),
          place(input + all.plane_offset(all.input, plane) + x),
          inside(place + first * all.input.row),
          x(x),
          y(first) {
        const int lane = threadIdx.x, end = all.row_elements();
        is_there = x >= 0 && x < end;
        all_there = __all_sync(FULL_WARP, is_there);
#pragma unroll 1
        for (int g = 0; g < GROUPS; ++g) {  // the border's code is there once
            const int beyond = lane < GROUP ? lane - (g + 1) * GROUP : end + lane + (g - 1) * GROUP;
            const int from = map_element(all, beyond);
#pragma unroll
            for (int i = 0; i + 1 < GROUPS; ++i) answers[i] = answers[i + 1];
            answers[GROUPS - 1] = from < 0 ? NONE : from - x;
        }
        const U fill = all.value.as<U>();
        value = fill * (EACH == 4 ? 0x01010101u : EACH == 2 ? 0x00010001u : 1u);
    }

    // Whether the next four rows need not ask the border.
    __device__ __forceinline__ bool are_inside() const {
        return all_there && y >= 0 && y + BLOCK <= images.height;
    }
    template <bool INSIDE>
    __device__ __forceinline__ void request(Rows& rows) {
        int mapped = 0;  // of four lanes, the rows of the image that these four are
        if (!INSIDE) mapped = map_index(images.border, y + int(threadIdx.x) % BLOCK, images.height);
#pragma unroll
        for (int r = 0; r < BLOCK; ++r) {
            if constexpr (INSIDE) {
                rows.own[r] = load_words<U, N>(inside);
            } else {
                const int number = __shfl_sync(FULL_WARP, mapped, r);
                const U* from = place + number * images.input.row;
#pragma unroll
                for (int w = 0; w < 4; ++w) rows.own[r].words[w] = value;
                if (number >= 0 && is_there) rows.own[r] = load_words<U, N>(from);
#pragma unroll
                for (int g = 0; g < GROUPS; ++g) {
                    rows.beyond[r][g] = value;
                    if (number >= 0 && answers[g] != NONE) rows.beyond[r][g] = from[answers[g]];
                }
            }
            inside += images.input.row;
        }
        y += BLOCK;
    }

    // Row R of these. Every lane must call it.
    template <bool INSIDE, int R>
    __device__ __forceinline__ Words<U, N> complete(const Rows& rows) const {
        Words<U, N> own = rows.own[R];
        if constexpr (!INSIDE) {
            const int lane = threadIdx.x, past = x - images.row_elements();
#pragma unroll
            for (int g = 0; g < GROUPS; ++g) {
                // With the lanes behind, in some lanes all of a word.
                uint32 word = U(rows.beyond[R][g]);
                if constexpr (EACH == 4) word |= __shfl_sync(FULL_WARP, word, lane + 1 & 31) << 8;
                if constexpr (EACH > 1)
                    word |= __shfl_sync(FULL_WARP, word, lane + EACH / 2 & 31) << 16;
                const int from = x < 0 ? x + (g + 1) * GROUP : past - (g - 1) * GROUP;
                const bool is_here = x < 0 ? from >= 0 && from < GROUP : past >= g * GROUP;
#pragma unroll
                for (int w = 0; w < 4; ++w) {
                    const uint32 answer = __shfl_sync(FULL_WARP, word, from + w * EACH & 31);
                    if (is_here) own.words[w] = answer;
                }
            }
        }
        return own;
    }
};

// Bytes of two steps. A word has two elements in its upper bytes, below which anything may lie: it
// neither decides which is higher nor is it written. So half of all elements are in their place as
// two words are put together, the others a multiplication away, which toggles all bits besides:
// ~x is -1 * x - 1. Multiplications leave the pipe that compares alone.
struct UpperBytes {
    static __device__ __forceinline__ void open(uint32 (&line)[8], const Words<uint8, 16>& own,
                                                int factor) {
        const uint32 all = factor >> 1;  // 0 or all bits
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const uint32 two = __byte_perm(own.words[k / 2], own.words[k / 2 + 2],
                                           k % 2 ? 0x7632 : 0x5410);
            line[2 * k] = two * uint32(factor * 256) + all;
            line[2 * k + 1] = two * uint32(factor) + all;
        }
    }
    static __device__ __forceinline__ Words<uint8, 16> close(const uint32 (&line)[8], int factor) {
        Words<uint8, 16> result;
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const uint32* four = line + w % 2 * 4;
            const uint32 low = __byte_perm(four[0], four[1], 0x7351);
            const uint32 high = __byte_perm(four[2], four[3], 0x7351);
            const uint32 word = __byte_perm(low, high, w < 2 ? 0x5410 : 0x7632);
            result.words[w] = word * uint32(factor) + uint32(factor >> 1);
        }
        return result;
    }
};

// A strip from its first row to its last.
template <Boxes BOXES, int SIZE, int CHANNELS, typename T>
struct March {
    using U = Key<T>;
    using Elements = Compared<T>;
    using B = Blocks<SIZE>;
    static constexpr int N = Elements::N, COUNT = Elements::COUNT;
    static constexpr bool TWICE = BOXES == Boxes::Twice;
    static constexpr bool BYTES = TWICE && sizeof(T) == 1;
    // Only signed integers are toggled as they are read, or written.
    static constexpr bool SELDOM = BYTES || !TWICE;
    static constexpr int STEPS = TWICE ? 2 : 1, EACH = N / COUNT;  // elements of a word
    using Highest = Columns<T, true, SIZE, COUNT>;
    using Lowest = Columns<T, false, SIZE, COUNT>;
    using HighestAcross = Across<T, true, SIZE, CHANNELS, COUNT, false>;
    using LowestAcross = Across<T, false, SIZE, CHANNELS, COUNT, TWICE>;
    // Blocks from what a lane has read to its windows: the second step of two goes back again, an
    // odd one is gone back before the first. ON are the elements from what a lane has read to its
    // results, FIRST is the first lane that has any.
    static constexpr int AHEAD = TWICE ? 0 : HighestAcross::AHEAD, BACK = AHEAD % EACH;
    static constexpr int ON = AHEAD / EACH * N;
    // Lanes on either side whose elements are read besides those of results. Where one block is
    // gone back, the last that a warp has read is out of reach, which matters if they are even.
    using Plan = Chains<SIZE, CHANNELS, COUNT>;
    static constexpr bool MOVED = !TWICE && EACH == 2 && Plan::BLOCKS % 2 == 0 && Plan::to() <= 0;
    static constexpr int LANES = (STEPS * Plan::BLOCKS + EACH - 1) / EACH + MOVED;
    static_assert(!BACK || Plan::BLOCKS % 2 || MOVED, "all that a window meets is at hand");
    static constexpr int FIRST = LANES - AHEAD / EACH;
    // Rows that go by before the first result, whole blocks of them.
    static constexpr int ABOVE = (STEPS * B::BACK + BLOCK - 1) / BLOCK * BLOCK;
    using Reader = LaneRows<U, N, LANES>;
    static constexpr int SHARED_WORDS = Highest::WORDS + Lowest::WORDS;

    const MorphSmallParams& params;
    Reader reader;
    typename Reader::Rows next;
    Highest highest;
    Lowest lowest;  // of the highest, or of the image
    int x, y, rows;  // the lane's; the first of the next four results in the strip; the strip's
    int top;
    bool has_result;
    U* target;

    __device__ __forceinline__ March(const U* input, U* output, uint4* ring,
                                     const MorphSmallParams& all, const Strip& strip, int own_x)
        : params(all),
          reader(input, all.images, strip.plane, own_x, strip.y - ABOVE + STEPS * B::LAG),
          highest(ring),
          lowest(ring + Highest::WORDS / 4 * 32),
          x(own_x),
          y(-ABOVE),
          rows(strip.rows),
          top(strip.y) {
        const int lane = threadIdx.x;
        has_result = lane >= FIRST && lane < FIRST + 32 - 2 * LANES &&
                     x + ON < all.images.row_elements();
        target = output + all.images.plane_offset(all.images.output, strip.plane) +
                 strip.y * all.images.output.row + x + ON;
        reader.template request<false>(next);
    }

    // What is INSIDE is read, met and written without conditions.
    __device__ __forceinline__ bool is_inside() const {
        return y >= 0 && y + BLOCK <= rows && reader.are_inside();
    }
    __device__ __forceinline__ void run() {
#pragma unroll 1
        while (y < rows) {
#pragma unroll 1
            for (; y < rows && !is_inside(); y += BLOCK) trip<false>();
#pragma unroll 1
            for (; is_inside(); y += BLOCK) trip<true>();
            memset(next.beyond, 0, sizeof next.beyond);  // nothing need be kept meanwhile
        }
    }

    // Four rows. Those above the strip come to results of a step when the windows of all that come
    // of these are whole.
    template <bool INSIDE>
    __device__ __forceinline__ void trip() {
        typename Reader::Rows block;
        memcpy(block.own, next.own, sizeof block.own);
        if (INSIDE && SELDOM && params.mask) {
#pragma unroll
            for (int r = 0; r < BLOCK; ++r) toggle(block.own[r]);
        }
        if (!INSIDE) memcpy(block.beyond, next.beyond, sizeof block.beyond);
        reader.template request<INSIDE>(next);
        meet<INSIDE, 0>(block);
        highest.end_block();
        if (INSIDE || !TWICE || is_first(BLOCK - 1)) lowest.end_block();
    }
    // Whether the first step's result with row r is met by a window of the second's.
    __device__ __forceinline__ bool is_first(int r) const {
        return y >= -(B::BACK + r) / BLOCK * BLOCK;
    }

    __device__ __forceinline__ void toggle(Words<U, N>& row) const {
#pragma unroll
        for (int w = 0; w < 4; ++w) row.words[w] ^= params.mask;
    }

    template <bool INSIDE, int R>
    __device__ __forceinline__ void meet(const typename Reader::Rows& block) {
        if constexpr (R < BLOCK) {
            const bool is_last = INSIDE || y >= 0;
            const bool is_needed = TWICE ? INSIDE || is_first(R) : is_last;
            uint32 line[COUNT], found[COUNT], results[COUNT];
            Words<U, N> own = reader.template complete<INSIDE, R>(block);
            if (!INSIDE && SELDOM) toggle(own);
            if constexpr (BACK) {
                const int lane = int(threadIdx.x) - 1 & 31;
                const uint32 before[2] = {__shfl_sync(FULL_WARP, own.words[2], lane),
                                          __shfl_sync(FULL_WARP, own.words[3], lane)};
                own = {before[0], before[1], own.words[0], own.words[1]};
            }
            if constexpr (BYTES) {
                UpperBytes::open(line, own, params.factor);
            } else {
                Elements::open(line, own, TWICE ? params.mask : 0);
            }
            highest.template meet<R>(found, line, is_needed);
            if constexpr (TWICE) {
                if (is_needed) {
                    HighestAcross().run(found);
                    if (!INSIDE && params.has_outside)
                        put_outside(found, top + y + R + B::LAG);
                    lowest.template meet<R>(results, found, is_last);
                    if (is_last) {
                        LowestAcross().run(results);
                        write<INSIDE>(results, params.mask, R);
                    }
                }
            } else {
                lowest.template meet<R>(results, line, is_last);
                if (is_last) {
                    HighestAcross().run(found);
                    LowestAcross().run(results);
#pragma unroll
                    for (int i = 0; i < COUNT; ++i)
                        results[i] = Order<T>::difference(found[i], results[i], params.most);
                    write<INSIDE>(results, 0, R);
                }
            }
            meet<INSIDE, R + 1>(block);
        }
    }

    template <bool INSIDE>
    __device__ __forceinline__ void write(const uint32 (&results)[COUNT], uint32 mask, int r) {
        Words<U, N> row;
        if constexpr (BYTES) {
            row = UpperBytes::close(results, params.factor);
            if (mask) toggle(row);
        } else {
            row = Elements::close(results, mask);
        }
        if (has_result && (INSIDE || y + r < rows)) store_words(target, row);
        target += params.images.output.row;
    }

    // What answers for first results of row `at` of the image that lie outside.
    __device__ __forceinline__ void put_outside(uint32 (&line)[COUNT], int at) const {
        const bool is_row = at >= 0 && at < params.images.height;
        uint32 outside = 0;  // the bits of these
#pragma unroll
        for (int part = 0; part < EACH; ++part) {
            const int first = x + (HighestAcross::AHEAD + part) * COUNT;
            if (!is_row || first < 0 || first >= params.images.row_elements())
                outside |= (EACH == 1 ? ~0u : 0xffffu) << part * 16;
        }
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            line[i] = (line[i] & ~outside) | (params.outside & outside);
    }
};

template <Boxes BOXES, int SIZE, int CHANNELS, typename T>
__global__ void __launch_bounds__(32 * WARPS, 4)
    morph_blocks(const Key<T>* input, Key<T>* output, const MorphSmallParams params) {
    using Work = March<BOXES, SIZE, CHANNELS, T>;
    DYNAMIC_SHARED(uint4, shared);
    uint4* ring = shared + threadIdx.y * (Work::SHARED_WORDS / 4 * 32) + threadIdx.x;
    const int64 step = int64(gridDim.x) * WARPS;
    for (int64 job = int64(blockIdx.x) * WARPS + threadIdx.y; job < params.strips.jobs;
         job += step) {
        const Strip strip = params.strips.at(job, params.images);
        const int x = strip.x + (int(threadIdx.x) - Work::LANES) * Work::N;
        Work(input, output, ring, params, strip, x).run();
    }
}
