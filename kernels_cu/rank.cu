// The `rank`-th smallest pixel of a box, as in gpuconv/backends/numpy/rank.py.
//
//   rank_any    any window: the answer is found bit by bit, from the highest down, by counting the
//               pixels of the window that lie below a trial value (radix selection)
//
// A block takes a tile of ROWS × COLUMNS elements of one plane. The tile with its halo lies in
// shared memory as far as it fits; larger windows are read from memory.
#include "common/image.cuh"

constexpr int ROWS = 8, COLUMNS = 32;

// Twin of RANK in gpuconv/backends/cuda/rank.py.
struct RankParams {
    Images images;
    Tiling tiling;
    int height, width;  // of the window
    int pad_y, pad_x;   // pixels of the window above and left of its own
    int rank;
    int pitch;  // of the tile in shared memory; 0 where windows are read from memory
};

template <typename T>
struct KeyOf {
    using Unsigned = T;
};
#define KEY_OF(T, U) \
    template <>      \
    struct KeyOf<T> { \
        using Unsigned = U; \
    };
KEY_OF(int8, uint8)
KEY_OF(int16, uint16)
KEY_OF(int32, uint32)
KEY_OF(int64, uint64)
KEY_OF(float16, uint16)
KEY_OF(bfloat16, uint16)
KEY_OF(float, uint32)
KEY_OF(double, uint64)
#undef KEY_OF
template <typename T>
using Key = typename KeyOf<T>::Unsigned;

// An unsigned number that orders as the value does; every NaN above all others.
template <typename T>
__device__ __forceinline__ Key<T> key_of(T value) {
    constexpr int bits = sizeof(T) * 8;
    constexpr Key<T> top = Key<T>(Key<T>(1) << (bits - 1));
    Key<T> key;
    memcpy(&key, &value, sizeof(T));
    if constexpr (Scalar<T>::integer) {
        return T(-1) < T(0) ? Key<T>(key ^ top) : key;
    } else {
        const auto wide = widen(value);
        if (wide != wide) return Key<T>(~Key<T>(0));
        return key & top ? Key<T>(~key) : Key<T>(key | top);
    }
}
template <typename T>
__device__ __forceinline__ T value_of(Key<T> key) {
    constexpr int bits = sizeof(T) * 8;
    constexpr Key<T> top = Key<T>(Key<T>(1) << (bits - 1));
    if constexpr (Scalar<T>::integer) {
        if (T(-1) < T(0)) key = Key<T>(key ^ top);
    } else {
        key = key & top ? Key<T>(key & Key<T>(~top)) : Key<T>(~key);
    }
    T value;
    memcpy(&value, &key, sizeof(T));
    return value;
}

template <typename T, typename In, typename Out>
__global__ void __launch_bounds__(256, 1)
    rank_any(const Memory<In>* input, Memory<Out>* output, const RankParams params) {
    DYNAMIC_SHARED(T, tile);
    const Images& images = params.images;
    const int channels = images.channels;
    for (int64 job = blockIdx.x; job < params.tiling.jobs; job += gridDim.x) {
        const Tile place = params.tiling.at(job, ROWS, COLUMNS);
        const int top = place.y - params.pad_y;
        const int left = place.x - params.pad_x * channels, lead = lead_in<T>(left);
        if (params.pitch) {
            load_tile(tile, params.pitch, ROWS + params.height - 1,
                      lead + COLUMNS + (params.width - 1) * channels, input, images, place.plane,
                      top, left - lead);
            __syncthreads();
        }
        const int y = place.y + int(threadIdx.y), x = place.x + int(threadIdx.x);
        if (y < images.height && x < images.row_elements()) {
            const T* window = tile + int(threadIdx.y) * params.pitch + lead + int(threadIdx.x);
            // The greatest key with at most `rank` pixels below it is the answer's.
            Key<T> found = 0;
            bool has_nan = false;
            for (int bit = sizeof(T) * 8 - 1; bit >= 0; --bit) {
                const Key<T> trial = Key<T>(found | Key<T>(Key<T>(1) << bit));
                int below = 0;
                for (int i = 0; i < params.height; ++i) {
                    for (int j = 0; j < params.width; ++j) {
                        const T value =
                            params.pitch
                                ? window[i * params.pitch + j * channels]
                                : read_element<T>(input, images, place.plane, top + i,
                                                  left + int(threadIdx.x) + j * channels);
                        const Key<T> key = key_of(value);
                        below += key < trial;
                        if constexpr (!Scalar<T>::integer) has_nan |= Key<T>(~key) == 0;
                    }
                }
                if (below <= params.rank) found = trial;
            }
            if (has_nan) found = Key<T>(~Key<T>(0));
            write_element(output, images, place.plane, y, x, value_of<T>(found));
        }
        __syncthreads();  // the next job overwrites the tile
    }
}
