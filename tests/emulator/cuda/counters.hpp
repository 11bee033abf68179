// How well a warp's accesses fit the memory: bank conflicts and coalescing.
//
// The accesses of one warp from one place in the code form a request when they are each thread's
// n-th there since the last barrier. A shared request costs a wavefront for every pass over the
// 32 banks of 4 bytes (quarter or half warps at a time for 16- and 8-byte accesses); a global one
// costs the 32-byte sectors that it touches. Threads that skip a turn of a loop are matched with
// the wrong turn of others: counts are exact where a warp does not diverge.
#pragma once
#include <map>
#include <tuple>
#include <vector>

#include "launch.hpp"

namespace emulator {

class Counter {
public:
    void begin_launch();
    void add(uint64_t code, int thread, uintptr_t address, size_t bytes, Access access, bool shared);
    // After a barrier, or at the end of a block: work out the requests so far.
    void settle();
    const std::vector<AccessCount>& counts() const { return counts_; }

private:
    struct Touch {
        uint64_t code;
        uintptr_t address;
        uint32_t bytes, turn;
        uint16_t thread;
        Access access;
        bool shared;
        auto request() const { return std::make_tuple(thread / WARP, code, turn); }
    };
    void count_request(const Touch* first, const Touch* last);

    std::vector<Touch> touches_;
    std::map<std::tuple<uint64_t, bool, Access, size_t>, size_t> places_;
    std::vector<AccessCount> counts_;
};

}  // namespace emulator
