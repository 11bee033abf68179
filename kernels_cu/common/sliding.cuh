// Windows of any size that slide over strips of a plane, in a time that hardly depends on the size.
//
// A block marches down a strip; a thread owns N neighbouring elements of every row. RISE rows of
// results are made at a time, first along columns:
//
//   heads      the windows' first rows, joined from the last upwards (read again: they were tails
//              `height` rows before, so that caches mostly have them)
//   blocks     the RISE rows each that lie between, joined already: a ring in shared memory
//   tails      the rows that the windows end with: new ones, read ahead
//
// then along rows, by way of shared memory, in the same manner (van Herk 1992, Gil and Werman
// 1993; here the blocks are shorter than the window, and whole ones lie between its ends):
//
//   ... | . . S S | B B B B | B B B B | P P . . | ...      window = S, whole blocks, P
//
// Nothing is ever taken back out of a result: it serves maxima, sums of integers, sums of floats.
//
// What it costs on sm_90, where a multiprocessor copies 8.2 bytes a clock and issues 128 lanes: 15.6
// slots a byte are there at the speed of a copy. Bytes in pairs take 16 to 18, of which half are
// ALU's (64 lanes a clock), so that issue and ALU limit them alike, at 85 to 95 % of it. Twice as
// many slots are there for 16 bits, four times as many for 32: memory limits these, and the L2 cache,
// which rows of tall windows are read from again.
//
// A Work tells what is joined:
//
//   T, N, GROUP, PARTS           pixels; elements of a thread; rows that go across as one; lines
//   ROWS                         of one channel, and their length: no other code
//   ADDS_MULTIPLES               joining across is an addition of integers
//   Down::Value, Down::join      N elements of a row, as columns are reduced
//   Across::Value, Across::join  one element of GROUP rows, as rows are reduced; 0 joins nothing
//   begin(Words<T, N>)           → Down::Value
//   turn(line, rows)             GROUP rows → PARTS lines of N
//   finish(results, lines)       PARTS lines → GROUP rows of Words<T, N>
//
// Rows begin at multiples of 16 bytes and are whole packs of N, so that a thread's elements are all
// inside the image or all outside. Those outside are read from the other end (wrap) or taken as
// the value (constant); other borders copy the reduced columns that answer for them.
#pragma once
#include "ptx.cuh"
#include "strip.cuh"

constexpr int RISE = 4;

// Blocks of 256 threads that a multiprocessor shall have registers for; of box sums over 16-bit
// pixels. Before sm_90 two packed numbers are compared by several instructions, which take more
// registers; from sm_100 on the compiler keeps more of them.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int BLOCKS_EACH = 2, HALF_SUM_BLOCKS = 1;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int BLOCKS_EACH = 2, HALF_SUM_BLOCKS = 2;
#else
constexpr int BLOCKS_EACH = 3, HALF_SUM_BLOCKS = 2;
#endif

// Windows along rows that a kernel is made for: of N pixels or less and one channel, longer ones of
// one channel, or whatever comes.
enum class Rows : int { Any, Short, Long };

// Twin of SLIDING in gpuconv/backends/cuda/sliding.py. Counts elements, but for `left` and `width`,
// which count pixels; offsets (`_at`) count bytes of shared memory.
struct Sliding {
    Images images;
    int64 jobs;
    int down, across;    // strips of a plane
    int rows, columns;   // results of a strip; columns are whole packs of every channel
    int height, width;   // of the window
    int top, left;       // from a result back to its window's first row and pixel
    int before, lanes;   // elements that a strip reads left of its results; packs that it reads
    int blocks;          // of RISE rows, whole ones between heads and tails
    int between, more;   // of N pixels: in every window; first pixels whose windows hold one more
    uint32 more_of[7];   // 1 for each of these, else 0
    int ring_at;         // the blocks
    static constexpr bool LOW = true;
    int lines_at, pitch_bytes;  // three lines of packs, each followed by one word
    int totals_at, mapped_at;
};

