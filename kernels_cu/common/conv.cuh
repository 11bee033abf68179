// Convolutions of feature maps: their geometry, and a block's part of one as a matrix product.
//
//   Conv           the geometry and the numbers of a call
//   Room, place    a block's shared memory, and the output positions that it computes
//   multiply       TILE output channels × TILE positions, in registers: implicit GEMM, for which
//                  the windows are gathered CHUNK taps at a time and never laid out in memory
#pragma once
#include "epilogue.cuh"
#include "map.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int TILE = 64;            // output channels, and output positions, of a block
constexpr int CHUNK = 32;           // taps in shared memory at once, one a lane
constexpr int STEP = 8;             // taps from one look at the length of a sum to the next
constexpr int OWN = 4;              // rows, and columns, of a thread
constexpr int EACH = TILE / WARPS;  // rows or columns gathered by a warp

// Strides in elements. Twin of WEIGHT_STRIDES in gpuconv/backends/cuda/conv.py.
struct WeightStrides {
    int64 group, output, input, depth, row, column;
};

// One spatial axis. Twin of AXIS in gpuconv/backends/cuda/conv.py.
struct ConvAxis {
    int input, output, kernel, stride, dilation, pad;

    __device__ __forceinline__ int first(int place) const { return place * stride - pad; }
    // Whether every tap of the window that begins at `start` lies inside.
    __device__ __forceinline__ bool holds(int start) const {
        return start >= 0 && start + (kernel - 1) * dilation < input;
    }
};

// Twin of CONV in gpuconv/backends/cuda/conv.py.
struct Conv {
    MapStrides input, output;
    WeightStrides weights;
    Number value;  // answers outside under a constant border
    Ending ending;
    ConvAxis depth, row, column;
    int groups, inputs, outputs;  // inputs, outputs: channels of a group
    Border border;
    Kind input_kind, weight_kind;
    int skip_outside;  // taps outside the input are left out, whatever their weight
    int block;         // taps of which a float sum is made by itself, before such sums are added

    __device__ __forceinline__ int64 taps() const {
        return int64(inputs) * depth.kernel * row.kernel * column.kernel;
    }
};

// a * b + c, rounded once; integers wrap.
template <typename T>
__device__ __forceinline__ T multiply_add(T a, T b, T c) {
    if constexpr (!Scalar<T>::integer) {
        return fma(a, b, c);
    } else if constexpr (sizeof(T) == 8) {
        return T(uint64(a) * uint64(b) + uint64(c));
    } else {
        return a * b + c;
    }
}

// How far from (z, y, x), which lies outside, the element lies that answers for it; false where
// the border's value answers.
__device__ __forceinline__ bool map_outside(const Conv& conv, int z, int y, int x, int64& moved) {
    const int from_z = map_index(conv.border, z, conv.depth.input);
    const int from_y = map_index(conv.border, y, conv.row.input);
    const int from_x = map_index(conv.border, x, conv.column.input);
    moved = (from_z - z) * conv.input.depth + (from_y - y) * conv.input.row +
            (from_x - x) * conv.input.column;
    return from_z >= 0 && from_y >= 0 && from_x >= 0;
}

// One row of a tile in shared memory: packs stay aligned, and 8 packs below each other meet 8
// different quarters of the banks.
template <typename Sum>
constexpr int PITCH = TILE + 16 / int(sizeof(Sum));

enum class Reach : int { Nothing, Partly, Wholly };  // how much of a window lies inside

struct Places {
    int64 input[TILE], output[TILE];  // where the window begins, and where the result goes
    int z[TILE], y[TILE], x[TILE];    // where the window begins, along each axis
    Reach reach[TILE];                // Nothing: there is no such position
    unsigned inside[TILE];            // a bit a tap of the chunk, where taps may be left out
};

struct Taps {
    int64 input[CHUNK], weight[CHUNK];  // from the first tap of a window, and of the weights
    int z[CHUNK], y[CHUNK], x[CHUNK];
};

