// Convolutions of feature maps of 1 to 3 spatial axes, as in gpuconv/backends/numpy/conv.py;
// transposed ones are some of them for each phase of their output.
//
//   conv_gemm     many channels a group: TILE channels × TILE positions of the whole batch a block,
//                 as a product of the weights with windows gathered into shared memory
//   conv_direct   few channels a group: a tile of output positions of some channels a block, whose
//                 input and weights lie in shared memory as far as they fit, part after part
//
// LAST tells that neighbouring channels lie side by side in memory, else neighbouring columns do.
#include "common/conv.cuh"

// Twin of GEMM in gpuconv/backends/cuda/conv.py.
struct GemmParams {
    Conv conv;
    int64 positions;  // of the whole batch
    int64 jobs;
    int channel_tiles;
};

template <bool LAST, typename Sum, typename In, typename Weight, typename Out>
__global__ void __launch_bounds__(THREADS, 1)
    conv_gemm(const Memory<In>* input, const Memory<Weight>* weights, const void* bias,
              Memory<Out>* output, const GemmParams params) {
    SHARED_ARRAY(Room<Sum>, rooms, [1]);
    Room<Sum>& room = rooms[0];
    Places& places = room.places;
    const Conv& conv = params.conv;
    const int rank = threadIdx.x, lane = rank % 32, warp = rank / 32;
    const int64 area = int64(conv.row.output) * conv.column.output,
                volume = area * conv.depth.output;
    for (int64 job = blockIdx.x; job < params.jobs; job += gridDim.x) {
        const int64 rest = job / params.channel_tiles;
        const int first = int(job - rest * params.channel_tiles) * TILE;
        const int group = int(rest % conv.groups);
        const int channels = min(TILE, conv.outputs - first);
        if (rank < TILE) {
            const int64 position = rest / conv.groups * TILE + rank;
            const int64 batch = position / volume, within = position - batch * volume;
            const int z = int(within / area);
            const int64 pixel = within - z * area;
            const int y = int(pixel / conv.column.output);
            const int x = int(pixel - int64(y) * conv.column.output);
            place(places, conv, rank, position < params.positions, batch, group, z, y, x,
                  batch * conv.output.batch + z * conv.output.depth + y * conv.output.row +
                      x * conv.output.column);
        }
        Sum sums[OWN][OWN];
        multiply<LAST, LAST>(sums, room, conv, input, weights, group, first, channels);
        // By way of shared memory, so that lanes write what lies side by side.
        using Own = Share<Sum>;
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
#pragma unroll
            for (int j = 0; j < OWN; j += Own::N) {
                Pack<Sum, Own::N> pack;
#pragma unroll
                for (int e = 0; e < Own::N; ++e) pack.values[e] = sums[i][j + e];
                store_pack(room.tiles + Own::row(i) * TILE + Own::column(j), pack);
            }
        }
        __syncthreads();
        const int rows = LAST ? TILE : channels;
#pragma unroll 1
        for (int row = warp; row < rows; row += WARPS) {
#pragma unroll
            for (int column = lane; column < TILE; column += 32) {
                const int channel = LAST ? column : row, p = LAST ? row : column;
                if (channel < channels && places.reach[p] != Reach::Nothing) {
                    const int whole = group * conv.outputs + first + channel;
                    put(output, places.output[p] + whole * conv.output.channel,
                        conv.ending.output_kind,
                        finish(room.tiles[row * TILE + column], whole, bias, conv.ending));
                }
            }
        }
        __syncthreads();  // the next job places its positions
    }
}

// Twin of DIRECT in gpuconv/backends/cuda/conv.py.
struct DirectParams {
    Conv conv;
    int64 jobs;
    int channel_tiles, down, across;  // tiles of channels, and of each plane
    int log_threads, log_columns;     // of a channel, unless LAST; of a tile
    int channels, rows, columns;      // taps of one part
    int pitch, plane;  // of the tile in shared memory: a row, all rows; 0: read from memory
    int log_lanes;     // lanes that load a row of it together
};

