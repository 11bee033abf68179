// Boxes of a few odd widths over rows of whole packs, for which a warp needs no other.
//
//   extreme_lanes   dilations and erosions, pools of maxima and minima
//   mean_lanes      means
//
// A warp marches down a strip; a lane owns N neighbouring elements of every row. Columns are
// reduced as in common/sliding.cuh, or, of sums of bytes, by adding a row and taking one away: whole
// numbers come out the same. Rows are reduced in blocks of four elements (van Herk 1992, Gil and
// Werman 1993), a window of which is
//
//   ... | . . S S | B B B B | B B B B | P P . . | ...      S, whole blocks, P
//
// A lane makes the windows that begin with its elements, of its own suffixes S and what lanes behind
// hand it by shuffles; then pixels move as far as windows begin before them, as stored ones, of which
// a word holds most. Elements of 8 and 16 bits are two of a word, one of each of the lane's blocks:
// element j and element j + 4 are reduced at once.
//
// Lanes are numbered through the rows of strips, `o` what lies outside, which one border's value may
// answer for two rows:
//
//   a constant border   o 0 1 2 3 o 0 1 2 3 o ...      others   o 0 1 2 3 o o 0 1 2 3 o ...
//
// so that narrow images take as few lanes as wide ones. `beside` lanes at either end of a warp hand
// over what others need and store nothing.
//
// On sm_90 a copy leaves 15.6 issue slots a byte and 7.8 of ALU. Maxima of bytes take 10 to 11 and 6,
// means 12 and 6, and a warp of 32 lanes has results of 30: memory limits both. Floats of 16 bits take
// 11 and 17 of twice as many, those of 32 bits 20 to 22 of four times as many; the L2 cache limits
// these, where rows are read from it again.
#include "common/window_works.cuh"

// Twin of WARPS in gpuconv/backends/cuda/window_lanes.py.
constexpr int WARPS = 4;

// Twin of LANE_WINDOWS there.
struct LaneWindows {
    Images images;
    int64 jobs;          // of a warp each
    int64 bands;         // strips of all planes
    int down, rows;      // strips of a plane; rows of results of one
    int packs, lanes;    // of a row in the image; numbered of it, those outside among them
    int beside;          // lanes outside before a row; lanes of a warp that hand over at either end
    int height, top;     // of the window; from a result back to its window's first row
    int blocks;          // see Sliding
    static constexpr bool LOW = false;
};

// What a lane reads. Where FOLDS, lanes outside may copy elements, each told by its distance.
template <typename T, int N, bool FOLDS>
struct LaneColumn {
    Column<T, N> own;
    const T* first;           // of those that are copied, in row 0
    bool copies;
    uint32 distances[N / 4];  // a byte each

    __device__ __forceinline__ LaneColumn(const T* plane, const Images& images, int x)
        : own(plane, images, x), first(plane), copies(false), distances() {
        if constexpr (FOLDS) {
            copies = !own.is_read && images.border != Border::Constant;
            if (!copies) return;
            int least = images.row_elements();
#pragma unroll 1
            for (int i = 0; i < N; ++i) least = min(least, map_element(images, x + i));
#pragma unroll 1
            for (int i = 0; i < N; ++i) {
                // The distances move down, and the next one comes in at the top.
                const uint32 next = map_element(images, x + i) - least;
#pragma unroll
                for (int w = 0; w < N / 4; ++w) {
                    const uint32 above = w + 1 < N / 4 ? distances[(w + 1) % (N / 4)] : next;
                    distances[w] = distances[w] >> 8 | above << 24;
                }
            }
            first += least;
        }
    }

    template <bool ALL = true, int COUNT>
    __device__ __forceinline__ void read(Words<T, N> (&rows)[COUNT], int y,
                                         int count = COUNT) const {
        if constexpr (FOLDS) {
            if (copies) {
                copy<ALL>(rows, y, count);
                return;
            }
        }
        own.template read<ALL>(rows, y, count);
    }
    template <bool ALL, int COUNT>
    __device__ __forceinline__ void copy(Words<T, N> (&rows)[COUNT], int y, int count) const {
        const Images& images = own.images;
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            if (!ALL && k >= count) continue;
            const int from = map_index(images.border, y + k, images.height);
            const T* row = first + from * images.input.row;
#pragma unroll
            for (int i = 0; i < N; ++i) rows[k].push(row[distances[i / 4] >> 8 * (i % 4) & 0xffu]);
        }
    }
};

// Windows of W elements along rows. `line` is a lane's BLOCKS blocks of four values, or one of pairs
// (element j of its first block, of its second): before, the elements; after, the windows that begin
// with them.
template <typename Op, int W, bool PAIRED, int BLOCKS>
struct LaneRows {
    using Value = typename Op::Value;
    static constexpr int EACH = PAIRED ? 2 : BLOCKS;  // blocks of a lane
    static constexpr int BEYOND = (W - 1) / 4, REST = (W - 1) % 4;
    // Window j ends so many blocks on, with this element.
    static __device__ __forceinline__ constexpr int end_block(int j) {
        return BEYOND + (j + REST) / 4;
    }
    static __device__ __forceinline__ constexpr int end_element(int j) { return (j + REST) % 4; }
    static constexpr int MOST = BEYOND + (3 + REST) / 4, FAR = (MOST + EACH - 1) / EACH;
    static_assert(W > 4, "windows end in another block");