// Two windows, one after the other: `held` rows between them, and where. Twin of PAIR.
struct Pair {
    Sliding first, second;
    int held, held_at;
};

// `Down` of sums: the numbers of a row's elements, added one by one.
template <typename Number, int COUNT>
struct DownSums {
    struct __align__(16) Value {
        Number sums[COUNT];
    };
    static __device__ __forceinline__ Value join(const Value& a, const Value& b) {
        Value result;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) result.sums[i] = a.sums[i] + b.sums[i];
        return result;
    }
    static __device__ __forceinline__ Value less(const Value& a, const Value& b) {
        Value result;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) result.sums[i] = a.sums[i] - b.sums[i];
        return result;
    }
};

// What a thread reads: its elements of any row of a plane.
template <typename T, int N>
struct Column {
    const T* place;  // in row 0
    const Images& images;
    bool is_read;
    Words<T, N> value;  // where the row or the elements are not in the image

    __device__ __forceinline__ Column(const T* plane, const Images& all, int x)
        : images(all), is_read(x >= 0 && x < all.row_elements()), value() {
        if (!is_read && all.border == Border::Wrap) {
            x = fold(x, all.row_elements());
            is_read = true;
        }
        place = plane + x;
        const T fill = all.value.template as<T>();
#pragma unroll
        for (int i = 0; i < N; ++i) value.push(fill);
    }

    // Rows y ... y + COUNT - 1; the first `count` of them where not ALL are wanted.
    template <bool ALL = true, int COUNT>
    __device__ __forceinline__ void read(Words<T, N> (&rows)[COUNT], int y,
                                         int count = COUNT) const {
        if (!is_read) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) rows[i] = value;
        } else if (y >= 0 && y + COUNT <= images.height) {
            const T* row = place + y * images.input.row;
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                if (ALL || i < count) rows[i] = load_words<T, N>(row);
                row += images.input.row;
            }
        } else {
            int from[COUNT] = {};
#pragma unroll 1
            for (int k = 0; k < COUNT; ++k) {  // the border's code is there once
#pragma unroll
                for (int i = 0; i + 1 < COUNT; ++i) from[i] = from[i + 1];
                from[COUNT - 1] = map_index(images.border, y + k, images.height);
            }
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                rows[i] = value;
                if ((ALL || i < count) && from[i] >= 0)
                    rows[i] = load_words<T, N>(place + from[i] * images.input.row);
            }
        }
    }
};

// The same, of the last `held` rows of a step's results, which a thread has put into shared memory.
template <typename T, int N>
struct HeldColumn {
    Words<T, N>* rows_of_thread;
    const Images& images;
    int held;
    Words<T, N> value;

    __device__ __forceinline__ Words<T, N>& row(int y) const {
        return rows_of_thread[y % held * blockDim.x];
    }
    template <bool ALL = true, int COUNT>
    __device__ __forceinline__ void read(Words<T, N> (&rows)[COUNT], int y,
                                         int count = COUNT) const {
        const bool inside = y >= 0 && y + COUNT <= images.height;
        int slot = inside ? y % held : 0;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (!ALL && i >= count) continue;
            if (inside) {
                rows[i] = rows_of_thread[slot * blockDim.x];
                slot = slot + 1 == held ? 0 : slot + 1;
            } else {
                const int from = map_index(images.border, y + i, images.height);
                rows[i] = value;
                if (from >= 0) rows[i] = row(from);
            }
        }
    }
};

// Lines in shared memory: a word is left out behind every pack, so that lanes' packs begin in
// different banks. place(x) = x + x / N, also of negative x.
template <int N>
__device__ __forceinline__ constexpr int line_place(int x) {
    static_assert(N == 4 || N == 8, "packs of 4 or 8");
    return x + (x >> (N == 8 ? 3 : 2));
}

