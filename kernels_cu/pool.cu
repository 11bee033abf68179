// Windowed pools over feature maps, as in gpuconv/backends/numpy/pool.py.
//
//   pool_tile    windows that overlap: a block takes a tile of them. Their elements come into
//                shared memory once, are reduced along one axis, and what that gives along the
//                others
//
// Axes are named by their place in memory: x is the one along which neighbours lie. Channels first,
// that is the width, and y the height; z is the depth or, of maps that have none, the planes.
// Channels last, x is the channels, y the width and z the height. Windows are of size 1 along
// planes and channels. The commonest windows: pool_small.cu; others, and those too large for shared
// memory: adaptive.cu.
#include "common/pool.cuh"

constexpr int THREADS = 256;

// Twin of POOL in gpuconv/backends/cuda/pool.py.
struct PoolParams {
    PoolAxis z, y, x;
    Places batch, channel;
    Divider channels;  // of the planes
    Operation operation;
    Number outside;  // loses against every element, and counts nothing
    int64 jobs;
    int deep, down, across;         // tiles of a plane
    int tile_z, tile_y, x_bits;     // windows of a tile; 2^x_bits along x
    int span_z, span_x;             // elements that they reach over
    Divider span_y, rows, tile_rows;  // the same along y; rows of a tile reduced along one axis
    int pitch;                      // elements from row to row of the tile
    int along_y;                    // reduce along y first, not along x
    int state_bytes;                // where the reduced rows begin
    int wide_loads;                 // rows of the input begin at multiples of 16 bytes
    int load_bits;                  // 2^bits threads load a row
};

// The elements from (z, y, x) on, rows of `columns`. Wide loads want x at a multiple of 16 bytes.
template <typename T>
__device__ __forceinline__ void load_elements(T* tile, const PoolParams& params, const T* plane,
                                              int z, int y, int x, int columns) {
    constexpr int N = 16 / sizeof(T);
    const int lanes = 1 << params.load_bits;
    const int lane = int(threadIdx.x) & (lanes - 1);
    const int rows = params.span_z * int(params.span_y.divisor);
    const int length = params.x.length;
    const bool inside = z >= 0 && z + params.span_z <= params.z.length && y >= 0 &&
                        y + int(params.span_y.divisor) <= params.y.length && x >= 0 &&
                        x + columns <= length;
    const T outside = params.outside.as<T>();
    for (int r = int(threadIdx.x) >> params.load_bits; r < rows; r += THREADS >> params.load_bits) {
        int at_y;
        const int at_z = z + int(params.span_y.split(r, at_y));
        at_y += y;
        const bool there = inside || (params.z.holds(at_z) && params.y.holds(at_y));
        const T* row = plane + at_z * params.z.step.input + at_y * params.y.step.input;
        T* target = tile + r * params.pitch;
        if (params.wide_loads) {
            for (int c = lane * N; c < columns; c += lanes * N) {
                Pack<T, N> pack;
                if (there && x + c >= 0 && x + c + N <= length) {
                    pack = load_pack<N>(row + x + c);
                } else {
                    for (int i = 0; i < N; ++i)
                        pack.values[i] =
                            there && params.x.holds(x + c + i) ? row[x + c + i] : outside;
                }
                store_pack(target + c, pack);
            }
        } else {
            for (int c = lane; c < columns; c += lanes)
                target[c] = there && (inside || params.x.holds(x + c))
                                ? row[(x + c) * params.x.step.input]
                                : outside;
        }
    }
}

