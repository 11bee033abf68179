// The `rank`-th smallest pixel of a large box, as in gpuconv/backends/numpy/rank.py.
//
// A warp marches down 32 columns. Each lane keeps a table of how often every value is in its
// window: a row comes in, a row goes out, and the wanted rank is found a few steps from where it
// lay before (Huang 1979). A word of the table holds several counters; lane l's words all lie in
// bank l of shared memory, so that lanes never meet there, whatever their values.
//
//   rank_counts    8-bit pixels: 256 counters of 8, 16 or 32 bits
//
//   rank_entries   any other pixels: those that the windows of a tile meet, each with its place,
//   rank_sort      sorted. Their places in that order stand for the pixels: each occurs once,
//   rank_bits      so a counter is a bit, and the table is exact for every type
//
// What a pixel costs is the same whatever the pixels are, but for the steps of the search. On sm_90
// an exchange takes 22 to 30 issue slots, a row besides about 300 with what is read: of 128 lanes a
// clock that is one pixel in 5 clocks at 15×15. Reads and writes of shared memory, 6 an exchange,
// allow one in 3. An exchange waits about 45 clocks for its words, so that from 31×31 on, with
// tables that leave a multiprocessor 13 warps and less, waiting is as long as issuing.
#include "common/image.cuh"
#include "common/keys.cuh"

// The window of a lane. Values are told by their cells: the word's offset in bytes from the table
// on, with the counter's first bit in the low bits. Cells order as values do and have 16 bits.
template <int FIELDS>
struct Table {
    static constexpr int BITS = 32 / FIELDS;
    static constexpr int WORD = 32 * 4;  // bytes from one of a lane's words to the next
    char* memory;
    uint32 lane;   // bytes from a word's offset to the lane's own
    uint32 place;  // the word that the rank lay in
    int below;     // values of the window in words before it

    __device__ __forceinline__ static uint32 cell(int value) {
        return uint32(value / FIELDS * WORD + value % FIELDS * BITS);
    }
    __device__ __forceinline__ uint32& word(uint32 at) const {
        return *reinterpret_cast<uint32*>(memory + at);
    }
    __device__ __forceinline__ static int total(uint32 counters) {
        if constexpr (FIELDS == 32) return __popc(counters);
        if constexpr (FIELDS == 4) return int(__dp4a(counters, 0x01010101u, 0u));
        if constexpr (FIELDS == 2) return int((counters & 0xffffu) + (counters >> 16));
        return int(counters);
    }

    // A value more, another one less; cells in the low and in the high half of `cells`. Both words
    // are read before either is written: one latency, not two.
    __device__ __forceinline__ void exchange(uint32 cells) {
        const uint32 gone = cells >> 16;
        const uint32 to = (cells & 0xff80u) | lane, from = (gone & 0xff80u) | lane;
        uint32 more = word(to), less = word(from);
        more += __funnelshift_l(0u, 1u, cells);  // 1 << cells % 32
        word(to) = more;
        if (to == from) less = more;
        word(from) = less - __funnelshift_l(0u, 1u, gone);
        below += to < place;
        below -= from < place;
    }
    // The value that has `rank` others before it.
    __device__ __forceinline__ int find(int rank) {
        while (below > rank) below -= total(word(place -= WORD));
        uint32 counters = word(place);
        for (int here = total(counters); below + here <= rank; here = total(counters)) {
            below += here;
            counters = word(place += WORD);
        }
        int left = rank - below, field = 0;
        if constexpr (FIELDS == 32) {
#pragma unroll
            for (int half = 16; half > 0; half /= 2) {
                const int lower = __popc(counters >> field & ((1u << half) - 1));
                if (left >= lower) {
                    left -= lower;
                    field += half;
                }
            }
        } else {
#pragma unroll
            for (int i = 0; i < FIELDS - 1; ++i) {
                const int here = int(counters >> (i * BITS) & ((1ull << BITS) - 1));
                if (field == i && left >= here) {
                    left -= here;
                    field = i + 1;
                }
            }
        }
        return int(place / WORD) * FIELDS + field;
    }
};