// first[OFFSET]. Compilers make one code of the cases of `read_line`, whose loads differ in their
// offsets alone, and pay an addition a load for it: not where the offset is the instruction's own.
template <int OFFSET, typename Value>
__device__ __forceinline__ Value load_shared(const Value* first) {
#ifdef GPUCONV_EMULATOR
    return first[OFFSET];
#else
    uint32 bits;
    asm volatile("ld.shared.b32 %0, [%1 + %2];"
                 : "=r"(bits)
                 : "r"(shared_address(first)), "n"(4 * OFFSET)
                 : "memory");
    Value value;
    memcpy(&value, &bits, 4);
    return value;
#endif
}
template <int N, int REST, int I = 0, int COUNT, typename Value>
__device__ __forceinline__ void read_places(Value (&met)[COUNT], const Value* first) {
    if constexpr (I < COUNT) {
        met[I] = load_shared<line_place<N>(REST + I)>(first);
        read_places<N, REST, I + 1>(met, first);
    }
}

// met[i] = element x + i of a line; REST is what is left of x beyond whole packs, so that every
// place is known as the code is compiled but for the first.
template <int N, int REST = 0, int COUNT, typename Value>
__device__ __forceinline__ void read_line(Value (&met)[COUNT], const Value* line, int x) {
    if constexpr (REST == N - 1) {
        read_places<N, REST>(met, line + line_place<N>(x - REST));
    } else if ((x & (N - 1)) == REST) {
        read_places<N, REST>(met, line + line_place<N>(x - REST));
    } else {
        read_line<N, REST + 1>(met, line, x);
    }
}

// Rows of windows: `line` is what a thread owns, before and after.
template <typename Work>
struct RowWindows {
    using Op = typename Work::Across;
    using Value = typename Op::Value;
    static constexpr int N = Work::N;

    const Sliding& sliding;
    unsigned char* shared;
    bool copied;      // the strip has elements outside the image, which copy others; uniform
    bool outside;     // this thread's are
    bool answers;     // others may copy this thread's
    bool has_result;  // its results lie in the image
    int taker;        // the thread, or one whose results lie in the image: all read in step
    int first;        // element that the thread's block begins with, see reduce_long
    int turn;

    __device__ __forceinline__ Value* shared_line(int number) const {
        return reinterpret_cast<Value*>(shared + sliding.lines_at + number * sliding.pitch_bytes);
    }

    __device__ __forceinline__ int channels() const {
        return Work::ROWS == Rows::Any ? sliding.images.channels : 1;
    }
    __device__ __forceinline__ bool is_short() const {
        return Work::ROWS == Rows::Any ? sliding.width <= N : Work::ROWS == Rows::Short;
    }

    __device__ __forceinline__ void reduce(Value (&line)[N]) {
        const bool short_window = is_short();
        if (short_window && sliding.width == 1) return;
        const int channels = this->channels();
        Value* values = shared_line(short_window ? turn : 0);
        turn ^= 1;
        const bool from_shared = short_window || channels > 1;
        if (copied || from_shared) {
            if (from_shared || answers) write_own(values, line);
            __syncthreads();
            if (copied) {
                if (outside) {
                    read_mapped(line, values);
                    if (from_shared) write_own(values, line);
                }
                if (from_shared) __syncthreads();
            }
        }
        if (!short_window) {
            reduce_long(line, values, channels);
        } else if (channels == 1) {
            reduce_short(line, values);
        } else {
            reduce_spread(line, values, channels);
        }
    }

    // What lies outside the image from what answers for it, after `reduce`: the border of a step's
    // results.
    __device__ __forceinline__ void copy_outside(Value (&line)[N]) const {
        if (!copied) return;
        Value* values = shared_line(is_short() ? 2 : 0);
        if (answers) write_own(values, line);
        __syncthreads();
        if (outside) read_mapped(line, values);
        __syncthreads();
    }
    __device__ __forceinline__ void read_mapped(Value (&line)[N], const Value* values) const {
        const uint16* from =
            reinterpret_cast<const uint16*>(shared + sliding.mapped_at) + threadIdx.x * N;
        const auto places = load_words<uint16, N>(from);
#pragma unroll
        for (int i = 0; i < N; ++i) line[i] = values[places[i]];
    }