template <typename Op>
__global__ void __launch_bounds__(THREADS, 1)
    pool_tile(const typename Op::Element* input, typename Op::Element* output, void* indices,
              const PoolParams params) {
    using T = typename Op::Element;
    using State = typename Op::State;
    DYNAMIC_SHARED(unsigned char, shared);
    T* const tile = reinterpret_cast<T*>(shared);
    State* const states = reinterpret_cast<State*>(shared + params.state_bytes);
    const Operation& operation = params.operation;
    const bool along_y = params.along_y;
    const PoolAxis &first = along_y ? params.y : params.x, &second = params.y;
    const int rows = int(params.rows.divisor), pitch = params.pitch;
    const int x = int(threadIdx.x) & ((1 << params.x_bits) - 1);
    const int row_begin = int(threadIdx.x) >> params.x_bits, row_step = THREADS >> params.x_bits;
    const int second_size = along_y ? 1 : second.size;
    const int second_stride = along_y ? 1 : second.stride;

    for (int64 job = blockIdx.x; job < params.jobs; job += gridDim.x) {
        const int64 plane = job / (int64(params.deep) * params.down * params.across);
        int rest = int(job - plane * params.deep * params.down * params.across);
        const int tile_x = rest % params.across;
        rest /= params.across;
        const int first_z = rest / params.down * params.tile_z;
        const int first_y = rest % params.down * params.tile_y, first_x = tile_x << params.x_bits;
        const int z = first_z * params.z.stride - params.z.pad;
        const int y = first_y * params.y.stride - params.y.pad;
        const int left = first_x * params.x.stride - params.x.pad;
        const int lead = left & (16 / int(sizeof(T)) - 1);
        int channel;
        Places corner = {0, 0, 0};
        corner.move(params.batch, params.channels.split(plane, channel));
        corner.move(params.channel, channel);
        load_elements(tile, params, input + corner.input, z, y, left - lead, lead + params.span_x);
        __syncthreads();

        for (int r = row_begin; r < params.span_z * rows; r += row_step) {
            int row;
            const int depth = int(params.rows.split(r, row));
            const T* element = tile + depth * int(params.span_y.divisor) * pitch + lead;
            element += along_y ? row * params.y.stride * pitch + x
                               : row * pitch + x * params.x.stride;
            const int step = along_y ? params.y.dilation * pitch : params.x.dilation;
            int at = along_y ? y + row * params.y.stride : left + x * params.x.stride;
            State total = Op::start();
            for (int taps = first.size; taps > 0; taps -= operation.block) {
                State part = Op::start();
                for (int i = min(taps, operation.block); i > 0; --i) {
                    if (!Op::has_index || first.holds(at)) Op::add(part, *element, at, operation);
                    element += step;
                    at += first.dilation;
                }
                Op::join(total, part);
            }
            states[(r << params.x_bits) + x] = total;
        }
        __syncthreads();

        const int out_x = first_x + x;
        for (int r = row_begin; r < params.tile_z * params.tile_y; r += row_step) {
            int row;
            const int depth = int(params.tile_rows.split(r, row));
            const int out_z = first_z + depth, out_y = first_y + row;
            if (out_z >= params.z.count() || out_y >= params.y.count() || out_x >= params.x.count())
                continue;
            State result = Op::start();
            for (int i = 0; i < params.z.size; ++i) {
                const int in_z = depth * params.z.stride + i * params.z.dilation;
                const State* state =
                    states + ((in_z * rows + row * second_stride) << params.x_bits) + x;
                int at_y = along_y ? 0 : y + row * second.stride;
                State total = Op::start();
                for (int taps = second_size; taps > 0; taps -= operation.block) {
                    State part = Op::start();
                    for (int j = min(taps, operation.block); j > 0; --j) {
                        State next = *state;
                        if constexpr (Op::has_index) {
                            if (next.at >= 0 && params.z.holds(z + in_z) &&
                                (along_y || second.holds(at_y))) {
                                next.at = int((z + in_z) * params.z.weight +
                                              at_y * second.weight + next.at * first.weight);
                                Op::follow(part, next);
                            }
                        } else {
                            Op::join(part, next);
                        }
                        state += second.dilation << params.x_bits;
                        at_y += second.dilation;
                    }
                    Op::join(total, part);
                }
                Op::join(result, total);
            }
            int64 count = 1;
            if constexpr (Op::has_count)
                count = int64(params.z.counted(out_z)) * params.y.counted(out_y) *
                        params.x.counted(out_x);
            Places place = corner;
            place.move(params.z.step, out_z);
            place.move(params.y.step, out_y);
            place.move(params.x.step, out_x);
            Op::store(result, operation, count, output, indices, place);
        }
    }
}
