// Sliding windows reduced by an associative operation: along columns first, then along rows.
//
//   Op                      Op::Value, Op::join(Value, Value)
//   reduce_run<Op>          RUN neighbouring windows of one line, in registers
//   reduce_line<Op>         any number of them, in memory
//   reduce_columns, _rows   a tile in shared memory → `middle` → staged results
//   reduce_down, _across    the same for windows that no tile can hold, by way of a patch of memory
//   store_staged            staged results → memory
//
// No element is ever taken back out of a sum: NaN and Inf stay inside their windows, and sums of
// floats are blocked.
#pragma once
#include "image.cuh"

// Windows of a line that one thread reduces at once, in tiles and in patches.
constexpr int RUN = 8, LONG_RUN = 32;

// Rows and pixels of the window; terms added one after another before a block joins the total.
// Twin of WINDOW in gpuconv/backends/cuda/window.py.
struct Window {
    int height, width;
    int height_block, width_block;
};

// Outputs: `rows` × `row` elements of each plane. The first window begins at row `from_y` and
// element `from_x` of the input, whose memory is `shift` bytes before what the pointer tells.
// Twin of FIELD.
struct Field {
    Images images;
    Tiling tiling;
    int64 shift;
    int rows, row;
    int from_y, from_x;
    int wide_stores;  // rows of the output begin at multiples of 4 bytes, steps are 1

    template <typename Stored>
    __device__ __forceinline__ const Stored* input(const Stored* given) const {
        return reinterpret_cast<const Stored*>(reinterpret_cast<const char*>(given) - shift);
    }
};

// What a block holds in shared memory: the input's tile, reductions of its columns, results (where
// the input's tile was). Pitches count elements. Twin of TILE.
struct WindowTile {
    int rows, columns;  // outputs of a tile; columns are whole runs of every channel
    int pitch, middle_pitch, staged_pitch;
    int middle_offset;  // in bytes
};

// Short windows: two halves each, which neighbours share.
template <typename Op, int SIZE, int N, int M, typename Value = typename Op::Value>
__device__ __forceinline__ void slide(Value (&found)[N], const Value (&line)[M]) {
    static_assert(M >= N + SIZE - 1, "every window lies on the line");
    if constexpr (SIZE == 1) {
#pragma unroll
        for (int i = 0; i < N; ++i) found[i] = line[i];
    } else {
        constexpr int HALF = SIZE / 2;
        Value half[N + HALF];
        slide<Op, HALF>(half, line);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            found[i] = Op::join(half[i], half[i + HALF]);
            if constexpr (SIZE % 2) found[i] = Op::join(found[i], line[i + SIZE - 1]);
        }
    }
}

template <typename Op, int SIZE, int N, typename Read, typename Value = typename Op::Value>
__device__ __forceinline__ void reduce_short(Value (&found)[N], Read read) {
    Value line[N + SIZE - 1];
#pragma unroll
    for (int k = 0; k < N + SIZE - 1; ++k) line[k] = read(k);
    slide<Op, SIZE>(found, line);
}

// Windows that are longer than the run share its middle. What lies before it and behind is joined
// from the middle outwards (van Herk 1992, Gil and Werman 1993), so that all is read once:
//
//   0 ... N-1 | N ... size-1 | size ... size+N-2
//     heads        shared           tails
template <typename Op, int N, typename Read, typename Value = typename Op::Value>
__device__ __forceinline__ void reduce_long(Value (&found)[N], int size, int block, Read read) {
    found[N - 1] = read(N - 1);
#pragma unroll
    for (int i = N - 2; i >= 0; --i) found[i] = Op::join(read(i), found[i + 1]);
    Value tail = read(N);
    int k = N + 1;
    for (const int end = min(size, N + block); k < end; ++k) tail = Op::join(tail, read(k));
    while (k < size) {
        const int end = min(size, k + block);
        Value part = read(k++);
        for (; k < end; ++k) part = Op::join(part, read(k));
        tail = Op::join(tail, part);
    }
    found[0] = Op::join(found[0], tail);
#pragma unroll
    for (int i = 1; i < N; ++i) {
        tail = Op::join(tail, read(size + i - 1));
        found[i] = Op::join(found[i], tail);
    }
}

