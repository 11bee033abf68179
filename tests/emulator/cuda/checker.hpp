// Watches every access of a check build: bounds, alignment, initialisation, races.
//
// Each few bytes of an array have a Cell that remembers the last write and the last reads. An
// access races with a remembered one when nothing orders the two: the same thread, a
// __syncthreads in between (the block's epoch has moved on), or, inside a warp, a __syncwarp that
// carried the other lane's clock here. Two blocks of a launch are never ordered.
#pragma once
#include <vector>

#include "counters.hpp"
#include "runtime.hpp"

namespace emulator {

// An access as it is remembered: 16 bytes.
struct Record {
    uint32_t code;   // from the start of the kernel's library
    uint32_t block;  // serial number over all launches; 0: nothing remembered
    uint16_t epoch, clock;
    uint16_t thread;
    uint8_t bytes;  // a bit a byte of the cell
    uint8_t atomic;
};

// Three reads: the last, the last of another thread of its warp, the last of another warp.
struct Cell {
    Record write, reads[3];
};
static_assert(sizeof(Cell) == 64, "one line of the cache");

enum class ByteState : uint8_t { Uninitialised, Initialised, InFlight };

struct Region {
    uintptr_t begin, end;
    int32_t argument;
    bool read_only;
    const uint8_t* valid;  // global arrays with gaps
    ByteState* states;     // shared arrays
    const char* name;
    uint32_t element_bytes;
    int shift = 0;          // a cell holds 1 << shift bytes
    Cell* cells = nullptr;  // not for arrays that are only read
};

class Checker {
public:
    void begin_launch(const Launch& launch, uintptr_t kernel);
    void end_launch();
    void begin_block();
    void end_block();
    void barrier_passed();
    void warp_passed(int warp, uint32_t mask);
    void add_shared(const char* name, char* memory, size_t bytes, size_t element_bytes);

    // `alignment`: what the address must be a multiple of.
    void access(uintptr_t address, size_t bytes, size_t alignment, Access access, uintptr_t code);
    void step(uintptr_t code) {
        if (counted_ && machine.current) counter_.step(machine.current->number, code);
    }
    void copy_issued(const Copy& copy);
    void copy_done(const Copy& copy);
    const std::vector<AccessCount>& counts() const { return counter_.counts(); }

private:
    Region* find(uintptr_t address, size_t bytes, size_t alignment, Access access, uintptr_t code);
    void check_states(Region& region, size_t offset, size_t bytes, Access access, uintptr_t code);
    void check_races(Region& region, size_t offset, size_t bytes, Access access, uintptr_t code);
    bool ordered(const Record& past, const Record& now, bool shared) const;
    void report_race(const Region& region, size_t offset, size_t bytes, Access access,
                     const Record& past, Access past_access, uintptr_t code);
    Report about(Kind kind, const Region* region, int64_t offset, size_t bytes, Access access,
                 uintptr_t code) const;
    Actor actor(const Record& past, Access access) const;
    void add(Region region);

    std::vector<Region> regions_;
    size_t last_ = 0;
    uint32_t serial_ = 0;                  // of the running block
    uint32_t first_serial_ = 1;            // of the launch
    std::vector<uint32_t> block_numbers_;  // by serial number, from the launch's first
    uint16_t epoch_ = 0;
    // seen[a][b]: the latest moment of lane b that lane a has synchronised with.
    struct WarpClocks {
        uint16_t seen[WARP][WARP];
    };
    WarpClocks clocks_[32];
    uintptr_t library_begin_ = 0, library_end_ = 0;
    Counter counter_;
    bool counted_ = false;
};

extern Checker checker;

}  // namespace emulator