    __device__ __forceinline__ void write_own(Value* values, const Value (&line)[N]) const {
        if (int(threadIdx.x) >= sliding.lanes) return;
#pragma unroll
        for (int i = 0; i < N; ++i) values[threadIdx.x * (N + 1) + i] = line[i];
    }

    // Windows of N pixels or less, of one channel.
    __device__ __forceinline__ void reduce_short(Value (&line)[N], const Value* values) const {
        const int width = sliding.width;
        const Value* own = values + taker * (N + 1);
        // All that any of these windows could meet lies in the neighbours' packs.
        Value met[2 * N - 1];
        read_line<N>(met, own, -sliding.left);
#pragma unroll
        for (int i = 0; i < N; ++i) line[i] = met[i];
        // Two at a time: three numbers are joined by one instruction.
#pragma unroll
        for (int k = 1; k < N; k += 2) {
            if (k + 1 < N && k + 1 < width) {
#pragma unroll
                for (int i = 0; i < N; ++i)
                    line[i] = Op::join(Op::join(line[i], met[i + k]), met[i + (k + 1) % N]);
            } else if (k < width) {
#pragma unroll
                for (int i = 0; i < N; ++i) line[i] = Op::join(line[i], met[i + k]);
            }
        }
    }

    // The same of several channels.
    __device__ __forceinline__ void reduce_spread(Value (&line)[N], const Value* values,
                                                  int channels) const {
        const Value* own = values + taker * (N + 1);
        int from = -sliding.left * channels;
        read_line<N>(line, own, from);
#pragma unroll 1
        for (int k = 1; k < sliding.width; ++k) {
            from += channels;
            Value met[N];
            read_line<N>(met, own, from);
#pragma unroll
            for (int i = 0; i < N; ++i) line[i] = Op::join(line[i], met[i]);
        }
    }

    // Longer ones. A thread takes a block of N pixels of one channel: its suffixes, with the whole
    // blocks that every window has behind them; its prefixes, of which the first `more` belong to
    // windows with one whole block more.
    __device__ __forceinline__ void reduce_long(Value (&line)[N], const Value* values,
                                                int channels) const {
        Value* suffixes = shared_line(1);
        Value* prefixes = shared_line(2);
        Value* total = totals() + channels + threadIdx.x;
        const bool takes_part = int(threadIdx.x) < sliding.lanes;
        Value suffix[N];
        if (takes_part) {
            if (channels > 1) {
#pragma unroll
                for (int i = 0; i < N; ++i) line[i] = values[line_place<N>(first + i * channels)];
            }
            suffix[N - 1] = line[N - 1];
#pragma unroll
            for (int i = N - 2; i >= 0; --i) suffix[i] = Op::join(line[i], suffix[i + 1]);
#pragma unroll
            for (int i = 1; i < N; ++i) line[i] = Op::join(line[i - 1], line[i]);
            *total = line[N - 1];
        }
        __syncthreads();
        if (takes_part) {
            if (sliding.between > 0) {
                Value whole = total[channels];
#pragma unroll 4
                for (int b = 2; b <= sliding.between; ++b)
                    whole = Op::join(whole, total[b * channels]);
#pragma unroll
                for (int i = 0; i < N; ++i) suffix[i] = Op::join(suffix[i], whole);
            }
            const Value ahead = total[-channels];
#pragma unroll
            for (int i = 0; i < N - 1; ++i) {
                if constexpr (Work::ADDS_MULTIPLES) {  // one instruction, where a choice takes three
                    line[i] += ahead * sliding.more_of[i];
                } else if (i < sliding.more) {
                    line[i] = Op::join(ahead, line[i]);
                }
            }
            if (channels == 1) {
                write_own(suffixes, suffix);
                write_own(prefixes, line);
            } else {
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    const int place = line_place<N>(first + i * channels);
                    suffixes[place] = suffix[i];
                    prefixes[place] = line[i];
                }
            }
        }
        __syncthreads();
        const int begin = -sliding.left * channels, end = begin + (sliding.width - 1) * channels;
        const int own = taker * (N + 1);
        read_line<N>(line, suffixes + own, begin);
        Value tails[N];
        read_line<N>(tails, prefixes + own, end);
#pragma unroll
        for (int i = 0; i < N; ++i) line[i] = Op::join(line[i], tails[i]);
    }

    // Of every block, behind one that joins nothing for each channel, and before as many as a
    // window takes. Every thread must call it; the blocks' own are not touched.
    __device__ __forceinline__ Value* totals() const {
        return reinterpret_cast<Value*>(shared + sliding.totals_at);
    }
    __device__ __forceinline__ void clear_totals() const {
        const int channels = this->channels();
        const int behind = channels + sliding.lanes;
        for (int i = threadIdx.x; i < channels; i += blockDim.x) totals()[i] = Value{};
        for (int i = threadIdx.x; i < sliding.between * channels; i += blockDim.x)
            totals()[behind + i] = Value{};
    }
};