template <typename Sum, int LEAST = 0>
struct Room {
    // Inputs, then weights: taps × TILE. Free again when the products are summed; LEAST numbers
    // are wanted then.
    static constexpr int TILES = 2 * CHUNK * PITCH<Sum>;
    Sum tiles[TILES > LEAST ? TILES : LEAST];
    Places places;
    Taps taps[2];  // of this chunk and of the next
};

// Position `i` of the block: an output of one image of the batch. `output` is where its result
// for channel 0 belongs; nothing is done for a position that is not `present`.
__device__ __forceinline__ void place(Places& places, const Conv& conv, int i, bool present,
                                      int64 batch, int group, int z, int y, int x, int64 output) {
    const int from_z = conv.depth.first(z), from_y = conv.row.first(y),
              from_x = conv.column.first(x);
    const bool whole =
        conv.depth.holds(from_z) && conv.row.holds(from_y) && conv.column.holds(from_x);
    places.z[i] = from_z;
    places.y[i] = from_y;
    places.x[i] = from_x;
    places.reach[i] = !present ? Reach::Nothing : whole ? Reach::Wholly : Reach::Partly;
    places.input[i] = batch * conv.input.batch +
                      int64(group) * conv.inputs * conv.input.channel +
                      from_z * conv.input.depth + from_y * conv.input.row +
                      from_x * conv.input.column;
    places.output[i] = output;
}

// Channels that fill a sector of 32 bytes, the least that memory gives.
template <typename Stored>
constexpr int NEAR = 32 / int(sizeof(Stored));
template <>
constexpr int NEAR<void> = 8;

// Tap `tap` of all. Weights lie side by side along the columns of a window, inputs there or, LAST,
// along channels: then so many channels come first, and after the whole window the next ones.
template <bool LAST, int CHANNELS>
__device__ __forceinline__ void find_tap(Taps& taps, const Conv& conv, int i, int64 tap) {
    if (tap >= conv.taps()) return;
    const unsigned area = unsigned(conv.row.kernel) * conv.column.kernel,
                   volume = area * conv.depth.kernel, at = unsigned(tap);
    unsigned channel = at / volume, inner = at % volume;
    if (LAST) {
        const unsigned before = channel / CHANNELS * CHANNELS, within = at - before * volume,
                       side_by_side = min(unsigned(conv.inputs) - before, unsigned(CHANNELS));
        channel = before + within % side_by_side;
        inner = within / side_by_side;
    }
    const int z = inner / area, y = inner % area / conv.column.kernel,
              x = inner % conv.column.kernel;
    taps.z[i] = z * conv.depth.dilation;
    taps.y[i] = y * conv.row.dilation;
    taps.x[i] = x * conv.column.dilation;
    taps.input[i] = channel * conv.input.channel + taps.z[i] * conv.input.depth +
                    taps.y[i] * conv.input.row + taps.x[i] * conv.input.column;
    taps.weight[i] = channel * conv.weights.input + z * conv.weights.depth +
                     y * conv.weights.row + x * conv.weights.column;
}

// The input that position `p` sees through tap `k`.
template <typename Sum, typename Stored>
__device__ __forceinline__ Sum see(const Places& places, const Taps& taps, const Conv& conv,
                                   const Stored* input, int p, int k, bool& inside) {
    const Reach reach = places.reach[p];
    inside = true;
    if (reach == Reach::Nothing) return Sum(0);
    int64 at = places.input[p] + taps.input[k];
    if (reach == Reach::Partly) {
        const int z = places.z[p] + taps.z[k], y = places.y[p] + taps.y[k],
                  x = places.x[p] + taps.x[k];
        if (unsigned(z) >= unsigned(conv.depth.input) ||
            unsigned(y) >= unsigned(conv.row.input) ||
            unsigned(x) >= unsigned(conv.column.input)) {
            int64 moved;
            if (!map_outside(conv, z, y, x, moved)) {
                inside = false;
                return conv.value.as<Sum>();
            }
            at += moved;
        }
    }
    return operand<Sum>(input, at, conv.input_kind);
}

