// A 2-D convolution that is pooled before it reaches memory, as in gpuconv/backends/numpy/conv.py.
//
//   conv_pool    TILE output channels × a tile of pooled places a block: what their windows hold is
//                convolved TILE positions at a time, with bias, activation and rounding as if by
//                itself, and taken into maxima or sums that lie in registers
//
// So a window of any size is pooled, and no feature map is ever laid out. LAST as in conv.cu.
#include "common/conv.cuh"

// Twin of POOL_AXIS in gpuconv/backends/cuda/conv_pool.py.
struct PoolAxis {
    int output, size, stride, pad;
    int tile;  // places of a block

    // Windows that leave gaps are packed side by side.
    __device__ __forceinline__ int packed_stride() const { return min(stride, size); }
    __device__ __forceinline__ int packed(int places) const {
        return (places - 1) * packed_stride() + size;
    }
    __device__ __forceinline__ int unpacked(int at) const {
        return stride > size ? at / size * stride + at % size : at;
    }
};

// Twin of CONV_POOL in gpuconv/backends/cuda/conv_pool.py.
struct ConvPoolParams {
    Conv conv;  // its output strides are those of the pooled map
    PoolAxis row, column;
    int64 jobs;
    int channel_tiles, down, across;
    int average;
};

constexpr int PARTS = THREADS / TILE;
constexpr int STATES = TILE / PARTS;  // channels of a thread, all at one pooled place

// What is known of a window: its largest value, or its sum. Float sums keep what rounding took
// away (Knuth's two-sum), integer ones are exact.
template <typename Value, bool integer = Scalar<Value>::integer>
struct State {
    Value value, lost;

    __device__ __forceinline__ void begin(bool average) {
        value = average ? Value(0) : lowest<Value>();
        lost = 0;
    }
    __device__ __forceinline__ void take(Value more, bool average) {
        if (average) {
            const Value sum = value + more, added = sum - value;
            lost += (value - (sum - added)) + (more - added);
            value = sum;
        } else {
            value = maximum(value, more);
        }
    }
    __device__ __forceinline__ Value result(bool average, int64 count) const {
        if (!average) return value;
        // Of infinities nothing is lost, but the difference is NaN.
        return (lost == lost ? value + lost : value) / Value(count);
    }
};
template <typename Value>
struct State<Value, true> {
    int128 value;

    __device__ __forceinline__ void begin(bool average) {
        value = average ? Value(0) : lowest<Value>();
    }
    __device__ __forceinline__ void take(Value more, bool average) {
        if (average) {
            value += more;
        } else {
            value = max(Value(value), more);
        }
    }
    __device__ __forceinline__ Value result(bool average, int64 count) const {
        if (!average) return Value(value);
        if (value == Value(value)) return divide(Value(value), count);
        return Value(divide(value, int128(count)));
    }
};

// A number as it would be read back from the feature map.
template <typename Value, typename Out, typename From>
__device__ __forceinline__ Value rounded(From number, Kind kind) {
    if constexpr (!same_type<Out, Any>) {
        return Value(widen(convert<Out>(number)));
    } else {
        switch (kind) {
#define CASE(NAME, TYPE)                                              \
    case Kind::NAME:                                                  \
        if constexpr (Scalar<TYPE>::integer == Scalar<Value>::integer) \
            return Value(widen(convert<TYPE>(number)));               \
        break;
            EACH_KIND(CASE)
#undef CASE
        }
        return Value(0);
    }
}