// RISE rows of windows along columns; `tails` are read ahead. Shape tells of a window's `height` and
// `blocks`, and whether one of less than RISE rows is LOW enough to come.
template <typename Work, typename Source, typename Shape = Sliding>
struct ColumnWindows {
    using T = typename Work::T;
    using Op = typename Work::Down;
    using Value = typename Op::Value;
    using Raw = Words<T, Work::N>;
    static constexpr int N = Work::N;

    const Shape& sliding;
    const Work& work;
    const Source& column;
    uint4* ring;  // the thread's own, 16 bytes of all threads side by side
    Value part;   // of the block that is not whole yet
    int slot;

    // The first tail of windows that begin at row 0.
    __device__ __forceinline__ int tail() const {
        return sliding.height - (sliding.height < RISE);
    }

    // The blocks of windows that begin at row y.
    __device__ __forceinline__ void start(int y) {
        part = Value{};
        slot = 0;
        for (int k = RISE; k < sliding.height; k += RISE) {
            Raw rows[RISE] = {};
            column.template read<false>(rows, y + k, sliding.height - k);
#pragma unroll
            for (int i = 0; i < RISE; ++i)
                if (i < sliding.height - k) part = Op::join(part, work.begin(rows[i]));
            if (k + RISE <= sliding.height) push();
        }
    }
    static constexpr int PIECES = sizeof(Value) / 16;
    __device__ __forceinline__ Value block(int number) const {
        uint4 pieces[PIECES];
#pragma unroll
        for (int p = 0; p < PIECES; ++p) pieces[p] = ring[(number * PIECES + p) * blockDim.x];
        Value value;
        memcpy(&value, pieces, sizeof(Value));
        return value;
    }
    __device__ __forceinline__ void push() {
        if (sliding.blocks) {
            uint4 pieces[PIECES];
            memcpy(pieces, &part, sizeof(Value));
#pragma unroll
            for (int p = 0; p < PIECES; ++p) ring[(slot * PIECES + p) * blockDim.x] = pieces[p];
            slot = slot + 1 == sliding.blocks ? 0 : slot + 1;
        }
        part = Value{};
    }