// read(k) is element k of the line on which window i takes the elements i ... i + size - 1.
template <typename Op, typename Read, typename Value = typename Op::Value>
__device__ __forceinline__ void reduce_run(Value (&found)[RUN], int size, int block, Read read) {
    switch (size) {
        case 3: return reduce_short<Op, 3>(found, read);
        case 5: return reduce_short<Op, 5>(found, read);
        case 7: return reduce_short<Op, 7>(found, read);
    }
    if (size > RUN) return reduce_long<Op, RUN>(found, size, block, read);
#pragma unroll
    for (int i = 0; i < RUN; ++i) found[i] = read(i);
#pragma unroll 1
    for (int k = 1; k < size; ++k) {
#pragma unroll
        for (int i = 0; i < RUN; ++i) found[i] = Op::join(found[i], read(i + k));
    }
}

// The same for any size, into memory and by short code: `count` windows.
template <typename Op, typename Read, typename Value = typename Op::Value>
__device__ __forceinline__ void reduce_line(Value* found, int count, int size, int block,
                                            Read read) {
    const int run = min(count, size);
    for (int start = 0; start < count; start += run) {
        const int n = min(run, count - start);
        int k = start + n - 1;
        Value heads = read(k);
        found[k] = heads;
        while (k > start) {
            heads = Op::join(read(--k), heads);
            found[k] = heads;
        }
        Value shared = heads, part = heads;
        bool empty = true;
        for (k = start + n; k < start + size;) {
            const int end = min(start + size, k + block);
            part = read(k++);
            for (; k < end; ++k) part = Op::join(part, read(k));
            shared = empty ? part : Op::join(shared, part);
            empty = false;
        }
        for (int i = 0; i < n; ++i) {
            if (i > 0) {
                part = read(start + size + i - 1);
                shared = empty ? part : Op::join(shared, part);
                empty = false;
            }
            if (!empty) found[start + i] = Op::join(found[start + i], shared);
        }
    }
}

// Reduce the tile's columns; of(element) is an element as Op::Value. Neighbouring lanes take
// neighbouring columns.
template <typename Op, typename T, typename Of, typename Value = typename Op::Value>
__device__ __forceinline__ void reduce_columns(Value* middle, const T* tile,
                                               const WindowTile& shape, const Window& window,
                                               int channels, Of of) {
    const int lane = threadIdx.x, pitch = shape.pitch;
    const int span = shape.columns + (window.width - 1) * channels;
    const int across = (span + 31) / 32, tasks = across * (shape.rows / RUN);
    for (int task = threadIdx.y; task < tasks; task += blockDim.y) {
        const int x = task % across * 32 + lane, y = task / across * RUN;
        if (x < span) {
            const T* column = tile + y * pitch + x;
            Value found[RUN];
            reduce_run<Op>(found, window.height, window.height_block,
                           [&](int k) { return of(column[k * pitch]); });
#pragma unroll
            for (int i = 0; i < RUN; ++i) middle[(y + i) * shape.middle_pitch + x] = found[i];
        }
    }
}

// Reduce the rows of `middle`. Neighbouring lanes take neighbouring rows: pitches are odd numbers
// of words, so that they meet different banks.
template <typename Op, typename Staged, typename Finish, typename Value = typename Op::Value>
__device__ __forceinline__ void reduce_rows(Staged* staged, const Value* middle,
                                            const WindowTile& shape, const Window& window,
                                            int channels, Finish finish) {
    const int lane = threadIdx.x;
    for (int task = threadIdx.y; task < shape.columns / RUN; task += blockDim.y) {
        const int x = task / channels * (RUN * channels) + task % channels;
        if (lane < shape.rows) {
            const Value* row = middle + lane * shape.middle_pitch + x;
            Value found[RUN];
            reduce_run<Op>(found, window.width, window.width_block,
                           [&](int k) { return row[k * channels]; });
            Staged* results = staged + lane * shape.staged_pitch + x;
#pragma unroll
            for (int i = 0; i < RUN; ++i) results[i * channels] = finish(found[i]);
        }
    }
}

// Write a tile's results; restore(result) is what is stored.
template <typename Staged, typename Stored, typename Restore>
__device__ __forceinline__ void store_staged(Stored* output, const Staged* staged,
                                             const WindowTile& shape, const Field& field,
                                             const Tile& place, Restore restore) {
    const Images& images = field.images;
    const int rows = min(shape.rows, field.rows - place.y);
    const int columns = min(shape.columns, field.row - place.x);
    for (int r = threadIdx.y; r < rows; r += blockDim.y) {
        const Staged* results = staged + r * shape.staged_pitch;
        if constexpr (same_type<Staged, Stored> && sizeof(Staged) < 4) {
            constexpr int N = 4 / sizeof(Staged);
            if (field.wide_stores) {
                Stored* row = output + images.plane_offset(images.output, place.plane) +
                              (place.y + r) * images.output.row + place.x;
                for (int c = threadIdx.x * N; c < columns; c += 32 * N) {
                    if (c + N <= columns) {
                        store_pack(row + c, load_pack<N>(results + c));
                    } else {
                        for (int i = c; i < columns; ++i) row[i] = results[i];
                    }
                }
                continue;
            }
        }
        for (int c = threadIdx.x; c < columns; c += 32)
            write_element(output, images, place.plane, place.y + r, place.x + c,
                          restore(results[c]));
    }
}

