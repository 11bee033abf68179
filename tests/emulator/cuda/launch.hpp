// What Python gives the runtime for one launch, and what it gets back. Twin: runtime.py.
#pragma once
#include "reports.hpp"

namespace emulator {

// An array that the kernel may touch.
struct GlobalArray {
    uint64_t address, bytes;
    uint32_t element_bytes;
    int32_t argument;
    int32_t read_only;     // its parameter points to const
    const uint8_t* valid;  // one a byte: part of an element; null where all are
};

enum class Order : int32_t { Forward, Reverse, Random };

struct Launch {
    uint32_t grid[3], block[3];
    uint32_t dynamic_bytes, shared_limit;
    Order order;
    uint32_t poison;
    uint64_t seed;
    int32_t early_copies;  // cp.async copies when issued, not when waited for
    int32_t checked, counted;
    uint32_t array_count;
    const GlobalArray* arrays;
    // Results.
    uint32_t shared_bytes;  // of a block: static and dynamic
    uint32_t report_count;
    uint64_t count_count;
    uint64_t switches;
};

// All requests that warps made from one place in the code.
struct AccessCount {
    uint64_t code;
    int32_t shared;
    Access access;
    uint64_t bytes;  // of one thread's access
    uint64_t requests;
    uint64_t transactions;  // shared: wavefronts; global: 32-byte sectors
    uint64_t ideal;         // the fewest that the same bytes could take
};

}  // namespace emulator
