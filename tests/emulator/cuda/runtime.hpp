// The runtime's own view: the threads of the running block, the scheduler, the report list.
#pragma once
#include <vector>

#include "fibers.hpp"
#include "launch.hpp"

namespace emulator {

struct Copy {
    void* shared;
    const void* global;
    size_t bytes, given;
    int group;
    uint64_t code;
};

struct Thread {
    Context context;
    uint32_t registers[REGISTERS];
    int number, warp, lane;
    Activity activity;
    Place place;  // where it waits
    // The warp operation it waits in.
    const char* name;
    WarpOperation operation;
    uint32_t mask;
    // cp.async not yet waited for, and the group that the next one joins.
    std::vector<Copy> copies;
    int copy_group;
};

struct Warp {
    uint32_t exists, waiting;
    Exchange lanes;
};

class Machine {
public:
    int run(Launch& launch, void (*body)(void**), void** arguments);

    // Let others run until this thread is ready again.
    void wait();
    // Give up the launch: nothing of it runs any more. Called from a fiber it does not return.
    void stop();
    void thread_main();
    void arrive_at_barrier(int predicate, Place place);
    int vote(Vote which) const { return votes_[int(which)]; }
    void arrive_in_warp(Place place);

    // Add a report unless one of the same kind and places is there. `fatal` ends the launch.
    void report(Report report, bool fatal);
    Actor actor(const Thread& thread, Place place) const;
    const std::vector<Report>& reports() const { return reports_; }

    void* shared_array(SharedSite& site, const char* name, size_t bytes, size_t element_bytes);
    void* dynamic_shared(const char* name, size_t element_bytes);

    Thread* current = nullptr;  // null: the scheduler runs
    Launch* launch = nullptr;
    std::vector<Thread> threads;  // of the block
    Warp warps[32];
    Stacks stacks;
    uint32_t block_number = 0;

private:
    struct SharedArray {
        char* memory;
        size_t bytes;
    };
    void begin_launch();
    void begin_block();
    void run_block();
    void resume(Thread& thread);
    void release_barrier();
    void report_deadlock();
    Report about_warp(Kind kind, const Thread& thread) const;
    void shuffle(std::vector<int>& numbers);
    char* allocate_shared(const char* name, size_t bytes, size_t element_bytes);

    static constexpr size_t MOST_REPORTS = 64;
    void (*body_)(void**) = nullptr;
    void** arguments_ = nullptr;
    Context scheduler_;
    bool stopped_ = false;
    int prepared_ = 0;
    std::vector<int> order_;
    size_t position_ = 0;
    int returned_ = 0, arrived_ = 0;
    int counts_[3] = {}, votes_[3] = {};
    Place barrier_ = {};
    uint64_t random_ = 1, launches_ = 0;
    std::vector<Report> reports_;
    std::vector<SharedArray> shared_;
    char* arena_ = nullptr;
    size_t arena_used_ = 0, shared_bytes_ = 0;
    char* dynamic_ = nullptr;
};

extern Machine machine;

// Catches what would end the process while a kernel runs; see signals.cpp.
class SignalGuard {
public:
    SignalGuard();
    ~SignalGuard();
};

}  // namespace emulator
