// Boxes over pixels of many channels, whole packs of them, within a border of one value.
//
//   extreme_channels   dilations and erosions, pools of maxima and minima
//   mean_channels      means
//
// A block marches down a strip of some packs of channels: a thread owns N channels of one column of
// pixels, and reduces RISE rows of it as in common/sliding.cuh. These lie in shared memory then, and
// a thread takes some four columns of one of the rows: what their windows share, and what each has
// before and behind it,
//
//   0 1 2 | 3 4 5 6 7 8 | 9 10 11      windows of 9 that begin with 0, 1, 2 and 3
//
// Neighbouring threads have neighbouring packs, then rows: 16 bytes of eight threads lie in as many
// banks where a row's pitch is odd.
//
// On sm_90 a copy leaves 15.6 issue slots a byte. Windows of 9x9 take 11 over bytes, 11 and 18 over
// float16 of twice as many, 21 to 25 over float of four times as many, and an eighth of the threads
// has no results: memory limits all, or the L2 cache, which rows are read from again.
#include "common/window_works.cuh"

constexpr int THREADS = 256;

// Columns of pixels that a thread reduces at once.
constexpr int SIDE = 4;

// Packs of channels that a strip has side by side, so that they fill sectors. Twin of SLICE in
// gpuconv/backends/cuda/window_channels.py.
template <typename T>
constexpr int SLICE = sizeof(T) == 1 ? 4 : 2;

// Twin of CHANNEL_WINDOWS there.
struct ChannelWindows {
    Images images;
    int64 jobs;
    int slices, across, down;  // strips of a plane
    int rows, columns;         // of results of a strip
    int cells, pitch;          // pixels that a strip reads of a row; in shared memory
    int height, width;         // of the window
    int top, left;             // from a result back to its window's first row and pixel
    int blocks;                // see Sliding
    int cells_at;              // bytes of shared memory before the cells
    static constexpr bool LOW = false;
};

// Values of 16 bytes or more, in pieces of 16 bytes, each of all cells side by side.
template <typename Value>
struct Cells {
    static constexpr int PIECES = sizeof(Value) / 16;
    uint4* first;
    int count;

    __device__ __forceinline__ void put(int place, const Value& value) const {
        uint4 pieces[PIECES];
        memcpy(pieces, &value, sizeof(Value));
#pragma unroll
        for (int p = 0; p < PIECES; ++p) first[p * count + place] = pieces[p];
    }
    __device__ __forceinline__ Value get(int place) const {
        uint4 pieces[PIECES];
#pragma unroll
        for (int p = 0; p < PIECES; ++p) pieces[p] = first[p * count + place];
        Value value;
        memcpy(&value, pieces, sizeof(Value));
        return value;
    }
};

// Windows that begin with SIDE neighbouring cells, `step` apart, from `place` on.
template <typename Op, typename Value>
__device__ __forceinline__ void reduce_cells(Value (&windows)[SIDE], const Cells<Value>& cells,
                                             int place, int step, int width) {
    static_assert(SIDE == 4, "three cells before what all windows share, and three behind");
    windows[0] = cells.get(place);
    windows[1] = cells.get(place + step);
    windows[2] = cells.get(place + 2 * step);
    Value shared = cells.get(place + 3 * step);
    place += 4 * step;
#pragma unroll 2
    for (int k = SIDE; k < width; ++k) {
        shared = Op::join(shared, cells.get(place));
        place += step;
    }
    windows[2] = Op::join(windows[2], shared);
    windows[1] = Op::join(windows[1], windows[2]);
    windows[0] = Op::join(windows[0], windows[1]);
    Value behind = cells.get(place);
    windows[1] = Op::join(windows[1], behind);
    behind = Op::join(behind, cells.get(place + step));
    windows[2] = Op::join(windows[2], behind);
    behind = Op::join(behind, cells.get(place + 2 * step));
    windows[3] = Op::join(shared, behind);
}