// Values that a lane read through its tap for EACH neighbours: 16 bytes at a time into the tile.
template <typename Sum>
__device__ __forceinline__ void store_row(Sum* row, const Sum (&values)[EACH]) {
    constexpr int N = 16 / sizeof(Sum);
#pragma unroll
    for (int i = 0; i < EACH; i += N) {
        Pack<Sum, N> pack;
#pragma unroll
        for (int j = 0; j < N; ++j) pack.values[j] = values[i + j];
        store_pack(row + i, pack);
    }
}

// `count` taps of all positions; what is missing of the last STEP is 0. Lanes run along positions
// or, LAST, along taps, whichever lie side by side in memory.
template <bool LAST, typename Sum, typename Stored>
__device__ __forceinline__ void gather_inputs(Sum* tile, Places& places, const Taps& taps,
                                              const Conv& conv, const Stored* input, int count,
                                              bool masked) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    bool inside = true;
    if constexpr (LAST) {
        Sum values[EACH];
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int p = warp * EACH + i;
            values[i] = lane < count ? see<Sum>(places, taps, conv, input, p, lane, inside) : 0;
            if (masked) {
                const unsigned votes = __ballot_sync(FULL_WARP, inside);
                if (lane == 0) places.inside[p] = votes;
            }
        }
        store_row(tile + lane * PITCH<Sum> + warp * EACH, values);
    } else {
        const int p = threadIdx.x % TILE, part = threadIdx.x / TILE;
        constexpr int SHARE = CHUNK * TILE / THREADS;
        static_assert(SHARE == 8, "a thread's taps are a byte of the mask");
        unsigned bits = 0;
#pragma unroll
        for (int i = 0; i < SHARE; ++i) {
            const int k = part * SHARE + i;
            tile[k * PITCH<Sum> + p] =
                k < count ? see<Sum>(places, taps, conv, input, p, k, inside) : 0;
            bits |= unsigned(inside) << i;
        }
        if (masked) reinterpret_cast<uint8*>(&places.inside[p])[part] = uint8(bits);
    }
}

// The weights of `channels` outputs for `count` taps; the rest is 0.
template <typename Sum, typename Stored>
__device__ __forceinline__ void gather_weights(Sum* tile, const Taps& taps, const Conv& conv,
                                               const Stored* weights, int64 start, int channels,
                                               int count) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64 from = lane < count ? start + taps.weight[lane] : 0;
    Sum values[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int o = warp * EACH + i;
        values[i] = lane < count && o < channels
                        ? operand<Sum>(weights, from + o * conv.weights.output, conv.weight_kind)
                        : Sum(0);
    }
    store_row(tile + lane * PITCH<Sum> + warp * EACH, values);
}

// A thread's OWN × OWN of TILE × TILE sums.
template <typename Sum>
struct Share {
    static constexpr int N = 16 / sizeof(Sum) < OWN ? 16 / int(sizeof(Sum)) : OWN;

    static __device__ __forceinline__ int row(int i) { return int(threadIdx.x) / 16 * OWN + i; }
    // Neighbours in packs of 16 bytes, so that 8 lanes read 128 bytes side by side.
    static __device__ __forceinline__ int column(int j) {
        return j / N * (TILE * N / OWN) + int(threadIdx.x) % 16 * N + j % N;
    }
    static __device__ __forceinline__ void read_rows(Sum (&out)[OWN], const Sum* tile) {
        read(out, tile + row(0), N);
    }
    static __device__ __forceinline__ void read_columns(Sum (&out)[OWN], const Sum* tile) {
        read(out, tile + column(0), TILE * N / OWN);
    }
    static __device__ __forceinline__ void read(Sum (&out)[OWN], const Sum* place, int apart) {
#pragma unroll
        for (int j = 0; j < OWN; j += N) {
            const Pack<Sum, N> pack = load_pack<N>(place + j / N * apart);
#pragma unroll
            for (int e = 0; e < N; ++e) out[j + e] = pack.values[e];
        }
    }
};