// March down `rows` windows of height × width. load(row)(column(i)) is what stands for value i of a
// row's `span`, value(that) the value; the window of lane l takes l, l + step, ... of a row. Values from
// `top` on are counted besides where there is such a bound. found(y, value, tops): what the window
// in row y has, and how many such.
//
// `memory` holds the table of `words`, one more word that nothing is found in, from which values
// go while the first window is not yet whole, and the row that comes with the one that goes.
template <int FIELDS, bool BOUNDED, typename Column, typename Load, typename Value, typename Found>
__device__ __forceinline__ void march(uint32* memory, int words, int rows, int height, int width,
                                      int step, int span, int rank, int top, Column column,
                                      Load load, Value value, Found found) {
    using Window = Table<FIELDS>;
    // Of the next rows' values, so many times 32 are asked for before the last ones are exchanged.
    constexpr int BATCH = 4, AHEAD = 4;
    const int lane = threadIdx.x, lines = rows + height - 1;
    uint32* line = memory + (words + 1) * 32;
    Window window = {reinterpret_cast<char*>(memory), uint32(lane) * 4, uint32(lane) * 4, 0};
    const uint32 nowhere = uint32(words) * Window::WORD, bound = Window::cell(top);
    for (int w = 0; w <= words; ++w) memory[w * 32 + lane] = 0;
    int tops = 0;
    const auto exchange = [&](uint32 cells) {
        window.exchange(cells);
        if constexpr (BOUNDED) {
            tops += (cells & 0xffffu) >= bound;
            tops -= cells >> 16 >= bound && cells >> 16 != nowhere;
        }
    };
    using Loaded = decltype(load(0)(0));
    Loaded in[AHEAD], out[AHEAD];
    int columns[AHEAD];
#pragma unroll 1
    for (int i = lane; i < 32 * AHEAD; i += 32) {
#pragma unroll
        for (int a = 0; a + 1 < AHEAD; ++a) columns[a] = columns[a + 1];
        columns[AHEAD - 1] = column(i);
    }
    const auto request = [&](int y) {
        const auto coming = load(y), going = load(max(y - height, 0));
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            if (lane + 32 * a < span) {
                in[a] = coming(columns[a]);
                out[a] = going(columns[a]);
            }
        }
    };
    request(0);
    for (int y = 0; y < lines; ++y) {
        const auto stage = [&](int i, Loaded comes, Loaded goes) {
            const uint32 from = y < height ? nowhere : Window::cell(value(goes));
            line[i] = Window::cell(value(comes)) | from << 16;
        };
#pragma unroll
        for (int a = 0; a < AHEAD; ++a)
            if (lane + 32 * a < span) stage(lane + 32 * a, in[a], out[a]);
        if (span > 32 * AHEAD) {
            const auto coming = load(y), going = load(max(y - height, 0));
#pragma unroll 1
            for (int i = lane + 32 * AHEAD; i < span; i += 32)
                stage(i, coming(column(i)), going(column(i)));
        }
        if (y + 1 < lines) request(y + 1);
        __syncwarp();
        const uint32* next = line + lane;
        int j = width;
#pragma unroll 1
        for (; j >= BATCH; j -= BATCH) {
            uint32 cells[BATCH];
#pragma unroll
            for (int b = 0; b < BATCH; ++b, next += step) cells[b] = *next;
#pragma unroll
            for (int b = 0; b < BATCH; ++b) exchange(cells[b]);
        }
#pragma unroll 1
        for (; j > 0; --j, next += step) exchange(*next);
        __syncwarp();  // the next rows overwrite these
        if (y >= height - 1) found(y - (height - 1), window.find(rank), tops);
    }
}