    __device__ __forceinline__ void reduce(Value (&found)[RISE], const Raw (&tails)[RISE], int y) {
        const int height = sliding.height;
        if (Shape::LOW && height < RISE) {
            Value met[RISE];
            Raw heads[RISE - 2] = {};
            column.template read<false>(heads, y, height - 1);
            // Tails stand where the heads end, whose number is told at run time: they come first.
#pragma unroll
            for (int i = 0; i < RISE; ++i) met[i] = work.begin(tails[i]);
#pragma unroll
            for (int i = 0; i < RISE; ++i) found[i] = met[i];
#pragma unroll
            for (int k = 1; k < RISE - 1; ++k) {
                if (k < height) {
#pragma unroll
                    for (int i = k; i < RISE; ++i) found[i] = Op::join(met[i - k], found[i]);
                }
            }
            // Head h belongs to the results 0 ... h.
#pragma unroll
            for (int h = 0; h < RISE - 2; ++h) {
                if (h < height - 1) {
                    const Value head = work.begin(heads[h]);
#pragma unroll
                    for (int i = 0; i <= h; ++i) found[i] = Op::join(found[i], head);
                }
            }
            return;
        }
        Value running = part;
        for (int b = 0; b < sliding.blocks; ++b)
            running = Op::join(running, block(b));
        Raw heads[RISE];
        column.read(heads, y, RISE);
        found[RISE - 1] = work.begin(heads[RISE - 1]);
#pragma unroll
        for (int i = RISE - 2; i >= 0; --i)
            found[i] = Op::join(work.begin(heads[i]), found[i + 1]);
        Value rows[RISE];
#pragma unroll
        for (int i = 0; i < RISE; ++i) {
            found[i] = Op::join(found[i], running);
            rows[i] = work.begin(tails[i]);
            if (i < RISE - 1) running = Op::join(running, rows[i]);
        }
        end_block(rows);
    }

    // A block is whole after `height` rows and every RISE more: with row LAST of these.
    template <int LAST = 0>
    __device__ __forceinline__ void end_block(const Value (&rows)[RISE]) {
        if constexpr (LAST < RISE - 1) {
            if (RISE - 1 - sliding.height % RISE != LAST) return end_block<LAST + 1>(rows);
        }
#pragma unroll
        for (int i = 0; i <= LAST; ++i) part = Op::join(part, rows[i]);
        push();
#pragma unroll
        for (int i = LAST + 1; i < RISE; ++i) part = Op::join(part, rows[i]);
    }
};

__device__ __forceinline__ uint4* ring_of(unsigned char* shared, const Sliding& sliding) {
    return reinterpret_cast<uint4*>(shared + sliding.ring_at) + threadIdx.x;
}

// Where each element outside the image is copied from, in a line: by the threads outside.
template <int N>
__device__ __forceinline__ void map_outside(uint16* mapped, const Sliding& sliding, int x,
                                            int start) {
    const Images& images = sliding.images;
    // Some far outside are never met, and may map to where the strip does not reach.
    const int least = max(start, 0);
    const int most = min(start + sliding.lanes * N, images.row_elements()) - 1;
#pragma unroll 1
    for (int i = 0; i < N; ++i) {
        const int from = min(max(map_element(images, x + i), least), most);
        mapped[threadIdx.x * N + i] = uint16(line_place<N>(from - start));
    }
}

// Whether elements from x on may be copied to where a row goes on outside the image.
template <int N>
__device__ __forceinline__ bool may_answer(const Sliding& sliding, int x) {
    const int row = sliding.images.row_elements();
    const int reach = sliding.before + N * sliding.images.channels;
    return x >= 0 && x < row && (x < reach || x + N > row - reach);
}

// A strip's results, from input row y on.
template <typename Work, typename Source>
__device__ __forceinline__ void march_down(const Work& work, RowWindows<Work>& across,
                                           ColumnWindows<Work, Source>& down, int y, int rows,
                                           typename Work::T* target) {
    using T = typename Work::T;
    constexpr int N = Work::N, GROUP = Work::GROUP, PARTS = Work::PARTS;
    const int64 pitch = across.sliding.images.output.row;
    down.start(y);
    Words<T, N> tails[RISE];
    down.column.read(tails, y + down.tail());
    for (int done = 0; done < rows; done += RISE, y += RISE) {
        typename Work::Down::Value found[RISE];
        down.reduce(found, tails, y);
        if (done + RISE < rows) down.column.read(tails, y + RISE + down.tail());
#pragma unroll Work::UNROLL
        for (int g = 0; g < RISE; g += GROUP) {
            typename Work::Across::Value lines[PARTS][N];
            work.turn(lines, found);
#pragma unroll
            for (int part = 0; part < PARTS; ++part) across.reduce(lines[part]);
            if (across.has_result) {
                Words<T, N> results[GROUP];
                work.finish(results, lines);
#pragma unroll
                for (int r = 0; r < GROUP; ++r)
                    if (done + g + r < rows) store_words(target + r * pitch, results[r]);
            }
            target += GROUP * pitch;
#pragma unroll
            for (int i = 0; i + GROUP < RISE; ++i) found[i] = found[i + GROUP];
        }
    }
}