// All strips of a launch. Every thread of the block must call it.
template <typename Work>
__device__ __forceinline__ void march_channels(const Work& work, const typename Work::T* input,
                                               typename Work::T* output,
                                               const ChannelWindows& windows,
                                               unsigned char* shared) {
    using T = typename Work::T;
    using Value = typename Work::Down::Value;
    using Source = Column<T, Work::N>;
    constexpr int N = Work::N, PACKS = SLICE<T>;
    const Images& images = windows.images;
    const int channels = images.channels, thread = threadIdx.x;
    const int pack = thread % PACKS, cell = thread / PACKS;
    const bool owns = cell < windows.cells;
    // The row and the first column of those that the thread reduces.
    const int row = thread / PACKS % RISE, column = thread / (PACKS * RISE) * SIDE;
    const int row_cells = windows.pitch * PACKS;
    const Cells<Value> cells = {reinterpret_cast<uint4*>(shared + windows.cells_at),
                                RISE * row_cells};
    for (int64 job = blockIdx.x; job < windows.jobs; job += gridDim.x) {
        const int64 strip = job / windows.slices, bands = strip / windows.across;
        const int64 plane = bands / windows.down;
        const int channel = (int(job - strip * windows.slices) * PACKS + pack) * N;
        const int first_x = int(strip - bands * windows.across) * windows.columns;
        const int first_row = int(bands - plane * windows.down) * windows.rows;
        const int pixel = first_x - windows.left + cell;
        const bool inside = owns && pixel >= 0 && pixel < images.width;
        const Source source(input + images.plane_offset(images.input, plane), images,
                            inside ? pixel * channels + channel : -N);
        typename Work::template Columns<Source, ChannelWindows> down{
            windows, work, source, reinterpret_cast<uint4*>(shared) + thread};
        int y = first_row - windows.top;
        down.start(y);
        Words<T, N> tails[RISE];
        source.read(tails, y + down.tail());
        const int x = first_x + column;
        const int results = min(min(SIDE, windows.columns - column), images.width - x);
        const int rows = min(windows.rows, images.height - first_row);
        T* target = output + images.plane_offset(images.output, plane) +
                    (first_row + row) * images.output.row + x * channels + channel;
#pragma unroll 1
        for (int done = 0; done < rows; done += RISE, y += RISE) {
            Value found[RISE];
            down.reduce(found, tails, y);
            source.read(tails, y + RISE + down.tail());  // of no use but once, in the end
            if (owns) {
#pragma unroll
                for (int r = 0; r < RISE; ++r) cells.put(r * row_cells + thread, found[r]);
            }
            __syncthreads();
            if (results > 0 && done + row < rows) {
                reduce_cells<typename Work::Down>(found, cells,
                                                  row * row_cells + column * PACKS + pack, PACKS,
                                                  windows.width);
#pragma unroll
                for (int i = 0; i < SIDE; ++i)
                    if (i < results) store_words(target + i * channels, work.finish(found[i]));
            }
            target += RISE * images.output.row;
            __syncthreads();  // the next rows overwrite what was read
        }
    }
}

// Twin of EXTREME_CHANNELS in gpuconv/backends/cuda/window_channels.py.
struct ExtremeChannelsParams {
    ChannelWindows windows;
    uint32 mask;  // see WindowExtremes
};

template <typename T>
__global__ void __launch_bounds__(THREADS, BLOCKS_EACH)
    extreme_channels(const T* input, T* output, const ExtremeChannelsParams params) {
    DYNAMIC_SHARED(unsigned char, shared);
    march_channels(WindowExtremes<T>{params.mask}, input, output, params.windows, shared);
}

// Twin of MEAN_CHANNELS there.
struct MeanChannelsParams {
    ChannelWindows windows;
    float inverse;  // see WindowSums
};

template <typename T>
__global__ void __launch_bounds__(THREADS, sizeof(T) == 2 ? 2 : 3)
    mean_channels(const T* input, T* output, const MeanChannelsParams params) {
    DYNAMIC_SHARED(unsigned char, shared);
    march_channels(WindowSums<T>{params.inverse}, input, output, params.windows, shared);
}
