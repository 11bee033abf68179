// The mean of a box, as in gpuconv/backends/numpy/box.py: exact sums of integers, divided once,
// half to even; sums of floats in blocks.
//
//   box_mean            a tile of a plane in shared memory: columns summed, then rows
//   box_down, _across   boxes that no tile can hold: sums of columns → patch of memory → means
//
// Sums are int where the count allows it, else int64; int128 over 64-bit pixels.
#include "common/window.cuh"

// Twin of MEAN in gpuconv/backends/cuda/box.py.
struct Mean {
    int64 count;
    uint32 reciprocal;  // 2^32 / count, rounded down
    int by_double;      // int64 sums: all below 2^53
};
struct BoxParams {
    Field field;
    Window window;
    WindowTile tile;
    Mean mean;
};
struct LargeBoxParams {
    Field field;
    Window window;
    Patch patch;
    Mean mean;
};

template <typename A>
struct Sum {
    using Value = A;
    static __device__ __forceinline__ A join(A a, A b) { return a + b; }
};

// What a mean is kept as until it is stored: T, or the float that was summed in.
template <typename T, typename A, typename Out>
struct StagedMean {
    using type = T;
};
template <typename A>
struct StagedMean<float16, A, Any> {
    using type = A;
};
template <typename A>
struct StagedMean<bfloat16, A, Any> {
    using type = A;
};

template <typename T, typename Staged, typename A>
__device__ __forceinline__ Staged mean_of(A sum, const Mean& mean) {
    if constexpr (!Scalar<T>::integer) {
        return convert<Staged>(sum / A(mean.count));
    } else if constexpr (same_type<A, int>) {
        // Sums are moved to 0 and above by an even multiple of the count, which keeps ties even.
        const uint32 count = uint32(mean.count);
        const int lowest = int(Scalar<T>::lowest());
        const uint32 doubled = uint32(sum) - uint32(lowest) * count + count / 2;
        uint32 quotient = __umulhi(doubled, mean.reciprocal);
        uint32 rest = doubled - quotient * count;
        if (rest >= count) {  // the reciprocal's error is less than one unit
            ++quotient;
            rest -= count;
        }
        if (rest == 0 && count % 2 == 0) quotient &= ~1u;
        return T(int(quotient) + lowest);
    } else if constexpr (same_type<A, int64>) {
        // A quotient of integers below 2^53 is never rounded onto a half it does not equal.
        if (mean.by_double) return T(int64(rint(double(sum) / double(mean.count))));
        return T(divide(sum, mean.count));
    } else {
        return T(divide(sum, A(mean.count)));
    }
}

template <typename T, typename A, typename In, typename Out>
__global__ void __launch_bounds__(256, 1)
    box_mean(const Memory<In>* input, Memory<Out>* output, const BoxParams params) {
    using Staged = typename StagedMean<T, A, Out>::type;
    DYNAMIC_SHARED(unsigned char, shared);
    T* tile = reinterpret_cast<T*>(shared);
    A* middle = reinterpret_cast<A*>(shared + params.tile.middle_offset);
    Staged* staged = reinterpret_cast<Staged*>(shared);
    const Field& field = params.field;
    const Window& window = params.window;
    const WindowTile& shape = params.tile;
    const int channels = field.images.channels;
    for (int64 job = blockIdx.x; job < field.tiling.jobs; job += gridDim.x) {
        const Tile place = field.tiling.at(job, shape.rows, shape.columns);
        const int top = place.y + field.from_y;
        const int left = place.x + field.from_x, lead = lead_in<T>(left);
        load_tile(tile, shape.pitch, shape.rows + window.height - 1,
                  lead + shape.columns + (window.width - 1) * channels, field.input(input),
                  field.images, place.plane, top, left - lead);
        __syncthreads();
        reduce_columns<Sum<A>>(middle, tile + lead, shape, window, channels,
                               [](T value) { return A(widen(value)); });
        __syncthreads();
        reduce_rows<Sum<A>>(staged, middle, shape, window, channels,
                            [&](A sum) { return mean_of<T, Staged>(sum, params.mean); });
        __syncthreads();
        store_staged(output, staged, shape, field, place, [](Staged mean) { return mean; });
        __syncthreads();  // the next job overwrites the tile
    }
}

template <typename T, typename A>
__global__ void __launch_bounds__(64, 1)
    box_down(const void* input, A* patch, const LargeBoxParams params) {
    DYNAMIC_SHARED(A, stage);
    reduce_down<Sum<A>, T>(patch, params.field.input(input), params.field, params.window,
                           params.patch, stage, [](T value) { return A(widen(value)); });
}

template <typename T, typename A>
__global__ void __launch_bounds__(64, 1)
    box_across(const A* patch, void* output, const LargeBoxParams params) {
    using Staged = typename StagedMean<T, A, Any>::type;
    DYNAMIC_SHARED(A, stage);
    const T value = params.field.images.value.template as<T>();
    reduce_across<Sum<A>>(output, patch, params.field, params.window, params.patch, stage,
                          A(widen(value)) * A(params.window.height),
                          [&](A sum) { return mean_of<T, Staged>(sum, params.mean); });
}
