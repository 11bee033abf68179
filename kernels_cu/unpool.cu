// Unpooling: values scattered to flat positions of their planes, zero elsewhere, as in
// gpuconv/backends/numpy/pool.py. Of equal positions the last value of the plane wins: every place
// of the output first gets an owner, the largest number (from 1 on) of an input that wants it.
// Then each place is written once, so that nothing depends on the order of threads.
//
//   unpool_planes   small planes: owners in shared memory, a block for some planes or positions
//   unpool_clear    large planes: owners in a workspace, emptied
//   unpool_claim    ... every input claims its place
//   unpool_fill     ... every place takes its owner's value
//
// Positions outside the plane claim nothing: the host has refused them where it could see them.
// Values are moved, not computed with: T is an unsigned integer of their size.
#include "common/pool.cuh"

constexpr int THREADS = 256;

// Twin of UNPOOL_AXIS in gpuconv/backends/cuda/unpool.py.
struct UnpoolAxis {
    Places step;  // index: of the array of positions
    Divider input, output;
};

// Twin of UNPOOL in gpuconv/backends/cuda/unpool.py. Channels are outer (planes of their own) or
// inner (neighbours in memory), the other is 1.
struct UnpoolParams {
    UnpoolAxis z, y, x;
    Places batch, channel;
    Divider outer;
    int64 planes;     // batch times outer channels
    int64 size;       // positions of a plane of the output
    int inner;
    Divider lanes;    // inner channels, } of a part
    Divider band;     // positions,      } of the
    int group;        // and planes,     } output
    int64 plane_jobs, lane_jobs, band_jobs;
    int64 first_job;  // the part of a launch that has one only
    Kind index_kind;
};

// A part of the output: its owners are numbered in the order plane, position, inner channel.
struct Part {
    int64 plane, first;
    int planes, channel;
};

__device__ __forceinline__ Part part_at(const UnpoolParams& params, int64 job) {
    const int64 band = job % params.band_jobs, rest = job / params.band_jobs;
    const int64 lane = rest % params.lane_jobs, plane = rest / params.lane_jobs * params.group;
    return {plane, band * params.band.divisor, int(min(params.planes - plane, int64(params.group))),
            int(lane * params.lanes.divisor)};
}

__device__ __forceinline__ int64 owners_of(const UnpoolParams& params, const Part& part) {
    return int64(part.planes) * params.band.divisor * params.lanes.divisor;
}
__device__ __forceinline__ int64 inputs_of(const UnpoolParams& params, const Part& part) {
    return int64(part.planes) * params.x.input.divisor * params.y.input.divisor *
           params.z.input.divisor * params.lanes.divisor;
}

__device__ __forceinline__ void move_to(Places& place, const UnpoolParams& params, int64 plane,
                                        int channel) {
    int outer;
    const int64 batch = params.outer.split(plane, outer);
    place.move(params.batch, batch);
    place.move(params.channel, outer + channel);
}

// Input i of a part claims its place.
__device__ __forceinline__ void claim(const UnpoolParams& params, const Part& part, int64 i,
                                      const void* indices, int* owners) {
    int lane, x, y, z;
    int64 plane = params.lanes.split(i, lane);
    plane = params.x.input.split(plane, x);
    plane = params.y.input.split(plane, y);
    plane = params.z.input.split(plane, z);
    if (part.channel + lane >= params.inner) return;
    Places place = {0, 0, 0};
    move_to(place, params, part.plane + plane, part.channel + lane);
    place.move(params.z.step, z);
    place.move(params.y.step, y);
    place.move(params.x.step, x);
    const int64 wanted = fetch<int64>(indices, place.index, params.index_kind);
    const int64 position = wanted - part.first;
    if (wanted < 0 || wanted >= params.size || position < 0 || position >= params.band.divisor)
        return;
    const int number =
        (z * int(params.y.input.divisor) + y) * int(params.x.input.divisor) + x + 1;
    atomicMax(owners + (plane * params.band.divisor + position) * params.lanes.divisor + lane,
              number);
}

// Place i of a part takes its owner's value.
template <typename T>
__device__ __forceinline__ void fill(const UnpoolParams& params, const Part& part, int64 i,
                                     const int* owners, const T* values, T* output) {
    int lane, position, x, y, z;
    int64 plane = params.lanes.split(i, lane);
    plane = params.band.split(plane, position);
    if (part.channel + lane >= params.inner || part.first + position >= params.size) return;
    Places place = {0, 0, 0};
    move_to(place, params, part.plane + plane, part.channel + lane);
    const int owner = owners[i];
    T value = 0;
    if (owner) {
        int64 rest = params.x.input.split(owner - 1, x);
        z = int(params.y.input.split(rest, y));
        value = values[place.input + z * params.z.step.input + y * params.y.step.input +
                       x * params.x.step.input];
    }
    int64 rest = params.x.output.split(part.first + position, x);
    z = int(params.y.output.split(rest, y));
    output[place.output + z * params.z.step.output + y * params.y.step.output +
           x * params.x.step.output] = value;
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 1)
    unpool_planes(const T* values, const void* indices, T* output, const UnpoolParams params) {
    DYNAMIC_SHARED(int, owners);
    const int64 jobs = params.plane_jobs * params.lane_jobs * params.band_jobs;
    for (int64 job = blockIdx.x; job < jobs; job += gridDim.x) {
        const Part part = part_at(params, job);
        const int count = int(owners_of(params, part));
        const int64 inputs = inputs_of(params, part);
        for (int i = threadIdx.x; i < count; i += THREADS) owners[i] = 0;
        __syncthreads();
        for (int64 i = threadIdx.x; i < inputs; i += THREADS)
            claim(params, part, i, indices, owners);
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += THREADS)
            fill(params, part, i, owners, values, output);
        // A thread alone has read the owners that it empties for the next job.
    }
}

// 16 bytes a thread: `packs` times four owners.
template <typename Owner>
__global__ void __launch_bounds__(THREADS, 1) unpool_clear(Owner* owners, int64 packs) {
    const int64 step = int64(gridDim.x) * THREADS;
    for (int64 i = int64(blockIdx.x) * THREADS + threadIdx.x; i < packs; i += step)
        store_pack(owners + 4 * i, Pack<Owner, 4>{{0, 0, 0, 0}});
}

template <typename Stored>
__global__ void __launch_bounds__(THREADS, 1)
    unpool_claim(const Memory<Stored>* indices, int* owners, const UnpoolParams params) {
    const Part part = part_at(params, params.first_job);
    const int64 inputs = inputs_of(params, part), step = int64(gridDim.x) * THREADS;
    for (int64 i = int64(blockIdx.x) * THREADS + threadIdx.x; i < inputs; i += step)
        claim(params, part, i, indices, owners);
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 1)
    unpool_fill(const T* values, const int* owners, T* output, const UnpoolParams params) {
    const Part part = part_at(params, params.first_job);
    const int64 count = owners_of(params, part), step = int64(gridDim.x) * THREADS;
    for (int64 i = int64(blockIdx.x) * THREADS + threadIdx.x; i < count; i += step)
        fill(params, part, i, owners, values, output);
}
