// Windows read straight from memory, as in gpuconv/backends/numpy/pool.py: adaptive and global
// pools, and those of gpuconv/backends/cuda/pool.py whose windows share nothing or are huge.
//
//   pool_windows   a window is reduced by 1 to 256 threads, each of which takes some of its
//                  elements; their states meet in a tree, so that the order is always the same.
//                  Few huge windows are cut into parts of a block each: one launch keeps the
//                  states of the parts, another reduces them
//
//   pool_channels  small windows, channels last: a thread takes 16 bytes of neighbouring channels
//
// Threads of a warp read neighbours: different windows side by side (channels last, small
// windows), or one window's elements along a row (channels first, large windows).
#include "common/pool.cuh"

constexpr int THREADS = 256;

// Twin of WINDOWS in gpuconv/backends/cuda/adaptive.py. Windows are numbered in the order
// batch, outer channel, z, y, x, inner channel: channels are outer or inner, the other is 1.
struct WindowsParams {
    PoolAxis z, y, x;
    Places batch, channel;
    Divider outer, inner;
    Operation operation;
    int64 windows;
    int slice_bits;      // 2^bits threads a window, the others of a block have other windows
    int slices_first;    // a warp's neighbours are slices of a window, not windows
    int part_bits;       // 2^bits parts a window, in blocks of their own
    int row_slice_bits;  // 2^bits of all slices of a window lie along x, the others have other rows
    int from_parts;      // reduce the states of parts: there is a slice for each
};

// Of a window's elements those that one slice has, from row to row.
template <typename Op>
__device__ __forceinline__ typename Op::State reduce_slice(const typename Op::Element* input,
                                                           const WindowsParams& params, int64 base,
                                                           const Taps& z, const Taps& y,
                                                           const Taps& x, int slice) {
    using State = typename Op::State;
    const Operation& operation = params.operation;
    const int row_slices = 1 << params.row_slice_bits;
    const int row_step = 1 << (params.slice_bits + params.part_bits - params.row_slice_bits);
    const int64 step = params.x.step.input * params.x.dilation * row_slices;
    const int64 advance = params.x.weight * params.x.dilation * row_slices;
    State total = Op::start(), part = Op::start();
    int taken = 0, depth = 0, row = slice >> params.row_slice_bits;
    const int column = slice & (row_slices - 1);
    for (;;) {
        while (row >= y.count && depth < z.count) {
            row -= y.count;
            ++depth;
        }
        if (depth >= z.count) break;
        const int at_z = z.first + depth * params.z.dilation;
        const int at_y = y.first + row * params.y.dilation;
        const int at_x = x.first + column * params.x.dilation;
        const typename Op::Element* element = input + base + at_z * params.z.step.input +
                                              at_y * params.y.step.input +
                                              at_x * params.x.step.input;
        int64 index = 0;
        if constexpr (Op::has_index)
            index = at_z * params.z.weight + at_y * params.y.weight + at_x * params.x.weight;
        for (int from = column; from < x.count;) {
            const int stop = min(x.count - from, operation.block << params.row_slice_bits) + from;
#pragma unroll 4
            for (; from < stop; from += row_slices) {
                Op::add(part, *element, index, operation);
                element += step;
                if constexpr (Op::has_index) index += advance;
                ++taken;
            }
            if (taken >= operation.block) {
                Op::join(total, part);
                part = Op::start();
                taken = 0;
            }
        }
        row += row_step;
    }
    Op::join(total, part);
    return total;
}