constexpr int LAST_LANES = 32;  // channels of a block, LAST

// A tile of outputs of some channels of one image, at one depth.
struct DirectJob {
    int64 batch;
    int channel, channels;  // of the output
    int z, y, x, rows, columns;
};

// Some taps of a job, and the input that its outputs see through them.
struct Part {
    int channel, channels;  // of a group's input
    int tap_z, tap_y, tap_x, tap_rows, tap_columns;
    int64 start;  // the input's plane
    bool outside;  // that plane is the border's
    int top, left, rows, columns;

    __device__ __forceinline__ int taps() const { return channels * tap_rows * tap_columns; }
    // From one channel's weights in shared memory to the next's: odd, so that lanes of different
    // channels meet different banks.
    __device__ __forceinline__ int pitch() const { return taps() | 1; }
};

__device__ __forceinline__ int parts_of(int all, int at_once) {
    return (all + at_once - 1) / at_once;
}

__device__ __forceinline__ Part part_at(const DirectParams& params, const DirectJob& job,
                                        int number) {
    const Conv& conv = params.conv;
    const int across = parts_of(conv.column.kernel, params.columns),
              down = parts_of(conv.row.kernel, params.rows);
    Part part;
    part.tap_x = number % across * params.columns;
    part.tap_y = number / across % down * params.rows;
    part.tap_z = number / across / down % conv.depth.kernel;
    part.channel = number / across / down / conv.depth.kernel * params.channels;
    part.channels = min(params.channels, conv.inputs - part.channel);
    part.tap_rows = min(params.rows, conv.row.kernel - part.tap_y);
    part.tap_columns = min(params.columns, conv.column.kernel - part.tap_x);
    const int z = map_index(conv.border, conv.depth.first(job.z) + part.tap_z * conv.depth.dilation,
                            conv.depth.input);
    part.outside = z < 0;
    part.start = job.batch * conv.input.batch + z * conv.input.depth;
    part.top = conv.row.first(job.y) + part.tap_y * conv.row.dilation;
    part.left = conv.column.first(job.x) + part.tap_x * conv.column.dilation;
    part.rows = (job.rows - 1) * conv.row.stride + (part.tap_rows - 1) * conv.row.dilation + 1;
    part.columns =
        (job.columns - 1) * conv.column.stride + (part.tap_columns - 1) * conv.column.dilation + 1;
    return part;
}

// The input at (y, x), which may lie outside, in the channel of a part for an output channel.
template <typename Sum, typename Stored>
__device__ __forceinline__ Sum read_input(const Conv& conv, const Stored* input, const Part& part,
                                          int output, int channel, int y, int x) {
    const int from_y = map_index(conv.border, y, conv.row.input);
    const int from_x = map_index(conv.border, x, conv.column.input);
    if (part.outside || from_y < 0 || from_x < 0) return conv.value.as<Sum>();
    const int from = output / conv.outputs * conv.inputs + part.channel + channel;
    return operand<Sum>(input,
                        part.start + from * conv.input.channel + from_y * conv.input.row +
                            from_x * conv.input.column,
                        conv.input_kind);
}

// The input of a part: for each output channel its planes or, LAST, at each place the channels
// side by side.
template <bool LAST, typename Sum, typename Stored>
__device__ __forceinline__ void load_part(Sum* tile, const DirectParams& params,
                                          const DirectJob& job, const Part& part,
                                          const Stored* input) {
    const int rank = threadIdx.x;
    if constexpr (LAST) {
        const int l = rank % LAST_LANES;
        for (int i = rank / LAST_LANES; i < part.channels * part.rows * part.columns;
             i += THREADS / LAST_LANES) {
            const int x = i % part.columns, y = i / part.columns % part.rows,
                      c = i / part.columns / part.rows;
            if (l < job.channels)
                tile[(c * params.plane + y * params.pitch + x) * LAST_LANES + l] =
                    read_input<Sum>(params.conv, input, part, job.channel + l, c, part.top + y,
                                    part.left + x);
        }
    } else {
        const int lanes = 1 << params.log_lanes;
        for (int i = rank >> params.log_lanes; i < job.channels * part.channels * part.rows;
             i += THREADS >> params.log_lanes) {
            const int y = i % part.rows, c = i / part.rows % part.channels,
                      l = i / part.rows / part.channels;
            Sum* row = tile + (l * params.channels + c) * params.plane + y * params.pitch;
            for (int x = rank & (lanes - 1); x < part.columns; x += lanes)
                row[x] = read_input<Sum>(params.conv, input, part, job.channel + l, c,
                                         part.top + y, part.left + x);
        }
    }
}

