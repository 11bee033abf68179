// The functions that kernels and the compiler call, and those that Python calls.
#include <dlfcn.h>
#include <string.h>

#include "checker.hpp"
#include "runtime.hpp"

namespace emulator {

namespace {
// Where the kernel called from. Only inside a function that the kernel calls directly.
#define CALLER uint64_t(__builtin_return_address(0))

Place place(uint64_t code, Site site) { return {code, site.file, site.line}; }

void join_warp(const char* name, uint32_t mask, WarpOperation operation, Place place) {
    Thread& self = *machine.current;
    self.name = name;
    self.mask = mask;
    self.operation = operation;
    machine.arrive_in_warp(place);
}

void perform(const Copy& copy) {
    if (machine.launch->checked) checker.copy_done(copy);
    memcpy(copy.shared, copy.global, copy.given);
    memset(static_cast<char*>(copy.shared) + copy.given, 0, copy.bytes - copy.given);
}

void require_aligned(const void* address, size_t bytes, uint64_t code) {
    if (uintptr_t(address) % bytes == 0) return;
    Report report = {Kind::Misaligned};
    report.bytes = bytes;
    report.here = machine.actor(*machine.current, {code, nullptr, 0});
    machine.report(report, true);
}
}  // namespace

unsigned register_value(int which) { return machine.current->registers[which]; }
int lane_index() { return machine.current->lane; }

int block_barrier(int predicate, Vote vote, Site site) {
    machine.arrive_at_barrier(predicate, place(CALLER, site));
    return machine.vote(vote);
}

void warp_collective(const char* name, uint32_t mask, WarpOperation operation, const void* in,
                     size_t in_bytes, void* out, size_t out_bytes, Site site) {
    Thread& self = *machine.current;
    Exchange& lanes = machine.warps[self.warp].lanes;
    memcpy(lanes.in[self.lane], in, in_bytes);
    join_warp(name, mask, operation, place(CALLER, site));
    memcpy(out, lanes.out[self.lane], out_bytes);
}

void warp_barrier(uint32_t mask, Site site) {
    join_warp("__syncwarp", mask, nullptr, place(CALLER, site));
}

uint32_t active_lanes() {
    const Thread& self = *machine.current;
    uint32_t mask = 0;
    for (int lane = 0; lane < WARP; lane++) {
        const size_t number = size_t(self.warp * WARP + lane);
        if (number < machine.threads.size() &&
            machine.threads[number].activity != Activity::Returned)
            mask |= 1u << lane;
    }
    return mask;
}

void* shared_array(SharedSite& site, const char* name, size_t bytes, size_t element_bytes) {
    return machine.shared_array(site, name, bytes, element_bytes);
}
void* dynamic_shared(const char* name, size_t element_bytes) {
    return machine.dynamic_shared(name, element_bytes);
}

void watch(const void* address, size_t bytes, Access access) {
    checker.access(uintptr_t(address), bytes, bytes, access, CALLER);
}

void read_matrix_row(void* to, const void* row) {
    const uint64_t code = CALLER;
    require_aligned(row, 16, code);
    if (machine.launch->checked) checker.access(uintptr_t(row), 16, 16, Access::Read, code);
    memcpy(to, row, 16);
}

void copy_async(void* shared, const void* global, size_t bytes, size_t given) {
    Thread& self = *machine.current;
    const Copy copy = {shared, global, bytes, given, self.copy_group, CALLER};
    require_aligned(shared, bytes, copy.code);
    if (given) require_aligned(global, bytes, copy.code);
    if (machine.launch->checked) checker.copy_issued(copy);
    if (machine.launch->early_copies) {
        memcpy(shared, global, given);
        memset(static_cast<char*>(shared) + given, 0, bytes - given);
    }
    self.copies.push_back(copy);
}
void commit_copies() { machine.current->copy_group++; }

// Groups are counted from the last committed one; copies never committed are not waited for.
void wait_copies(int groups_left) {
    Thread& self = *machine.current;
    std::vector<Copy> later;
    for (const Copy& copy : self.copies) {
        if (copy.group >= self.copy_group - groups_left)
            later.push_back(copy);
        else
            perform(copy);
    }
    self.copies.swap(later);
}

}  // namespace emulator

// What -fsanitize=thread makes the compiler call before every access. libtsan is not linked: these
// are the whole of it. The "unaligned" ones and the ranges are structs that the type itself allows
// at any multiple of its members' size.
#define EMULATOR_CALLBACK(NAME, BYTES, ALIGNMENT, ACCESS)                                        \
    extern "C" void NAME(void* address) {                                                        \
        emulator::checker.access(uintptr_t(address), BYTES, ALIGNMENT, emulator::Access::ACCESS, \
                                 CALLER);                                                        \
    }
#define EMULATOR_CALLBACKS(BYTES)                                   \
    EMULATOR_CALLBACK(__tsan_read##BYTES, BYTES, BYTES, Read)       \
    EMULATOR_CALLBACK(__tsan_write##BYTES, BYTES, BYTES, Write)     \
    EMULATOR_CALLBACK(__tsan_unaligned_read##BYTES, BYTES, 1, Read) \
    EMULATOR_CALLBACK(__tsan_unaligned_write##BYTES, BYTES, 1, Write)
EMULATOR_CALLBACKS(1)
EMULATOR_CALLBACKS(2)
EMULATOR_CALLBACKS(4)
EMULATOR_CALLBACKS(8)
EMULATOR_CALLBACKS(16)
extern "C" void __tsan_read_range(void* address, unsigned long bytes) {
    emulator::checker.access(uintptr_t(address), bytes, 1, emulator::Access::Read, CALLER);
}
extern "C" void __tsan_write_range(void* address, unsigned long bytes) {
    emulator::checker.access(uintptr_t(address), bytes, 1, emulator::Access::Write, CALLER);
}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
// And what -fsanitize-coverage=trace-pc makes it call in every stretch of code: the count build.
extern "C" void __sanitizer_cov_trace_pc() { emulator::checker.step(CALLER); }

// Python's side; one launch at a time.
extern "C" int emulator_launch(emulator::Launch* launch, void (*body)(void**), void** arguments) {
    const int reports = emulator::machine.run(*launch, body, arguments);
    launch->count_count = emulator::checker.counts().size();
    return reports;
}
extern "C" const emulator::Report* emulator_reports() { return emulator::machine.reports().data(); }
extern "C" const emulator::AccessCount* emulator_counts() {
    return emulator::checker.counts().data();
}
// The library that holds a code address: its file and where it was loaded.
extern "C" const char* emulator_library(uint64_t code, uint64_t* base) {
    Dl_info info;
    if (!dladdr(reinterpret_cast<void*>(code), &info)) return nullptr;
    *base = uint64_t(info.dli_fbase);
    return info.dli_fname;
}
