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

// Rows × packs of 16 bytes of a tile, as `load_tile` has them. All threads read at once, whatever a
// row's length, several packs each before the first arrives; only packs that reach outside ask the
// border.
template <typename T>
__device__ __forceinline__ void load_packs(T* tile, int pitch, int rows, int packs, const T* plane,
                                           const Images& images, int y, int x, int rank,
                                           int threads) {
    constexpr int N = 16 / sizeof(T), BATCH = 4;
    const int row_step = threads / packs, pack_step = threads % packs;
    const T value = images.value.template as<T>();
    int r = rank / packs, c = rank % packs;
    while (r < rows) {
        uint4 batch[BATCH];  // four registers; a Pack of bytes would take one a byte
        int targets[BATCH];  // -1: none
#pragma unroll
        for (int b = 0; b < BATCH; ++b) {
            targets[b] = r < rows ? r * pitch + c * N : -1;
            if (r < rows) {
                const int from_y = map_index(images.border, y + r, images.height);
                const int from_x = x + c * N;
                const T* row = plane + from_y * images.input.row;
                if (from_y >= 0 && from_x >= 0 && from_x + N <= images.row_elements()) {
                    batch[b] = *reinterpret_cast<const uint4*>(row + from_x);
                } else {
                    targets[b] = -1;
#pragma unroll 1
                    for (int i = 0; i < N; ++i) {
                        const int element = map_element(images, from_x + i);
                        tile[r * pitch + c * N + i] =
                            from_y < 0 || element < 0 ? value : row[element];
                    }
                }
            }
            r += row_step;
            c += pack_step;
            if (c >= packs) {
                c -= packs;
                ++r;
            }
        }
#pragma unroll
        for (int b = 0; b < BATCH; ++b)
            if (targets[b] >= 0) *reinterpret_cast<uint4*>(tile + targets[b]) = batch[b];
    }
}

// Fill `tile` (rows × columns, rows `pitch` apart) from a plane of `input`, from row y and element
// x on; both may lie outside, where the border answers. `x` and `pitch` must be multiples of 16
// bytes (see lead_in): then rows are read 16 bytes at a time where the array allows it, and up to
// a whole pack of the tile is filled behind its columns.
// Every thread of the block must call it; the tile is readable after the next barrier.
template <typename T, typename Stored>
__device__ __forceinline__ void load_tile(T* tile, int pitch, int rows, int columns,
                                          const Stored* input, const Images& images, int64 plane,
                                          int y, int x) {
    const int rank = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const int threads = blockDim.x * blockDim.y * blockDim.z;
    const int64 start = images.plane_offset(images.input, plane);
    if constexpr (same_type<T, Stored>) {
        if (images.wide_loads) {
            constexpr int N = 16 / sizeof(T);
            load_packs(tile, pitch, rows, (columns + N - 1) / N, input + start, images, y, x, rank,
                       threads);
            return;
        }
    }
    const bool inside = y >= 0 && y + rows <= images.height && x >= 0 &&
                        x + columns <= images.row_elements();
    const T value = images.value.template as<T>();
    for (int r = rank / 32; r < rows; r += threads / 32) {
        const int from_y = inside ? y + r : map_index(images.border, y + r, images.height);
        const int64 row = start + from_y * images.input.row;
        for (int c = rank % 32; c < columns; c += 32) {
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