// The weights of a part, channel after channel.
template <typename Sum, typename Stored>
__device__ __forceinline__ void load_weights(Sum* factors, const DirectParams& params,
                                             const DirectJob& job, const Part& part,
                                             const Stored* weights) {
    const Conv& conv = params.conv;
    const int taps = part.taps();
    for (int i = threadIdx.x; i < job.channels * taps; i += THREADS) {
        const int l = i / taps, tap = i - l * taps;
        const int x = tap % part.tap_columns, y = tap / part.tap_columns % part.tap_rows,
                  c = tap / part.tap_columns / part.tap_rows;
        const int output = job.channel + l, group = output / conv.outputs;
        factors[l * part.pitch() + tap] = operand<Sum>(
            weights,
            group * conv.weights.group + (output - group * conv.outputs) * conv.weights.output +
                (part.channel + c) * conv.weights.input + part.tap_z * conv.weights.depth +
                (part.tap_y + y) * conv.weights.row + (part.tap_x + x) * conv.weights.column,
            conv.weight_kind);
    }
}

// A thread's outputs, all of one channel: their sums, and where their windows begin in a tile.
template <typename Sum, int COUNT>
struct Outputs {
    Sum sums[COUNT], total[COUNT];
    int y[COUNT], x[COUNT];
    int length;

    // Add the products of a part; `read(i, c, y, x)` is what output i sees through a tap there.
    template <bool SKIP, typename Read>
    __device__ __forceinline__ void add(const Conv& conv, const Part& part, const Sum* factor,
                                        const Read& read) {
#pragma unroll 1
        for (int c = 0; c < part.channels; ++c) {
#pragma unroll 1
            for (int tap_y = 0; tap_y < part.tap_rows; ++tap_y) {
                for (int tap_x = 0; tap_x < part.tap_columns; ++tap_x, ++factor) {
                    const int down = tap_y * conv.row.dilation,
                              right = tap_x * conv.column.dilation;
#pragma unroll
                    for (int i = 0; i < COUNT; ++i) {
                        if (SKIP && (unsigned(part.top + y[i] + down) >= unsigned(conv.row.input) ||
                                     unsigned(part.left + x[i] + right) >=
                                         unsigned(conv.column.input)))
                            continue;
                        sums[i] = multiply_add(read(i, c, down, right), *factor, sums[i]);
                    }
                    if (!Scalar<Sum>::integer && ++length >= conv.block) close();
                }
            }
        }
    }
    __device__ __forceinline__ void close() {
        length = 0;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            total[i] += sums[i];
            sums[i] = 0;
        }
    }
};

