// What compiled kernel code asks of the emulator's runtime: who am I, wait for the others,
// exchange values inside a warp, give me shared memory, watch this access.
//
// Both sides include this file: the kernel's library through device.hpp, and the runtime, which
// is compiled once and shared by all kernels.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Inlined always, so that the debug information leads from an access to the kernel's own line.
#define EMULATOR_INLINE inline __attribute__((always_inline))
// Touches the emulator's own memory: never watched, even in the check build.
#define EMULATOR_UNWATCHED __attribute__((noinline, no_sanitize("thread")))

namespace emulator {

// A line of kernel source. The defaults are filled in where the kernel makes the call.
struct Site {
    const char* file;
    int line;
};
constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
}

// threadIdx, blockIdx, blockDim and gridDim of the running thread, three axes each.
enum Register { THREAD_INDEX = 0, BLOCK_INDEX = 3, BLOCK_SIZE = 6, GRID_SIZE = 9, REGISTERS = 12 };
unsigned register_value(int which) __attribute__((const));
int lane_index() __attribute__((const));

enum class Vote { Count, And, Or };
int block_barrier(int predicate, Vote vote, Site site);

// One warp-wide operation: each lane of the mask leaves `in`; the last lane to arrive runs the
// operation for all; each lane takes `out`.
constexpr int WARP = 32;
constexpr size_t LANE_BYTES = 64;
struct Exchange {
    alignas(16) unsigned char in[WARP][LANE_BYTES];
    alignas(16) unsigned char out[WARP][LANE_BYTES];
    unsigned char poison;

    template <typename T>
    EMULATOR_INLINE T given(int lane) const {
        T value;
        __builtin_memcpy(&value, in[lane], sizeof(T));
        return value;
    }
    template <typename T>
    EMULATOR_INLINE void answer(int lane, const T& value) {
        static_assert(sizeof(T) <= LANE_BYTES, "a lane exchanges at most 64 bytes");
        __builtin_memcpy(out[lane], &value, sizeof(T));
    }
};
// Works on the lanes of `mask` and answers no other: a lane outside may not have taken its last
// answer yet. Returns the lanes that asked for the value of one outside.
using WarpOperation = uint32_t (*)(Exchange& lanes, uint32_t mask);
void warp_collective(const char* name, uint32_t mask, WarpOperation operation, const void* in,
                     size_t in_bytes, void* out, size_t out_bytes, Site site);
void warp_barrier(uint32_t mask, Site site);
// Lanes that have not returned: what a GPU gives where the warp has not split.
uint32_t active_lanes();

// Static shared memory: one SharedSite a declaration, given its memory once a launch.
struct SharedSite {
    uint64_t launch;
    void* memory;
};
void* shared_array(SharedSite& site, const char* name, size_t bytes, size_t element_bytes);
void* dynamic_shared(const char* name, size_t element_bytes);

// An access that the compiler does not announce by itself.
enum class Access : int32_t { Read, Write, Atomic };
void watch(const void* address, size_t bytes, Access access);

// One row of an ldmatrix operand, 16 bytes.
void read_matrix_row(void* to, const void* row);

// cp.async: `given` bytes from global memory, zeros up to `bytes`; done when waited for.
void copy_async(void* shared, const void* global, size_t bytes, size_t given);
void commit_copies();
void wait_copies(int groups_left);

}  // namespace emulator
