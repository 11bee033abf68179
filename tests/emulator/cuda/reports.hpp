// What went wrong, as numbers; tests/emulator/reports.py turns them into sentences.
#pragma once
#include "machine.hpp"

namespace emulator {

// The order is that of `Kind` in reports.py.
enum class Kind : int32_t {
    Race,
    OutOfBounds,
    Uninitialised,
    CopyInFlight,  // shared memory touched before its cp.async was waited for
    Misaligned,
    WriteToConst,      // through a parameter declared pointer to const
    OtherStack,        // another thread's local memory
    DivergentBarrier,  // two threads of a block at two barriers
    MissingAtBarrier,  // a thread has returned, or waits elsewhere
    DivergentWarp,     // lanes of one mask at two operations
    MissingInWarp,     // a lane named in the mask does not come
    NotInMask,         // the calling lane is not in its own mask
    AbsentLane,        // a shuffle reads a lane that takes no part
    CopyNotAwaited,    // the kernel ended with cp.async under way
    TooManyBarriers,   // more than the checker can count
    SharedTooLarge,
    Crashed,  // a signal: the plain build's out of bounds, or a division by zero
};

// A place in the source: a code address that debug information explains, or a line told directly.
struct Place {
    uint64_t code;
    const char* file;
    int64_t line;
};

// What a thread is doing. The order is that of `Activity` in reports.py.
enum class Activity : int32_t { Running, AtBarrier, InWarp, Returned };

// One end of a conflict: a thread, where it is or was, and what it did there.
struct Actor {
    Place place;
    uint32_t thread[3], block[3];
    Access access;
    Activity activity;
};

constexpr int32_t SHARED_ARRAY_NUMBER = -1, NO_ARRAY = -2;
struct Report {
    Kind kind;
    int32_t argument = NO_ARRAY;  // which array: an argument's number, or one of the above
    uint64_t bytes = 0;           // of the access, or asked for
    int64_t offset = 0;           // from the array's first byte, in bytes
    uint64_t array_bytes = 0;     // of that array, or the most allowed
    uint32_t element_bytes = 1;
    uint32_t mask = 0;
    char name[44] = {};  // the shared array or the operation
    Actor here = {}, there = {};
};

}  // namespace emulator
