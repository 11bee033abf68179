// Batches of images: where their pixels lie, and how a tile of them comes into shared memory.
//
// A plane has `height` rows of `width` pixels of `channels` elements, interleaved: a row is one
// run of width * channels elements, `step` apart in memory (1, unless the caller's array is a
// strided view). Positions x below count elements of a row; those outside belong to the border.
#pragma once
#include "access.cuh"
#include "border.cuh"

// Strides of a stack of planes, in elements. Plane p begins at
// p / inner * outer_stride + p % inner * inner_stride.
struct PlaneStrides {
    int64 outer_stride, inner_stride, row, step;
};

// Twin of IMAGES in gpuconv/backends/cuda/images.py.
struct Images {
    int64 planes;
    PlaneStrides input, output;
    Number value;  // answers outside under a constant border
    int inner, height, width, channels;
    Border border;
    Kind input_kind, output_kind;
    int wide_loads;  // rows of the input begin at multiples of 16 bytes, steps are 1

    __device__ __forceinline__ int row_elements() const { return width * channels; }
    __device__ __forceinline__ int64 plane_offset(const PlaneStrides& strides, int64 plane) const {
        if (inner == 1) return plane * strides.outer_stride;
        return plane / inner * strides.outer_stride + plane % inner * strides.inner_stride;
    }
};

// Element x of a row → the element that answers for it, or -1 for the border's value.
__device__ __forceinline__ int map_element(const Images& images, int x) {
    if (x >= 0 && x < images.row_elements()) return x;
    if (images.channels == 1) return map_index(images.border, x, images.width);
    const int channel = fold(x, images.channels);
    const int pixel = map_index(images.border, (x - channel) / images.channels, images.width);
    return pixel < 0 ? -1 : pixel * images.channels + channel;
}

// Elements by which a tile of T that is to start at x starts earlier: at a multiple of 16 bytes.
template <typename T>
__device__ __forceinline__ int lead_in(int x) {
    return fold(x, 16 / int(sizeof(T)));
}

// The job of one block: a tile of one plane. Blocks take jobs in turn where a launch has more jobs
// than a grid may have blocks.
struct Tile {
    int64 plane;
    int y, x;  // first output row, first output element of a row
};
struct Tiling {
    int64 jobs;
    int down, across;  // tiles of a plane

    __device__ __forceinline__ Tile at(int64 job, int rows, int columns) const {
        const int64 plane = job / (int64(down) * across);
        const int rest = int(job - plane * (int64(down) * across));
        return {plane, rest / across * rows, rest % across * columns};
    }
};

// Fill `tile` (rows × columns, rows `pitch` apart) from a plane of `input`, from row y and element
// x on; both may lie outside. Only blocks that meet an edge ask the border. `x` and `pitch` should
// be multiples of 16 bytes (see lead_in): then whole blocks are read 16 bytes at a time.
// Every thread of the block must call it; the tile is readable after the next barrier.
template <typename T, typename Stored>
__device__ __forceinline__ void load_tile(T* tile, int pitch, int rows, int columns,
                                          const Stored* input, const Images& images, int64 plane,
                                          int y, int x) {
    const int rank = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const int threads = blockDim.x * blockDim.y * blockDim.z;
    const int lane = rank % 32, warp = rank / 32, warps = threads / 32;
    const int64 start = images.plane_offset(images.input, plane);
    const bool inside = y >= 0 && y + rows <= images.height && x >= 0 &&
                        x + columns <= images.row_elements();
    if constexpr (same_type<T, Stored>) {
        constexpr int N = 16 / sizeof(T);
        if (inside && images.wide_loads) {
            const int packs = (columns + N - 1) / N;
            for (int r = warp; r < rows; r += warps) {
                const T* row = input + start + (y + r) * images.input.row + x;
                for (int c = lane; c < packs; c += 32) {
                    // The last pack of a row may hold more than was asked for, never more than
                    // the row has: then its elements are read one by one.
                    if (x + (c + 1) * N <= images.row_elements()) {
                        store_pack(tile + r * pitch + c * N, load_pack<N>(row + c * N));
                    } else {
                        for (int i = c * N; i < columns; ++i) tile[r * pitch + i] = row[i];
                    }
                }
            }
            return;
        }
    }
    const T value = images.value.template as<T>();
    for (int r = warp; r < rows; r += warps) {
        const int from_y = inside ? y + r : map_index(images.border, y + r, images.height);
        const int64 row = start + from_y * images.input.row;
        for (int c = lane; c < columns; c += 32) {
            const int from_x = inside ? x + c : map_element(images, x + c);
            tile[r * pitch + c] = from_y < 0 || from_x < 0
                                      ? value
                                      : fetch<T>(input, row + from_x * images.input.step,
                                                 images.input_kind);
        }
    }
}

// One element of a plane, wherever it lies: for windows that no tile can hold.
template <typename T, typename Stored>
__device__ __forceinline__ T read_element(const Stored* input, const Images& images, int64 plane,
                                          int y, int x) {
    const int from_y = map_index(images.border, y, images.height);
    const int from_x = map_element(images, x);
    if (from_y < 0 || from_x < 0) return images.value.template as<T>();
    return fetch<T>(input,
                    images.plane_offset(images.input, plane) + from_y * images.input.row +
                        from_x * images.input.step,
                    images.input_kind);
}

// One element of the result.
template <typename Stored, typename From>
__device__ __forceinline__ void write_element(Stored* output, const Images& images, int64 plane,
                                              int y, int x, From value) {
    put(output,
        images.plane_offset(images.output, plane) + y * images.output.row +
            x * images.output.step,
        images.output_kind, value);
}