// Twin of COUNTS in gpuconv/backends/cuda/rank.py.
struct CountsParams {
    Images images;
    Tiling tiling;
    Keys keys;
    int height, width;  // of the window
    int pad_y, pad_x;   // pixels of the window above and left of its own
    int rank;
    int rows;  // of a march
};

template <int FIELDS>
__global__ void __launch_bounds__(32, 1)
    rank_counts(const uint8* input, uint8* output, const CountsParams params) {
    DYNAMIC_SHARED(uint32, memory);
    const Images& images = params.images;
    const int channels = images.channels;
    const int span = 32 + (params.width - 1) * channels;
    for (int64 job = blockIdx.x; job < params.tiling.jobs; job += gridDim.x) {
        const Tile place = params.tiling.at(job, params.rows, 32);
        const int top = place.y - params.pad_y, left = place.x - params.pad_x * channels;
        const int x = place.x + int(threadIdx.x);
        const uint8* plane = input + images.plane_offset(images.input, place.plane);
        march<FIELDS, false>(
            memory, 256 / FIELDS, min(params.rows, images.height - place.y), params.height,
            params.width, channels, span, params.rank, 256,
            [&](int i) { return map_element(images, left + i); },
            [&](int row) {
                const int from = map_index(images.border, top + row, images.height);
                const uint8* pixels = plane + from * images.input.row;
                return [&images, pixels, from](int x) {
                    return from < 0 || x < 0 ? images.value.as<uint8>()
                                             : pixels[x * images.input.step];
                };
            },
            [&](uint8 pixel) { return params.keys.of(pixel); },
            [&](int row, int value, int) {
                if (x < images.row_elements())
                    write_element(output, images, place.plane, place.y + row, x,
                                  params.keys.bits(uint8(value)));
            });
    }
}

// ---------------------------------------------------------------- ranks of any pixels

// A key with its place in the tile, as one number. The places are told apart by 16 bits.
template <typename U, int BYTES = sizeof(U)>
struct EntryOf {
    using type = uint32;
    static constexpr int SHIFT = 16;
};
template <typename U>
struct EntryOf<U, 4> {
    using type = uint64;
    static constexpr int SHIFT = 16;
};
template <typename U>
struct EntryOf<U, 8> {
    using type = unsigned __int128;
    static constexpr int SHIFT = 64;
};
template <typename U>
using Entry = typename EntryOf<U>::type;

// Tiles of one launch: `rows` × 32 pixels of one channel each. The pixels that a tile's windows
// meet lie row by row: `count` of them, and entries above all others up to a power of two.
// Twin of SORTED in gpuconv/backends/cuda/rank.py.
struct SortedParams {
    Images images;
    Keys keys;
    int64 first, jobs;
    int down, across, rows;
    int height, width, pad_y, pad_x;
    int rank;
    int count, padded;
};

struct SortedTile {
    int64 plane;
    int channel, y, x;  // the first output: its row and pixel

    __device__ __forceinline__ SortedTile(const SortedParams& params, int64 job) {
        const int64 number = params.first + job;
        const int64 line = number / params.across, of_channel = line / params.down;
        plane = of_channel / params.images.channels;
        channel = int(of_channel % params.images.channels);
        y = int(line % params.down) * params.rows;
        x = int(number % params.across) * 32;
    }
};

template <typename T, typename In>
__global__ void __launch_bounds__(256, 1)
    rank_entries(const Memory<In>* input, Entry<Key<T>>* entries, const SortedParams params) {
    using E = Entry<Key<T>>;
    const int across = 31 + params.width;
    for (int64 job = blockIdx.x; job < params.jobs; job += gridDim.x) {
        const SortedTile tile(params, job);
        const int top = tile.y - params.pad_y, left = tile.x - params.pad_x;
        for (int i = threadIdx.x; i < params.padded; i += blockDim.x) {
            E entry = ~E(0);
            if (i < params.count) {
                const int x = (left + i % across) * params.images.channels + tile.channel;
                const T pixel =
                    read_element<T>(input, params.images, tile.plane, top + i / across, x);
                entry = E(params.keys.of(pixel)) << EntryOf<Key<T>>::SHIFT | E(i);
            }
            entries[job * params.padded + i] = entry;
        }
    }
}

