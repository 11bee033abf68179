// How well a warp's accesses fit the memory: bank conflicts and coalescing.
//
// Threads of a warp run one after the other here; which of their accesses a GPU would have made at
// once is worked out afterwards. The count build tells every step of a thread from one stretch of
// code to the next, and a warp's steps are replayed with the rule that lanes at the lowest code
// address go first: who has left a loop waits behind it for the others, who has not entered a
// branch waits at its end. That is how lanes come together again where code lies in the order of
// its source, as the count build has it. Lanes at one access then make one request.
//
// A shared request costs a wavefront for every pass over the 32 banks of 4 bytes (quarter or half
// warps at a time for 16- and 8-byte accesses); a global one costs the 32-byte sectors it touches.
#pragma once
#include <map>
#include <tuple>
#include <vector>

#include "launch.hpp"

namespace emulator {

class Counter {
public:
    void begin_launch(size_t threads);
    // Thread `thread` comes to another stretch of code.
    void step(int thread, uint64_t code) { events_[size_t(thread)].push_back({code, 0, 0, {}, {}}); }
    void add(int thread, uint64_t code, uintptr_t address, size_t bytes, Access access,
             bool shared) {
        events_[size_t(thread)].push_back({code, address, uint32_t(bytes), access, shared});
    }
    // After a barrier, or at the end of a block: work out the requests so far.
    void settle();
    const std::vector<AccessCount>& counts() const { return counts_; }

private:
    struct Event {
        uint64_t code;
        uintptr_t address;
        uint32_t bytes;  // 0: a step
        Access access;
        bool shared;
    };
    struct Touch {
        int lane;
        Event event;
    };
    void replay_warp(size_t first_thread);
    void count_request(const std::vector<Touch>& request);

    std::vector<std::vector<Event>> events_;  // by thread
    std::map<std::tuple<uint64_t, bool, Access, size_t>, size_t> places_;
    std::vector<AccessCount> counts_;
};

}  // namespace emulator