// All strips of a launch. Every thread of the block must call it.
template <typename Work>
__device__ __forceinline__ void slide_strips(const Work& work, const typename Work::T* input,
                                             typename Work::T* output, const Sliding& sliding,
                                             unsigned char* shared) {
    using T = typename Work::T;
    using Down = typename Work::Down::Value;
    constexpr int N = Work::N;
    const Images& images = sliding.images;
    const bool copies = images.border != Border::Constant && images.border != Border::Wrap;
    for (int64 job = blockIdx.x; job < sliding.jobs; job += gridDim.x) {
        const int64 plane = job / (int64(sliding.down) * sliding.across);
        const int rest = int(job - plane * (int64(sliding.down) * sliding.across));
        const int first_row = rest / sliding.across * sliding.rows;
        const int first_x = rest % sliding.across * sliding.columns;
        const int rows = min(sliding.rows, images.height - first_row);
        const int start = first_x - sliding.before, x = start + int(threadIdx.x) * N;
        const Column<T, N> column(input + images.plane_offset(images.input, plane), images, x);
        const bool outside =
            int(threadIdx.x) < sliding.lanes && (x < 0 || x >= images.row_elements());
        const bool has_result =
            x < images.row_elements() && x >= first_x && x < first_x + sliding.columns;
        const bool copied =
            copies && (start < 0 || start + sliding.lanes * N > images.row_elements());
        const bool answers = may_answer<N>(sliding, x);
        if (copied && outside)
            map_outside<N>(reinterpret_cast<uint16*>(shared + sliding.mapped_at), sliding, x, start);
        const int channels = Work::ROWS == Rows::Any ? images.channels : 1;
        const int thread = threadIdx.x;
        const int own = thread / channels * (N * channels) + thread % channels;
        const int taker = has_result ? thread : sliding.before / N;
        const int y = first_row - sliding.top;
        T* target = output + images.plane_offset(images.output, plane) +
                    first_row * images.output.row + x;
        const auto march = [&](bool is_copied) {
            RowWindows<Work> across = {sliding,    shared, is_copied, outside, answers,
                                       has_result, taker,  own,       0};
            across.clear_totals();
            ColumnWindows<Work, Column<T, N>> down = {sliding, work, column,
                                                      ring_of(shared, sliding), Down{}, 0};
            march_down(work, across, down, y, rows, target);
        };
        // Where nothing is copied, as in most strips, no code of it is in the way.
        if (Work::ROWS == Rows::Any) {
            march(copied);
        } else if (copied) {
            march(true);
        } else {
            march(false);
        }
        __syncthreads();  // the next job overwrites what was read
    }
}