template <typename E>
__device__ __forceinline__ void put_in_order(E& a, E& b) {
    const E low = b < a ? b : a;
    b = a ^ b ^ low;  // b < a ? a : b would compare again
    a = low;
}

// Bitonic merges (Batcher 1968) of entries by eights, in registers: a thread takes those that lie
// `gap` = 2^log_gap apart and does the last `stages` of three with them. With `flipped`, the first
// compares entries mirrored in a run of 8 * gap, so that all runs are sorted upwards.
template <typename E, typename At>
__device__ __forceinline__ void merge_eights(int n, int log_gap, int stages, bool flipped, At at) {
    const int mask = (1 << log_gap) - 1;
    for (int task = threadIdx.x; task < n / 8; task += blockDim.x) {
        const int low = task & mask, first = (task - low) * 8 + low;
        const int mirrored = flipped ? first ^ mask : first;
        E e[8];
#pragma unroll
        for (int m = 0; m < 8; ++m) e[m] = at((m < 4 ? first : mirrored) + (m << log_gap));
        if (flipped) {
#pragma unroll
            for (int m = 0; m < 4; ++m) put_in_order(e[m], e[7 - m]);
        } else if (stages == 3) {
#pragma unroll
            for (int m = 0; m < 4; ++m) put_in_order(e[m], e[m + 4]);
        }
        if (stages >= 2) {
#pragma unroll
            for (int m = 0; m < 4; ++m) put_in_order(e[m / 2 * 4 + m % 2], e[m / 2 * 4 + m % 2 + 2]);
        }
#pragma unroll
        for (int m = 0; m < 8; m += 2) put_in_order(e[m], e[m + 1]);
#pragma unroll
        for (int m = 0; m < 8; ++m) at((m < 4 ? first : mirrored) + (m << log_gap)) = e[m];
    }
    __syncthreads();
}

// Sort runs of eight.
template <typename E, typename At>
__device__ __forceinline__ void sort_eights(int n, At at) {
    for (int first = threadIdx.x * 8; first < n; first += blockDim.x * 8) {
        E e[8];
#pragma unroll
        for (int m = 0; m < 8; ++m) e[m] = at(first + m);
#pragma unroll
        for (int m = 0; m < 8; m += 2) put_in_order(e[m], e[m + 1]);
#pragma unroll
        for (int m = 0; m < 4; ++m) put_in_order(e[m / 2 * 4 + m % 2], e[m / 2 * 4 + 3 - m % 2]);
#pragma unroll
        for (int m = 0; m < 8; m += 2) put_in_order(e[m], e[m + 1]);
#pragma unroll
        for (int m = 0; m < 4; ++m) put_in_order(e[m], e[7 - m]);
#pragma unroll
        for (int m = 0; m < 4; ++m) put_in_order(e[m / 2 * 4 + m % 2], e[m / 2 * 4 + m % 2 + 2]);
#pragma unroll
        for (int m = 0; m < 8; m += 2) put_in_order(e[m], e[m + 1]);
#pragma unroll
        for (int m = 0; m < 8; ++m) at(first + m) = e[m];
    }
    __syncthreads();
}

// The last `stages` of a merge: gaps of 2^(stages - 1) down to 1.
template <typename E, typename At>
__device__ __forceinline__ void merge_down(int n, int stages, At at) {
    for (; stages > 3; stages -= 3) merge_eights<E>(n, stages - 3, 3, false, at);
    if (stages > 0) merge_eights<E>(n, 0, stages, false, at);
}

constexpr int CHUNK_BYTES = 32 * 1024;