    // Whether windows that begin in block b of a lane meet prefix k of block `on` of the lane that is
    // `lanes` on.
    static __device__ __forceinline__ constexpr bool meets(int b, int blocks_on, int lanes,
                                                           int on) {
        return PAIRED ? (blocks_on / 2 == lanes || (blocks_on + 1) / 2 == lanes)
                      : ((b + blocks_on) / EACH == lanes && (b + blocks_on) % EACH == on);
    }
    static __device__ __forceinline__ constexpr bool is_wanted(int lanes, int on, int k) {
        for (int b = 0; b < BLOCKS; ++b) {
            for (int j = 0; j < 4; ++j)
                if (end_element(j) == k && meets(b, end_block(j), lanes, on)) return true;
            for (int i = 1; i < MOST; ++i)
                if (k == 3 && meets(b, i, lanes, on)) return true;
        }
        return false;
    }

    Value prefixes[FAR + 1][BLOCKS][4];  // of this lane and those behind

    template <int LANES, int ON, int K>
    __device__ __forceinline__ void fetch() {
        if constexpr (LANES <= FAR) {
            if constexpr (is_wanted(LANES, ON, K))
                prefixes[LANES][ON][K] = __shfl_down_sync(FULL_WARP, prefixes[0][ON][K], LANES);
            constexpr int NEXT = K == 3 ? ON + 1 : ON;
            fetch<NEXT == BLOCKS ? LANES + 1 : LANES, NEXT % BLOCKS, (K + 1) % 4>();
        }
    }
    // Prefix k of what lies so many blocks on from block b.
    template <int ON>
    __device__ __forceinline__ Value at(int b, int k) const {
        if constexpr (!PAIRED) {
            return prefixes[(b + ON) / EACH][(b + ON) % EACH][k];
        } else if constexpr (ON % 2 == 0) {
            return prefixes[ON / 2][0][k];
        } else {
            return __byte_perm(prefixes[ON / 2][0][k], prefixes[ON / 2 + 1][0][k], 0x5432);
        }
    }
    // Windows j and on of block b; `whole` joins the blocks in between, the next ON - 1.
    template <int J, int ON>
    __device__ __forceinline__ void close(Value (&block)[4], int b, Value whole) const {
        if constexpr (J < 4) {
            if constexpr (ON < end_block(J)) {
                const Value next = at<ON>(b, 3);
                close<J, ON + 1>(block, b, ON == 1 ? next : Op::join(whole, next));
            } else {
                if constexpr (ON > 1) block[J] = Op::join(block[J], whole);
                block[J] = Op::join(block[J], at<ON>(b, end_element(J)));
                close<J + 1, ON>(block, b, whole);
            }
        }
    }

    __device__ __forceinline__ void reduce(Value (&line)[BLOCKS][4]) {
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) {
            Value(&block)[4] = line[b];
            Value(&prefix)[4] = prefixes[0][b];
            const Value behind = Op::join(block[2], block[3]);
            prefix[0] = block[0];
            prefix[1] = Op::join(block[0], block[1]);
            prefix[2] = Op::join(prefix[1], block[2]);
            prefix[3] = Op::join(prefix[1], behind);
            block[0] = prefix[3];
            block[1] = Op::join(block[1], behind);
            block[2] = behind;
        }
        fetch<1, 0, 0>();
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) close<0, 1>(line[b], b, line[b][0]);
    }
};

// What a row's windows are, moved as many elements on as they begin before their pixel: words of
// lanes before come first.
template <int BEFORE, typename T, int N>
struct MovedWords {
    using Raw = Words<T, N>;
    static constexpr int BYTES = BEFORE * int(sizeof(T)), COUNT = Raw::COUNT;
    static constexpr int BACK = (BYTES + 4 * COUNT - 1) / (4 * COUNT), REST = -BYTES & 3;
    // The first of the words that word i comes from, two where there is a REST.
    static __device__ __forceinline__ constexpr int from(int i) {
        return (4 * (BACK * COUNT + i) - BYTES) / 4;
    }
    static __device__ __forceinline__ constexpr bool is_wanted(int word) {
        for (int i = 0; i < COUNT; ++i)
            if (from(i) == word || (REST != 0 && from(i) + 1 == word)) return true;
        return false;
    }

    uint32 words[(BACK + 1) * COUNT];