template <typename Op>
__global__ void __launch_bounds__(THREADS, 1)
    pool_windows(const typename Op::Element* input, typename Op::Element* output, void* indices,
                 void* parts, const WindowsParams params) {
    using State = typename Op::State;
    SHARED_ARRAY(State, states, [THREADS]);
    const int tid = int(threadIdx.x), slices = 1 << params.slice_bits;
    const int windows = THREADS >> params.slice_bits;
    const int slice = params.slices_first ? tid & (slices - 1) : tid / windows;
    const int window = params.slices_first ? tid >> params.slice_bits : tid & (windows - 1);
    const int apart = params.slices_first ? 1 : windows;  // a window's slices in `states`
    State* const kept = static_cast<State*>(parts);
    const int64 jobs = (params.windows + windows - 1) / windows << params.part_bits;
    for (int64 job = blockIdx.x; job < jobs; job += gridDim.x) {
        const int part = int(job & ((1 << params.part_bits) - 1));
        int64 number = (job >> params.part_bits) * windows + window;
        const int64 keep_at = (number << params.part_bits) + part;
        const bool active = number < params.windows;
        Places place = {0, 0, 0};
        int64 count = 1;
        State state = Op::start();
        if (active) {
            int inner, x, y, z, outer;
            number = params.inner.split(number, inner);
            number = params.x.outputs.split(number, x);
            number = params.y.outputs.split(number, y);
            number = params.z.outputs.split(number, z);
            number = params.outer.split(number, outer);
            place.move(params.batch, number);
            place.move(params.channel, inner + outer);
            if (params.from_parts)
                state = kept[(job * windows + window << params.slice_bits) + slice];
            else
                state = reduce_slice<Op>(input, params, place.input, params.z.taps(z),
                                         params.y.taps(y), params.x.taps(x),
                                         (part << params.slice_bits) + slice);
            if constexpr (Op::has_count)
                count = int64(params.z.counted(z)) * params.y.counted(y) * params.x.counted(x);
            place.move(params.z.step, z);
            place.move(params.y.step, y);
            place.move(params.x.step, x);
        }
        if (slices > 1) {
            states[tid] = state;
            for (int half = slices / 2; half > 0; half /= 2) {
                __syncthreads();
                if (slice < half) Op::join(states[tid], states[tid + half * apart]);
            }
            state = states[tid];
            __syncthreads();  // the next job overwrites the states
        }
        if (active && slice == 0) {
            if (params.part_bits)
                kept[keep_at] = state;
            else
                Op::store(state, params.operation, count, output, indices, place);
        }
    }
}

// Channels of a thread: 16 bytes, or fewer where each has a position to keep.
template <typename Op>
__device__ constexpr int channels_of_thread() {
    constexpr int bytes = sizeof(typename Op::Element);
    return Op::has_index && bytes < 4 ? 4 : 16 / bytes;
}

// `inner` counts packs of channels; every row of them begins at a multiple of a pack.
template <typename Op>
__global__ void __launch_bounds__(THREADS, 1)
    pool_channels(const typename Op::Element* input, typename Op::Element* output, void* indices,
                  const WindowsParams params) {
    constexpr int N = channels_of_thread<Op>();
    const int64 stride = int64(gridDim.x) * THREADS;
    for (int64 i = int64(blockIdx.x) * THREADS + threadIdx.x; i < params.windows; i += stride) {
        int inner, x, y, z;
        int64 batch = params.inner.split(i, inner);
        batch = params.x.outputs.split(batch, x);
        batch = params.y.outputs.split(batch, y);
        batch = params.z.outputs.split(batch, z);
        Places place = {0, 0, 0};
        place.move(params.batch, batch);
        place.move(params.channel, inner * N);
        const Taps along_z = params.z.taps(z), along_y = params.y.taps(y);
        const Taps along_x = params.x.taps(x);
        typename Op::State states[N];
        for (int c = 0; c < N; ++c) states[c] = Op::start();
        for (int k = 0; k < along_z.count; ++k) {
            const int at_z = along_z.first + k * params.z.dilation;
            for (int j = 0; j < along_y.count; ++j) {
                const int at_y = along_y.first + j * params.y.dilation;
                const typename Op::Element* element =
                    input + place.input + at_z * params.z.step.input +
                    at_y * params.y.step.input + along_x.first * params.x.step.input;
                int64 index = 0;
                if constexpr (Op::has_index)
                    index = at_z * params.z.weight + at_y * params.y.weight +
                            along_x.first * params.x.weight;
#pragma unroll 2
                for (int t = 0; t < along_x.count; ++t) {
                    const auto pack = load_pack<N>(element);
#pragma unroll
                    for (int c = 0; c < N; ++c)
                        Op::add(states[c], pack.values[c], index, params.operation);
                    element += params.x.dilation * params.x.step.input;
                    index += params.x.dilation * params.x.weight;
                }
            }
        }
        int64 count = 1;
        if constexpr (Op::has_count)
            count = int64(params.z.counted(z)) * params.y.counted(y) * params.x.counted(x);
        place.move(params.z.step, z);
        place.move(params.y.step, y);
        place.move(params.x.step, x);
        Pack<typename Op::Element, N> results;
#pragma unroll
        for (int c = 0; c < N; ++c) {
            const Places at = {0, 0, place.index + c};
            Op::store(states[c], params.operation, count, results.values + c, indices, at);
        }
        store_pack(output + place.output, results);
    }
}