// Sort the entries of each tile; order[place] is how many others come before the pixel there.
template <typename U>
__global__ void __launch_bounds__(256, 1)
    rank_sort(Entry<U>* entries, uint16* order, const SortedParams params) {
    using E = Entry<U>;
    DYNAMIC_SHARED(E, chunk);
    const int n = params.padded, part = min(n, CHUNK_BYTES / int(sizeof(E)));
    // Eights at any gap lie in different banks: a lane's number has five bits (four, three where
    // an entry is two, four words) that tell its bank; the three above them are mixed in.
    constexpr int LANE_BITS = sizeof(E) == 4 ? 5 : sizeof(E) == 8 ? 4 : 3;
    const auto shared = [&](int i) -> E& {
        const int high = i >> LANE_BITS & 7;
        return chunk[i ^ (high << (LANE_BITS - 3)) ^ (high >> (6 - LANE_BITS))];
    };
    for (int64 job = blockIdx.x; job < params.jobs; job += gridDim.x) {
        E* own = entries + job * n;
        int log_size = 3;
        for (int size = part;; size *= 2) {
            if (size > part) {
                log_size++;
                merge_eights<E>(n, log_size - 3, 3, true, [&](int i) -> E& { return own[i]; });
            }
            for (int start = 0; start < n; start += part) {
                for (int i = threadIdx.x; i < part; i += blockDim.x) shared(i) = own[start + i];
                __syncthreads();
                if (size == part) {
                    sort_eights<E>(part, shared);
                    for (log_size = 4; 1 << log_size <= part; ++log_size) {
                        merge_eights<E>(part, log_size - 3, 3, true, shared);
                        merge_down<E>(part, log_size - 3, shared);
                    }
                    log_size--;
                } else {
                    merge_down<E>(part, log_size - 3, shared);
                }
                for (int i = threadIdx.x; i < part; i += blockDim.x) own[start + i] = shared(i);
                __syncthreads();
            }
            if (size >= n) break;
        }
        for (int i = threadIdx.x; i < params.count; i += blockDim.x)
            order[job * params.count + int(uint16(own[i]))] = uint16(i);
    }
}

template <typename T, typename Out>
__global__ void __launch_bounds__(32, 1)
    rank_bits(const Entry<Key<T>>* entries, const uint16* order, Memory<Out>* output,
              const SortedParams params) {
    using U = Key<T>;
    DYNAMIC_SHARED(uint32, memory);
    const Images& images = params.images;
    const Keys& keys = params.keys;
    const int span = 31 + params.width, count = params.count;
    for (int64 job = blockIdx.x; job < params.jobs; job += gridDim.x) {
        const SortedTile tile(params, job);
        const Entry<U>* sorted = entries + job * params.padded;
        const uint16* places = order + job * count;
        const auto key_at = [&](int place) { return U(sorted[place] >> EntryOf<U>::SHIFT); };
        int numbers = count;  // every NaN comes behind them
        if (keys.is_nan(key_at(count - 1))) {
            int low = 0;
            while (low < numbers) {
                const int middle = (low + numbers) / 2;
                if (keys.is_nan(key_at(middle))) {
                    numbers = middle;
                } else {
                    low = middle + 1;
                }
            }
        }
        const int x = tile.x + int(threadIdx.x);
        march<32, true>(
            memory, (count + 31) / 32, min(params.rows, images.height - tile.y), params.height,
            params.width, 1, span, params.rank, numbers,
            [](int i) { return i; },
            [&](int row) { return [=](int i) { return places[row * span + i]; }; },
            [](uint16 place) { return int(place); },
            [&](int row, int value, int tops) {
                if (x < images.width)
                    write_element(output, images, tile.plane, tile.y + row,
                                  x * images.channels + tile.channel,
                                  pixel_of<T>(keys.bits(key_at(tops ? count - 1 : value))));
            });
    }
}