    template <int WORD = 0>
    __device__ __forceinline__ void fetch(const Raw& own) {
        if constexpr (WORD < BACK * COUNT) {
            if constexpr (is_wanted(WORD))
                words[WORD] =
                    __shfl_up_sync(FULL_WARP, own.words[WORD % COUNT], BACK - WORD / COUNT);
            fetch<WORD + 1>(own);
        }
    }
    __device__ __forceinline__ Raw of(const Raw& own) {
        fetch(own);
        Raw result;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) words[BACK * COUNT + i] = own.words[i];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const uint32 first = words[from(i)];
            if constexpr (REST == 0) {
                result.words[i] = first;
            } else {
                result.words[i] = __byte_perm(first, words[from(i) + 1], 0x3210 + 0x1111 * REST);
            }
        }
        return result;
    }
};

// Rows of windows of a strip: `y` is the first row that they meet.
template <int W, typename Work, typename Source>
__device__ __forceinline__ void march_lanes(const Work& work, const LaneWindows& windows,
                                            const Source& column, uint4* ring, int y, int rows,
                                            typename Work::T* target) {
    using T = typename Work::T;
    using Across = LaneRows<typename Work::Across, W, Work::PAIRED, Work::BLOCKS>;
    typename Work::template Columns<Source, LaneWindows> down{windows, work, column, ring};
    const int64 pitch = windows.images.output.row;
    down.start(y);
    Words<T, Work::N> tails[RISE];
    column.read(tails, y + down.tail());
#pragma unroll 1
    for (int done = 0; done < windows.rows; done += RISE, y += RISE) {
        typename Work::Down::Value found[RISE];
        down.reduce(found, tails, y);
        column.read(tails, y + RISE + down.tail());  // of no use but once, in the end
#pragma unroll
        for (int r = 0; r < RISE; ++r) {
            typename Work::Across::Value line[Work::BLOCKS][4];
            work.open(line, found[r]);
            Across across;
            across.reduce(line);
            MovedWords<W / 2, T, Work::N> moved;
            const Words<T, Work::N> results = moved.of(work.close(line));
            if (done + r < rows) store_words(target, results);
            target += pitch;
        }
    }
}

// All strips of a launch.
template <int W, typename Work>
__device__ __forceinline__ void march_all(const Work& work, const typename Work::T* input,
                                          typename Work::T* output, const LaneWindows& windows,
                                          unsigned char* shared) {
    using T = typename Work::T;
    constexpr int N = Work::N;
    const Images& images = windows.images;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint4* ring = reinterpret_cast<uint4*>(shared) + threadIdx.x;
    const int own = 32 - 2 * windows.beside;
    const int64 jobs = int64(gridDim.x) * WARPS;
    for (int64 job = int64(blockIdx.x) * WARPS + warp; job < windows.jobs; job += jobs) {
        const int64 place = job * own + lane;
        int64 band = place / windows.lanes;
        int pack = int(place - band * windows.lanes) - windows.beside;
        const bool is_there = band < windows.bands;
        if (!is_there) {  // outside the first row of all
            band = 0;
            pack = -1;
        }
        const int64 plane = band / windows.down;
        const int first_row = int(band - plane * windows.down) * windows.rows, x = pack * N;
        const bool has_result = is_there && pack >= 0 && pack < windows.packs &&
                                lane >= windows.beside && lane < 32 - windows.beside;
        const int rows = has_result ? min(windows.rows, images.height - first_row) : 0;
        const T* from = input + images.plane_offset(images.input, plane);
        T* target = output + images.plane_offset(images.output, plane) +
                    first_row * images.output.row + x;
        const bool folds = images.border != Border::Constant && images.border != Border::Wrap &&
                           (x < 0 || x >= images.row_elements());
        if (__any_sync(FULL_WARP, folds)) {
            const LaneColumn<T, N, true> column(from, images, x);
            march_lanes<W>(work, windows, column, ring, first_row - windows.top, rows, target);
        } else {
            const LaneColumn<T, N, false> column(from, images, x);
            march_lanes<W>(work, windows, column, ring, first_row - windows.top, rows, target);
        }
    }
}

// Twin of EXTREME_LANES in gpuconv/backends/cuda/window_lanes.py.
struct ExtremeLanesParams {
    LaneWindows windows;
    uint32 mask;  // see WindowExtremes
};

template <int W, typename T>
__global__ void __launch_bounds__(32 * WARPS, 4)
    extreme_lanes(const T* input, T* output, const ExtremeLanesParams params) {
    DYNAMIC_SHARED(unsigned char, shared);
    march_all<W>(WindowExtremes<T>{params.mask}, input, output, params.windows, shared);
}

// Twin of MEAN_LANES in gpuconv/backends/cuda/window_lanes.py.
struct MeanLanesParams {
    LaneWindows windows;
    float inverse;  // of the number of a window's elements; of bytes in whole units of 2^-24
};

template <int W, typename T>
__global__ void __launch_bounds__(32 * WARPS, 4)
    mean_lanes(const T* input, T* output, const MeanLanesParams params) {
    DYNAMIC_SHARED(unsigned char, shared);
    march_all<W>(WindowSums<T>{params.inverse}, input, output, params.windows, shared);
}