template <bool LAST, typename Sum, typename In, typename Weight, typename Out>
__global__ void __launch_bounds__(THREADS, 1)
    conv_direct(const Memory<In>* input, const Memory<Weight>* weights, const void* bias,
                Memory<Out>* output, const DirectParams params) {
    constexpr int COUNT = LAST ? 8 : 4;
    DYNAMIC_SHARED(Sum, tile);
    const Conv& conv = params.conv;
    const int rank = threadIdx.x, log_threads = LAST ? 3 : params.log_threads;
    const int lanes = THREADS >> log_threads;
    const int lane = LAST ? rank % LAST_LANES : rank >> log_threads;
    const int first = LAST ? rank / LAST_LANES : rank & ((1 << log_threads) - 1);
    const int columns = 1 << params.log_columns,
              rows = (COUNT << log_threads) >> params.log_columns;
    Sum* factors = tile + lanes * params.channels * params.plane;
    const int parts = parts_of(conv.inputs, params.channels) * conv.depth.kernel *
                      parts_of(conv.row.kernel, params.rows) *
                      parts_of(conv.column.kernel, params.columns);

    for (int64 number = blockIdx.x; number < params.jobs; number += gridDim.x) {
        const int64 row = number / params.across, plane = row / params.down,
                    slice = plane / params.channel_tiles;
        DirectJob job;
        job.x = int(number - row * params.across) * columns;
        job.y = int(row - plane * params.down) * rows;
        job.channel = int(plane - slice * params.channel_tiles) * lanes;
        job.batch = slice / conv.depth.output;
        job.z = int(slice - job.batch * conv.depth.output);
        job.channels = min(lanes, conv.groups * conv.outputs - job.channel);
        job.rows = min(rows, conv.row.output - job.y);
        job.columns = min(columns, conv.column.output - job.x);

        // What does not exist is computed as the tile's first output, and not written.
        const int own = lane < job.channels ? lane : 0;
        Outputs<Sum, COUNT> outputs = {};
        unsigned exists = 0;
        int at[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int place = first + (i << log_threads);
            int y = place >> params.log_columns, x = place & (columns - 1);
            if (y < job.rows && x < job.columns && lane < job.channels) {
                exists |= 1u << i;
            } else {
                y = x = 0;
            }
            outputs.y[i] = y * conv.row.stride;
            outputs.x[i] = x * conv.column.stride;
            const int within = outputs.y[i] * params.pitch + outputs.x[i];
            at[i] = LAST ? within * LAST_LANES + own
                         : own * params.channels * params.plane + within;
        }

        for (int i = 0; i < parts; ++i) {
            const Part part = part_at(params, job, i);
            if (part.outside && conv.skip_outside) continue;
            if (params.pitch) load_part<LAST>(tile, params, job, part, input);
            load_weights(factors, params, job, part, weights);
            __syncthreads();
            const Sum* factor = factors + own * part.pitch();
            const bool inside = part.top >= 0 && part.top + part.rows <= conv.row.input &&
                                part.left >= 0 && part.left + part.columns <= conv.column.input;
            if (exists) {
                const auto in_tile = [&](int i, int c, int down, int right) {
                    return tile[at[i] + (c * params.plane + down * params.pitch + right) *
                                            (LAST ? LAST_LANES : 1)];
                };
                if (!params.pitch || (conv.skip_outside && !inside)) {
                    const auto anywhere = [&](int i, int c, int down, int right) {
                        if (params.pitch) return in_tile(i, c, down, right);
                        return read_input<Sum>(conv, input, part, job.channel + own, c,
                                               part.top + outputs.y[i] + down,
                                               part.left + outputs.x[i] + right);
                    };
                    if (conv.skip_outside) {
                        outputs.template add<true>(conv, part, factor, anywhere);
                    } else {
                        outputs.template add<false>(conv, part, factor, anywhere);
                    }
                } else {
                    outputs.template add<false>(conv, part, factor, in_tile);
                }
            }
            __syncthreads();  // the next part, or job, overwrites this one
        }

        outputs.close();
        const int channel = job.channel + own;
        const int64 start = job.batch * conv.output.batch + channel * conv.output.channel +
                            job.z * conv.output.depth;
#pragma unroll 1
        for (int i = 0; i < COUNT; ++i) {
            const int place = first + (i << log_threads);
            if (exists >> i & 1)
                put(output,
                    start + (job.y + (place >> params.log_columns)) * conv.output.row +
                        (job.x + (place & (columns - 1))) * conv.output.column,
                    conv.ending.output_kind,
                    finish(outputs.total[0], channel, bias, conv.ending));
            // The next comes to the front: a register has no address to be reckoned.
#pragma unroll
            for (int j = 1; j < COUNT; ++j) outputs.total[j - 1] = outputs.total[j];
        }
    }
}
