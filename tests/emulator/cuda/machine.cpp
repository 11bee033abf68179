// The scheduler: runs a grid block by block, a block's threads in turn, each until it must wait.
#include "runtime.hpp"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <numeric>

#include "checker.hpp"

namespace emulator {

Machine machine;

namespace {
constexpr size_t ARENA_BYTES = 4 << 20;
constexpr size_t SHARED_ALIGNMENT = 128;  // all banks start over here
constexpr size_t SHARED_GAP = 1024;       // an overrun must not land in the next array

void fiber_main() { machine.thread_main(); }

bool same_text(const char* a, const char* b) { return a == b || strcmp(a, b) == 0; }

// By line where the source told it: a compiler may emit one call twice.
bool same_place(const Place& a, const Place& b) {
    if (a.file && b.file) return a.line == b.line && same_text(a.file, b.file);
    return a.code == b.code;
}

void set_axes(uint32_t* to, uint64_t number, const uint32_t* size) {
    to[0] = uint32_t(number % size[0]);
    to[1] = uint32_t(number / size[0] % size[1]);
    to[2] = uint32_t(number / size[0] / size[1]);
}
}  // namespace

int Machine::run(Launch& wanted, void (*body)(void**), void** arguments) {
    launch = &wanted;
    body_ = body;
    arguments_ = arguments;
    begin_launch();
    if (launch->checked) checker.begin_launch(*launch, uintptr_t(body));
    const uint64_t blocks = uint64_t(launch->grid[0]) * launch->grid[1] * launch->grid[2];
    std::vector<int> sequence(blocks);
    std::iota(sequence.begin(), sequence.end(), 0);
    if (launch->order == Order::Reverse) std::reverse(sequence.begin(), sequence.end());
    if (launch->order == Order::Random) shuffle(sequence);
    {
        SignalGuard guard;
        for (size_t i = 0; i < blocks && !stopped_; i++) {
            block_number = uint32_t(sequence[i]);
            begin_block();
            run_block();
            if (launch->checked) checker.end_block();
        }
    }
    if (stopped_) prepared_ = 0;  // the fibers hang in the middle of the kernel
    if (launch->checked) checker.end_launch();
    launch->shared_bytes = uint32_t(shared_bytes_);
    launch->report_count = uint32_t(reports_.size());
    current = nullptr;
    return int(reports_.size());
}

void Machine::begin_launch() {
    const int count = int(launch->block[0] * launch->block[1] * launch->block[2]);
    if (threads.size() != size_t(count)) {
        threads.clear();
        threads.resize(size_t(count));
        prepared_ = 0;
    }
    stacks.reserve(count);
    for (; prepared_ < count; prepared_++)
        stacks.prepare(threads[size_t(prepared_)].context, prepared_, fiber_main);
    order_.resize(size_t(count));
    std::iota(order_.begin(), order_.end(), 0);
    if (launch->order == Order::Reverse) std::reverse(order_.begin(), order_.end());

    random_ = launch->seed * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull;
    stopped_ = false;
    reports_.clear();
    launch->switches = 0;
    launches_++;
    shared_.clear();
    arena_used_ = shared_bytes_ = 0;
    dynamic_ = nullptr;
    if (!arena_) {
        void* memory = mmap(nullptr, ARENA_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) abort();
        arena_ = static_cast<char*>(memory);
    }
}

void Machine::begin_block() {
    for (const SharedArray& array : shared_) memset(array.memory, int(launch->poison), array.bytes);
    if (launch->checked) checker.begin_block();
    const int count = int(threads.size());
    returned_ = arrived_ = 0;
    memset(counts_, 0, sizeof counts_);
    for (int w = 0; w * WARP < count; w++) {
        warps[w].exists = count - w * WARP >= WARP ? ~0u : (1u << (count - w * WARP)) - 1;
        warps[w].waiting = 0;
        warps[w].lanes.poison = (unsigned char)launch->poison;
    }
    for (int i = 0; i < count; i++) {
        Thread& thread = threads[size_t(i)];
        thread.number = i;
        thread.warp = i / WARP;
        thread.lane = i % WARP;
        thread.activity = Activity::Running;
        thread.place = {};
        thread.copies.clear();
        thread.copy_group = 0;
        set_axes(thread.registers + THREAD_INDEX, uint64_t(i), launch->block);
        set_axes(thread.registers + BLOCK_INDEX, block_number, launch->grid);
        memcpy(thread.registers + BLOCK_SIZE, launch->block, sizeof launch->block);
        memcpy(thread.registers + GRID_SIZE, launch->grid, sizeof launch->grid);
    }
}

// Passes over the threads until all have returned. In a pass each ready thread runs once; the
// threads hand over to each other directly and come back here when the pass is over.
void Machine::run_block() {
    while (!stopped_ && returned_ < int(threads.size())) {
        if (launch->order == Order::Random) shuffle(order_);
        bool any = false;
        for (position_ = 0; position_ < order_.size() && !stopped_; position_++) {
            Thread& thread = threads[size_t(order_[position_])];
            if (thread.activity != Activity::Running) continue;
            any = true;
            resume(thread);
        }
        if (!any && !stopped_) report_deadlock();
    }
}

void Machine::resume(Thread& thread) {
    current = &thread;
    launch->switches++;
    switch_context(scheduler_, thread.context);
    current = nullptr;
}

void Machine::wait() {
    Thread& self = *current;
    while (++position_ < order_.size()) {
        Thread& next = threads[size_t(order_[position_])];
        if (next.activity != Activity::Running) continue;
        if (&next == &self) return;
        current = &next;
        launch->switches++;
        switch_context(self.context, next.context);
        return;
    }
    switch_context(self.context, scheduler_);
}

void Machine::stop() {
    stopped_ = true;
    if (current) switch_context(current->context, scheduler_);
}

// A fiber serves block after block: body, report back, wait for the next.
void Machine::thread_main() {
    for (;;) {
        body_(arguments_);
        Thread& self = *current;
        if (!self.copies.empty()) {
            Report report = {Kind::CopyNotAwaited};
            report.here = actor(self, {self.copies[0].code, nullptr, 0});
            this->report(report, false);
        }
        self.activity = Activity::Returned;
        returned_++;
        wait();
    }
}

void Machine::arrive_at_barrier(int predicate, Place place) {
    Thread& self = *current;
    if (arrived_ && !same_place(barrier_, place)) {
        Report report = {Kind::DivergentBarrier};
        report.here = actor(self, place);
        for (const Thread& other : threads)
            if (other.activity == Activity::AtBarrier) report.there = actor(other, other.place);
        this->report(report, true);
    }
    barrier_ = place;
    counts_[predicate != 0]++;
    self.place = place;
    self.activity = Activity::AtBarrier;
    if (++arrived_ == int(threads.size())) release_barrier();
    wait();  // the last one too: the next pass begins with the order's first
}

void Machine::release_barrier() {
    votes_[int(Vote::Count)] = counts_[1];
    votes_[int(Vote::And)] = counts_[0] == 0;
    votes_[int(Vote::Or)] = counts_[1] > 0;
    memset(counts_, 0, sizeof counts_);
    arrived_ = 0;
    for (Thread& thread : threads) thread.activity = Activity::Running;
    if (launch->checked) checker.barrier_passed();
}

Report Machine::about_warp(Kind kind, const Thread& thread) const {
    Report report = {kind};
    report.mask = thread.mask;
    strncpy(report.name, thread.name, sizeof report.name - 1);
    report.here = actor(thread, thread.place);
    return report;
}

// The caller has filled in its operation. Whoever completes a mask runs it for all its lanes.
void Machine::arrive_in_warp(Place place) {
    Thread& self = *current;
    Warp& warp = warps[self.warp];
    Thread* lanes = &self - self.lane;
    self.place = place;
    if (!(self.mask >> self.lane & 1)) report(about_warp(Kind::NotInMask, self), true);
    self.activity = Activity::InWarp;
    warp.waiting |= 1u << self.lane;

    const uint32_t needed = self.mask & warp.exists;
    bool complete = (warp.waiting & needed) == needed;
    for (int lane = 0; lane < WARP && complete; lane++)
        if (needed >> lane & 1) complete = lanes[lane].mask == self.mask;
    if (!complete) {
        wait();
        return;
    }
    for (int lane = 0; lane < WARP; lane++) {
        if (!(needed >> lane & 1)) continue;
        const bool same =
            lanes[lane].operation == self.operation && same_text(lanes[lane].name, self.name);
        if (same && same_place(lanes[lane].place, place)) continue;
        Report report = about_warp(Kind::DivergentWarp, self);
        report.there = actor(lanes[lane], lanes[lane].place);
        this->report(report, true);
    }
    if (self.operation) {
        const uint32_t absent = self.operation(warp.lanes, needed);
        for (int lane = 0; lane < WARP; lane++)
            if (absent >> lane & 1) report(about_warp(Kind::AbsentLane, lanes[lane]), false);
    } else if (launch->checked) {
        checker.warp_passed(self.warp, needed);
    }
    warp.waiting &= ~needed;
    for (int lane = 0; lane < WARP; lane++)
        if (needed >> lane & 1) lanes[lane].activity = Activity::Running;
    wait();
}

// Nobody can run. Name a thread that waits, and one that it waits for in vain.
void Machine::report_deadlock() {
    Report report = {Kind::MissingAtBarrier};
    const Thread *waiting = nullptr, *missing = nullptr;
    for (const Thread& thread : threads) {
        if (thread.activity != Activity::InWarp) continue;
        const uint32_t needed = thread.mask & warps[thread.warp].exists;
        for (int lane = 0; lane < WARP && !missing; lane++) {
            const Thread& other = threads[size_t(thread.number - thread.lane + lane)];
            if ((needed >> lane & 1) &&
                (other.activity != Activity::InWarp || other.mask != thread.mask))
                missing = &other;
        }
        waiting = &thread;
        report = about_warp(Kind::MissingInWarp, thread);
        break;
    }
    for (const Thread& thread : threads) {
        if (report.kind != Kind::MissingAtBarrier) break;
        if (thread.activity == Activity::AtBarrier && !waiting) waiting = &thread;
        if (thread.activity != Activity::AtBarrier && !missing) missing = &thread;
    }
    if (waiting) report.here = actor(*waiting, waiting->place);
    if (missing) report.there = actor(*missing, missing->place);
    this->report(report, true);
}

void Machine::report(Report report, bool fatal) {
    const auto repeated = [&](const Report& old) {
        return old.kind == report.kind && old.argument == report.argument &&
               same_place(old.here.place, report.here.place) &&
               same_place(old.there.place, report.there.place);
    };
    if (reports_.size() < MOST_REPORTS && std::none_of(reports_.begin(), reports_.end(), repeated))
        reports_.push_back(report);
    if (fatal) stop();
}

Actor Machine::actor(const Thread& thread, Place place) const {
    Actor result = {place, {}, {}, Access::Read, thread.activity};
    memcpy(result.thread, thread.registers + THREAD_INDEX, sizeof result.thread);
    memcpy(result.block, thread.registers + BLOCK_INDEX, sizeof result.block);
    return result;
}

void Machine::shuffle(std::vector<int>& numbers) {
    for (size_t i = numbers.size(); i > 1; i--) {
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        random_ ^= random_ << 17;
        std::swap(numbers[i - 1], numbers[(random_ >> 32) % i]);
    }
}

// Arrays keep their memory for the whole launch; every block finds it poisoned again.
char* Machine::allocate_shared(const char* name, size_t bytes, size_t element_bytes) {
    const size_t whole = (bytes + SHARED_ALIGNMENT - 1) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
    shared_bytes_ += (bytes + 15) / 16 * 16;
    if (shared_bytes_ > launch->shared_limit || arena_used_ + whole + SHARED_GAP > ARENA_BYTES) {
        Report report = {Kind::SharedTooLarge};
        report.bytes = shared_bytes_;
        report.array_bytes = launch->shared_limit;
        strncpy(report.name, name, sizeof report.name - 1);
        if (current) report.here = actor(*current, {});
        this->report(report, true);
    }
    arena_used_ += SHARED_GAP;
    char* memory = arena_ + arena_used_;
    arena_used_ += whole;
    memset(memory, int(launch->poison), bytes);
    shared_.push_back({memory, bytes});
    if (launch->checked) checker.add_shared(name, memory, bytes, element_bytes);
    return memory;
}

void* Machine::shared_array(SharedSite& site, const char* name, size_t bytes,
                            size_t element_bytes) {
    if (site.launch != launches_) {
        site.memory = allocate_shared(name, bytes, element_bytes);
        site.launch = launches_;
    }
    return site.memory;
}

void* Machine::dynamic_shared(const char* name, size_t element_bytes) {
    if (!dynamic_) dynamic_ = allocate_shared(name, launch->dynamic_bytes, element_bytes);
    return dynamic_;
}

}  // namespace emulator