// Add the products of one chunk. Rows are output channels and columns positions or, TURNED, the
// other way round. A product whose bit in `inside` is clear is left out, MASKED.
template <bool TURNED, bool MASKED, typename Sum>
__device__ __forceinline__ void add_products(Sum (&sums)[OWN][OWN], Sum (&total)[OWN][OWN],
                                             int& length, const Sum* inputs, const Sum* weights,
                                             const Places& places, int count, int block) {
    unsigned inside[OWN];
    if constexpr (MASKED) {
#pragma unroll
        for (int i = 0; i < OWN; ++i)
            inside[i] = places.inside[TURNED ? Share<Sum>::row(i) : Share<Sum>::column(i)];
    }
#pragma unroll 1
    for (int first = 0; first < count; first += STEP) {
#pragma unroll
        for (int s = 0; s < STEP; ++s) {
            const int k = first + s;
            Sum rows[OWN], columns[OWN];
            Share<Sum>::read_rows(rows, (TURNED ? inputs : weights) + k * PITCH<Sum>);
            Share<Sum>::read_columns(columns, (TURNED ? weights : inputs) + k * PITCH<Sum>);
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
#pragma unroll
                for (int j = 0; j < OWN; ++j) {
                    if (!MASKED || (inside[TURNED ? i : j] >> k & 1))
                        sums[i][j] = multiply_add(rows[i], columns[j], sums[i][j]);
                }
            }
        }
        if constexpr (!Scalar<Sum>::integer) {
            length += STEP;
            if (length >= block) {
                length = 0;
#pragma unroll
                for (int i = 0; i < OWN; ++i) {
#pragma unroll
                    for (int j = 0; j < OWN; ++j) {
                        total[i][j] += sums[i][j];
                        sums[i][j] = 0;
                    }
                }
            }
        }
    }
}

// The sums of `channels` output channels of a group, from `first` on, for the positions in
// `room.places`, which each of the first TILE threads has placed. Every thread of the block must
// call it; the tiles are free again when it returns.
template <bool LAST, bool TURNED, typename Sum, int LEAST, typename Input, typename Weight>
__device__ __forceinline__ void multiply(Sum (&total)[OWN][OWN], Room<Sum, LEAST>& room,
                                         const Conv& conv, const Input* input,
                                         const Weight* weights, int group, int first,
                                         int channels) {
    const int rank = threadIdx.x;
    Sum *inputs = room.tiles, *factors = room.tiles + CHUNK * PITCH<Sum>;
    const int64 taps = conv.taps();
    const int64 start = group * conv.weights.group + first * conv.weights.output;
    Sum sums[OWN][OWN] = {};
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
#pragma unroll
        for (int j = 0; j < OWN; ++j) total[i][j] = 0;
    }
    int length = 0;
    if (rank < CHUNK) find_tap<LAST, NEAR<Input>>(room.taps[0], conv, rank, rank);
    const bool partly = rank < TILE && room.places.reach[rank] == Reach::Partly;
    const bool masked = __syncthreads_or(partly) && conv.skip_outside;
    // Warps whose rows, or lanes whose columns, are all beyond the last channel have no sums.
    const bool idle = (TURNED ? Share<Sum>::column(0) : Share<Sum>::row(0)) >= channels;
    int now = 0;
    for (int64 done = 0; done < taps; done += CHUNK, now ^= 1) {
        const int count = int(min(taps - done, int64(CHUNK)));
        gather_inputs<LAST>(inputs, room.places, room.taps[now], conv, input, count, masked);
        gather_weights(factors, room.taps[now], conv, weights, start, channels, count);
        if (rank < CHUNK)
            find_tap<LAST, NEAR<Input>>(room.taps[now ^ 1], conv, rank, done + CHUNK + rank);
        __syncthreads();
        if (!idle) {
            if (masked && !Scalar<Sum>::integer) {
                add_products<TURNED, true>(sums, total, length, inputs, factors, room.places,
                                           count, conv.block);
            } else {
                add_products<TURNED, false>(sums, total, length, inputs, factors, room.places,
                                            count, conv.block);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
#pragma unroll
        for (int j = 0; j < OWN; ++j) total[i][j] += sums[i][j];
    }
}