// The same for two windows, the second over the results of the first: these never reach memory.
// Outside the image the border answers from them, too: rows from those that are held, elements of a
// row from the strip. A border that wraps would need others.
template <typename Work>
__device__ __forceinline__ void slide_twice(const Work& work, const Work& then,
                                            const typename Work::T* input,
                                            typename Work::T* output, const Pair& pair,
                                            unsigned char* shared) {
    using T = typename Work::T;
    using Down = typename Work::Down::Value;
    using Across = typename Work::Across::Value;
    using Raw = Words<T, Work::N>;
    constexpr int N = Work::N, GROUP = Work::GROUP;
    static_assert(Work::PARTS == 1, "one line");
    const Sliding& first = pair.first;
    const Sliding& second = pair.second;
    const Images& images = first.images;
    const bool constant = images.border == Border::Constant;
    for (int64 job = blockIdx.x; job < first.jobs; job += gridDim.x) {
        const int64 plane = job / (int64(first.down) * first.across);
        const int rest = int(job - plane * (int64(first.down) * first.across));
        const int first_row = rest / first.across * first.rows;
        const int first_x = rest % first.across * first.columns;
        const int stop = min(first_row + first.rows, images.height);
        const int thread = threadIdx.x, x = first_x - second.before + thread * N;
        const int start = first_x - second.before, end = start + first.lanes * N;
        const Column<T, N> column(input + images.plane_offset(images.input, plane), images, x);
        const bool outside = thread < first.lanes && (x < 0 || x >= images.row_elements());
        const bool copied = !constant && (start < 0 || end > images.row_elements());
        if (copied && outside)
            map_outside<N>(reinterpret_cast<uint16*>(shared + first.mapped_at), first, x, start);
        const int channels = Work::ROWS == Rows::Any ? images.channels : 1;
        const int own = thread / channels * (N * channels) + thread % channels;
        // The first step's results reach as far as the second's windows do.
        const bool between = x >= start + first.before && x < end - first.before;
        const bool has_result =
            x < images.row_elements() && x >= first_x && x < first_x + first.columns;
        const bool answers = may_answer<N>(second, x);
        const int taker = between ? thread : first.before / N;
        const int taker_then = has_result ? thread : second.before / N;
        RowWindows<Work> across = {first,   shared, copied, outside, answers,
                                   between, taker,  own,    0};
        RowWindows<Work> across_then = {second,     shared,     copied, outside, answers,
                                        has_result, taker_then, own,    0};
        across.clear_totals();
        across_then.clear_totals();
        const HeldColumn<T, N> kept = {
            reinterpret_cast<Raw*>(shared + pair.held_at) + thread, images, pair.held,
            column.value};
        ColumnWindows<Work, Column<T, N>> down = {first, work, column, ring_of(shared, first),
                                                  Down{}, 0};
        ColumnWindows<Work, HeldColumn<T, N>> down_then = {second, then, kept,
                                                           ring_of(shared, second), Down{}, 0};
        int made = max(first_row - second.top, 0);  // rows of the first step, this one excluded
        down.start(made - first.top);
        Raw tails[RISE];
        column.read(tails, made - first.top + down.tail());
        T* target = output + images.plane_offset(images.output, plane) +
                    first_row * images.output.row + x;
        for (int y = first_row; y < stop;) {
            // Rows that the next windows meet, or what answers for them.
            int wanted = max(y - second.top + second.height + RISE, second.top + 1);
            if (second.height >= images.height) wanted = images.height;
            Down found[RISE];
            const bool makes = made < min(wanted, images.height);
            if (makes) {
                down.reduce(found, tails, made - first.top);
                column.read(tails, made + RISE - first.top + down.tail());
            } else {
                const int top = y - second.top;
                if (y == first_row) down_then.start(top);
                Raw last[RISE];
                kept.read(last, top + down_then.tail());
                down_then.reduce(found, last, top);
            }
#pragma unroll 1
            for (int g = 0; g < RISE; g += GROUP) {
                Across lines[1][N];
                work.turn(lines, found);
                Raw results[GROUP];
                if (makes) {
                    across.reduce(lines[0]);
                    across.copy_outside(lines[0]);
                    work.finish(results, lines);
#pragma unroll
                    for (int r = 0; r < GROUP; ++r)
                        if (made + g + r < images.height)
                            kept.row(made + g + r) =
                                constant && outside ? column.value : results[r];
                } else {
                    across_then.reduce(lines[0]);
                    if (has_result) {
                        then.finish(results, lines);
#pragma unroll
                        for (int r = 0; r < GROUP; ++r)
                            if (y + g + r < stop)
                                store_words(target + r * images.output.row, results[r]);
                    }
                    target += GROUP * images.output.row;
                }
#pragma unroll
                for (int i = 0; i + GROUP < RISE; ++i) found[i] = found[i + GROUP];
            }
            __syncthreads();  // the two steps have the lines in turn
            if (makes) {
                made += RISE;
            } else {
                y += RISE;
            }
        }
        __syncthreads();  // the next job overwrites what was read
    }
}