template <bool LAST, typename Sum, typename In, typename Weight, typename Out, typename Value>
__global__ void __launch_bounds__(THREADS, 1)
    conv_pool(const Memory<In>* input, const Memory<Weight>* weights, const void* bias,
              Memory<Out>* output, const ConvPoolParams params) {
    constexpr int LEAST = TILE * (TILE + 1) * int(sizeof(Value)) / int(sizeof(Sum));
    using Shared = Room<Sum, LEAST>;
    SHARED_ARRAY(Shared, rooms, [1]);
    Shared& room = rooms[0];
    Places& places = room.places;
    Value* values = reinterpret_cast<Value*>(room.tiles);
    const Conv& conv = params.conv;
    const int rank = threadIdx.x, own = rank % TILE, part = rank / TILE;
    for (int64 job = blockIdx.x; job < params.jobs; job += gridDim.x) {
        const int64 by_group = job / params.channel_tiles, by_tile = by_group / conv.groups,
                    by_row = by_tile / params.across, batch = by_row / params.down;
        const int first = int(job - by_group * params.channel_tiles) * TILE;
        const int group = int(by_group - by_tile * conv.groups);
        const int tile_x = int(by_tile - by_row * params.across) * params.column.tile;
        const int tile_y = int(by_row - batch * params.down) * params.row.tile;
        const int channels = min(TILE, conv.outputs - first);
        const int tile_rows = min(params.row.tile, params.row.output - tile_y),
                  tile_columns = min(params.column.tile, params.column.output - tile_x);
        const int wide = params.column.packed(tile_columns);
        const int64 pixels = int64(params.row.packed(tile_rows)) * wide;

        const int place_y = own / params.column.tile, place_x = own % params.column.tile;
        const bool exists = place_y < tile_rows && place_x < tile_columns;
        const int top = place_y * params.row.packed_stride(),
                  left = place_x * params.column.packed_stride();
        State<Value> states[STATES];
#pragma unroll
        for (int i = 0; i < STATES; ++i) states[i].begin(params.average);

        for (int64 done = 0; done < pixels; done += TILE) {
            if (rank < TILE) {
                const int row = int((done + rank) / wide);
                const int column = int(done + rank - int64(row) * wide);
                const int y = tile_y * params.row.stride - params.row.pad +
                              params.row.unpacked(row);
                const int x = tile_x * params.column.stride - params.column.pad +
                              params.column.unpacked(column);
                const bool present = done + rank < pixels && y >= 0 && y < conv.row.output &&
                                     x >= 0 && x < conv.column.output;
                place(places, conv, rank, present, batch, group, 0, y, x, 0);
            }
            Sum sums[OWN][OWN];
            multiply<LAST, false>(sums, room, conv, input, weights, group, first, channels);
            using Mine = Share<Sum>;
            constexpr int N = Mine::N < Share<Value>::N ? Mine::N : Share<Value>::N;
#pragma unroll 1
            for (int i = 0; i < OWN; ++i) {
                const int channel = Mine::row(i);
                if (channel < channels) {
#pragma unroll
                    for (int j = 0; j < OWN; j += N) {
                        Pack<Value, N> pack;
#pragma unroll
                        for (int e = 0; e < N; ++e)
                            pack.values[e] = rounded<Value, Out>(
                                finish(sums[0][j + e], group * conv.outputs + first + channel,
                                       bias, conv.ending),
                                conv.ending.output_kind);
                        store_pack(values + channel * TILE + Mine::column(j), pack);
                    }
                }
                // The next row comes to the front: a register has no address to be reckoned.
#pragma unroll
                for (int j = 0; j < OWN; ++j) {
#pragma unroll
                    for (int row = 1; row < OWN; ++row) sums[row - 1][j] = sums[row][j];
                }
            }
            __syncthreads();
            if (exists) {
                // What these positions hold of the thread's window: some of its rows, of those
                // some columns.
                const int last_row = int(min((done + TILE - 1) / wide,
                                             int64(top) + params.row.size - 1));
                for (int row = max(int(done / wide), top); row <= last_row; ++row) {
                    const int64 before = int64(row) * wide - done;
                    const int end = int(min(before + left + params.column.size, int64(TILE)));
                    for (int p = int(max(before + left, int64(0))); p < end; ++p) {
                        if (places.reach[p] == Reach::Nothing) continue;
#pragma unroll
                        for (int i = 0; i < STATES; ++i) {
                            const int channel = part + i * PARTS;
                            if (channel < channels)
                                states[i].take(values[channel * TILE + p], params.average);
                        }
                    }
                }
            }
            __syncthreads();  // the next positions overwrite these
        }

        const int64 count = int64(params.row.size) * params.column.size;
        const int64 start = batch * conv.output.batch +
                            (group * conv.outputs + first) * conv.output.channel;
        const auto write = [&](int place, int channel, Value value) {
            const int y = tile_y + place / params.column.tile,
                      x = tile_x + place % params.column.tile;
            put(output,
                start + channel * conv.output.channel + y * conv.output.row +
                    x * conv.output.column,
                conv.ending.output_kind, value);
        };
#pragma unroll 1
        for (int channel = part; channel < TILE; channel += PARTS) {
            const Value value = states[0].result(params.average, count);
            if (exists && channel < channels) {
                if (LAST) {
                    values[own * (TILE + 1) + channel] = value;
                } else {
                    write(own, channel, value);
                }
            }
#pragma unroll
            for (int i = 1; i < STATES; ++i) states[i - 1] = states[i];
        }
        if (LAST) {  // by way of shared memory, so that lanes write what lies side by side
            __syncthreads();
            const int lane = rank % 32;
#pragma unroll 1
            for (int place = rank / 32; place < tile_rows * params.column.tile; place += WARPS) {
                if (place % params.column.tile >= tile_columns) continue;
                for (int channel = lane; channel < channels; channel += 32)
                    write(place, channel, values[place * (TILE + 1) + channel]);
            }
            // The next job overwrites them behind the barrier that makes its places known.
        }
    }
}