// A patch of memory: reductions of columns, plane by plane, column by column, so that a warp finds
// a row's neighbour in the next lane. Its tiles are LONG_RUN × LONG_RUN; a warp takes one a time.
// Twin of PATCH.
struct Patch {
    int64 first_plane;  // the plane that its plane 0 is of
    int64 jobs;
    int first_row;  // the output row that its row 0 is of
    int rows, columns, pitch;
    int down, across;  // tiles of a plane
};

// Elements of a stage from lane to lane: an odd number of words, whatever the element.
template <typename Value>
constexpr int stage_pitch = LONG_RUN + (sizeof(Value) < 4 ? 4 / int(sizeof(Value)) : 1);

// Columns of the whole plane reduced for patch.rows output rows.
template <typename Op, typename T, typename Of, typename Stored,
          typename Value = typename Op::Value>
__device__ __forceinline__ void reduce_down(Value* memory, const Stored* input, const Field& field,
                                            const Window& window, const Patch& patch,
                                            Value* stage, Of of) {
    const Images& images = field.images;
    const int lane = threadIdx.x;
    stage += threadIdx.y * LONG_RUN * stage_pitch<Value>;
    for (int64 job = int64(blockIdx.x) * blockDim.y + threadIdx.y; job < patch.jobs;
         job += int64(gridDim.x) * blockDim.y) {
        const int64 plane = job / (int64(patch.down) * patch.across);
        const int rest = int(job - plane * (int64(patch.down) * patch.across));
        const int y = rest / patch.across * LONG_RUN, x = rest % patch.across * LONG_RUN;
        const int from_x = min(x + lane, patch.columns - 1);
        const int from_y = field.from_y + patch.first_row + y;
        const int count = min(LONG_RUN, patch.rows - y);
        reduce_line<Op>(stage + lane * stage_pitch<Value>, count, window.height,
                        window.height_block, [&](int k) {
                            return of(read_element<T>(input, images, patch.first_plane + plane,
                                                      from_y + k, from_x));
                        });
        __syncwarp();
        for (int c = 0; c < min(LONG_RUN, patch.columns - x); ++c) {
            if (lane < count)
                memory[(plane * patch.columns + x + c) * patch.pitch + y + lane] =
                    stage[c * stage_pitch<Value> + lane];
        }
        __syncwarp();  // the next job overwrites the stage
    }
}

// Rows of the patch reduced to results. `outside` is the reduction of a column of border values.
template <typename Op, typename Stored, typename Finish, typename Value = typename Op::Value>
__device__ __forceinline__ void reduce_across(Stored* output, const Value* memory,
                                              const Field& field, const Window& window,
                                              const Patch& patch, Value* stage, Value outside,
                                              Finish finish) {
    const Images& images = field.images;
    const int lane = threadIdx.x, channels = images.channels;
    stage += threadIdx.y * LONG_RUN * stage_pitch<Value>;
    for (int64 job = int64(blockIdx.x) * blockDim.y + threadIdx.y; job < patch.jobs;
         job += int64(gridDim.x) * blockDim.y) {
        const int64 plane = job / (int64(patch.down) * patch.across);
        const int rest = int(job - plane * (int64(patch.down) * patch.across));
        const int y = rest / patch.across * LONG_RUN, run = rest % patch.across;
        const int x = run / channels * (LONG_RUN * channels) + run % channels;
        const Value* column = memory + plane * patch.columns * patch.pitch +
                              min(y + lane, patch.rows - 1);
        const int count = min(LONG_RUN, (field.row - x + channels - 1) / channels);
        reduce_line<Op>(
            stage + lane * stage_pitch<Value>, count, window.width, window.width_block, [&](int k) {
                const int from = map_element(images, field.from_x + x + k * channels);
                return from < 0 ? outside : column[int64(from) * patch.pitch];
            });
        __syncwarp();
        for (int r = 0; r < min(LONG_RUN, patch.rows - y); ++r) {
            if (lane < count)
                write_element(output, images, patch.first_plane + plane, patch.first_row + y + r,
                              x + lane * channels, finish(stage[r * stage_pitch<Value> + lane]));
        }
        __syncwarp();  // the next job overwrites the stage
    }
}
