// The rules that every access is held to; checker.hpp tells what is remembered and why.
#include "checker.hpp"

#include <link.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

namespace emulator {

Checker checker;

namespace {
// The addresses of the library that holds `inside`: its constant tables may be read.
struct LibrarySearch {
    uintptr_t inside, begin, end;
};
int look_at_library(dl_phdr_info* info, size_t, void* data) {
    auto& search = *static_cast<LibrarySearch*>(data);
    uintptr_t end = info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD)
            end = std::max<uintptr_t>(
                end, info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz);
    if (search.inside < info->dlpi_addr || search.inside >= end) return 0;
    search.begin = info->dlpi_addr;
    search.end = end;
    return 1;
}
}  // namespace

void Checker::begin_launch(const Launch& launch, uintptr_t kernel) {
    LibrarySearch search = {kernel, 0, 0};
    dl_iterate_phdr(look_at_library, &search);
    library_begin_ = search.begin;
    library_end_ = search.end;
    first_serial_ = serial_ + 1;
    block_numbers_.clear();
    counted_ = launch.counted;
    counter_.begin_launch(machine.threads.size());
    for (uint32_t i = 0; i < launch.array_count; i++) {
        const GlobalArray& array = launch.arrays[i];
        add({array.address, array.address + array.bytes, array.argument, array.read_only != 0,
             array.valid, nullptr, "", array.element_bytes});
    }
}

void Checker::end_launch() {
    for (Region& region : regions_) {
        free(region.cells);
        free(region.states);
    }
    regions_.clear();
    last_ = 0;
}

// Cells as fine as the elements, but not coarser than a word: an image of bytes is written byte
// by byte by different threads, an access to part of a word is told apart by Record::bytes.
void Checker::add(Region region) {
    region.shift = region.element_bytes >= 4 ? 2 : region.element_bytes >= 2 ? 1 : 0;
    if (!region.read_only) {
        const size_t cells = ((region.end - region.begin) >> region.shift) + 2;
        region.cells = static_cast<Cell*>(calloc(cells, sizeof(Cell)));
    }
    regions_.push_back(region);
}

void Checker::add_shared(const char* name, char* memory, size_t bytes, size_t element_bytes) {
    auto* states = static_cast<ByteState*>(calloc(bytes + 1, sizeof(ByteState)));
    add({uintptr_t(memory), uintptr_t(memory) + bytes, SHARED_ARRAY_NUMBER, false, nullptr, states,
         name, uint32_t(element_bytes)});
}

void Checker::begin_block() {
    serial_++;
    block_numbers_.push_back(machine.block_number);
    epoch_ = 0;
    for (Region& region : regions_)
        if (region.states) memset(region.states, 0, region.end - region.begin);
    const size_t warps = (machine.threads.size() + WARP - 1) / WARP;
    memset(clocks_, 0, warps * sizeof clocks_[0]);
    for (size_t w = 0; w < warps; w++)
        for (int lane = 0; lane < WARP; lane++) clocks_[w].seen[lane][lane] = 1;
}

void Checker::end_block() {
    if (counted_) counter_.settle();
}

void Checker::barrier_passed() {
    if (counted_) counter_.settle();
    if (++epoch_ == UINT16_MAX) machine.report({Kind::TooManyBarriers}, true);
}

// All lanes of the mask now know what each of them knew; what they do next is a new moment.
void Checker::warp_passed(int warp, uint32_t mask) {
    auto& seen = clocks_[warp].seen;
    uint16_t latest[WARP] = {};
    for (int lane = 0; lane < WARP; lane++)
        for (int other = 0; other < WARP && (mask >> lane & 1); other++)
            latest[other] = std::max(latest[other], seen[lane][other]);
    for (int lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        memcpy(seen[lane], latest, sizeof latest);
        if (++seen[lane][lane] == UINT16_MAX) machine.report({Kind::TooManyBarriers}, true);
    }
}

void Checker::access(uintptr_t address, size_t bytes, size_t alignment, Access access,
                     uintptr_t code) {
    if (!machine.current) return;
    if (machine.stacks.holds(machine.current->number, address)) return;  // its own variables
    Region* region = find(address, bytes, alignment, access, code);
    if (!region) return;
    const size_t offset = address - region->begin;
    if (counted_)
        counter_.add(machine.current->number, code, address, bytes, access, region->states);
    if (region->states) check_states(*region, offset, bytes, access, code);
    if (region->cells) check_races(*region, offset, bytes, access, code);
}

// The array that holds the access; null for memory that is nobody's business. Does not return
// where a GPU would stop the kernel.
Region* Checker::find(uintptr_t address, size_t bytes, size_t alignment, Access access,
                      uintptr_t code) {
    Region* region = nullptr;
    const auto holds = [&](size_t i) {
        return address >= regions_[i].begin && address < regions_[i].end;
    };
    if (last_ < regions_.size() && holds(last_)) region = &regions_[last_];
    for (size_t i = 0; i < regions_.size() && !region; i++)
        if (holds(i)) region = &regions_[last_ = i];
    if (!region) {
        if (address >= library_begin_ && address < library_end_) return nullptr;
        if (machine.stacks.any_holds(address))
            machine.report(about(Kind::OtherStack, nullptr, 0, bytes, access, code), true);
        const Region* nearest = nullptr;
        uintptr_t least = 1 << 20;
        for (const Region& other : regions_) {
            const uintptr_t distance =
                address >= other.end ? address - other.end : other.begin - address;
            if (distance < least) nearest = &other, least = distance;
        }
        const int64_t offset = nearest ? int64_t(address - nearest->begin) : int64_t(address);
        machine.report(about(Kind::OutOfBounds, nearest, offset, bytes, access, code), true);
    }
    const int64_t offset = int64_t(address - region->begin);
    bool inside = address + bytes <= region->end;
    for (size_t i = 0; i < bytes && inside && region->valid; i++)
        inside = region->valid[size_t(offset) + i];
    if (!inside)
        machine.report(about(Kind::OutOfBounds, region, offset, bytes, access, code), true);
    if (address % alignment)
        machine.report(about(Kind::Misaligned, region, offset, bytes, access, code), true);
    if (region->read_only && access != Access::Read)
        machine.report(about(Kind::WriteToConst, region, offset, bytes, access, code), false);
    return region;
}

void Checker::check_states(Region& region, size_t offset, size_t bytes, Access access,
                           uintptr_t code) {
    for (size_t i = offset; i < offset + bytes; i++) {
        const ByteState state = region.states[i];
        if (state == ByteState::InFlight) {
            Report report = about(Kind::CopyInFlight, &region, int64_t(i), bytes, access, code);
            report.there = actor(region.cells[i >> region.shift].write, Access::Write);
            machine.report(report, false);
        } else if (state == ByteState::Uninitialised && access != Access::Write) {
            machine.report(about(Kind::Uninitialised, &region, int64_t(i), bytes, access, code),
                           false);
        } else {
            continue;
        }
        break;
    }
    if (access != Access::Read) memset(region.states + offset, int(ByteState::Initialised), bytes);
}

bool Checker::ordered(const Record& past, const Record& now, bool shared) const {
    if (past.block != now.block) return past.block < first_serial_ || shared;
    if (past.thread == now.thread || past.epoch < now.epoch) return true;
    if (past.thread / WARP != now.thread / WARP) return false;
    return past.clock <= clocks_[now.thread / WARP].seen[now.thread % WARP][past.thread % WARP];
}

void Checker::check_races(Region& region, size_t offset, size_t bytes, Access access,
                          uintptr_t code) {
    const int me = machine.current->number, lane = me % WARP;
    Record now = {uint32_t(code - library_begin_),
                  serial_,
                  epoch_,
                  clocks_[me / WARP].seen[lane][lane],
                  uint16_t(me),
                  0,
                  access == Access::Atomic};
    const size_t size = size_t(1) << region.shift;
    for (size_t start = offset; start < offset + bytes;) {
        const size_t index = start >> region.shift, cell_begin = index << region.shift;
        const size_t stop = std::min(cell_begin + size, offset + bytes);
        now.bytes = uint8_t(((1u << (stop - start)) - 1) << (start - cell_begin));
        Cell& cell = region.cells[index];
        const auto races = [&](const Record& past) {
            return past.block && (past.bytes & now.bytes) && !(past.atomic && now.atomic) &&
                   !ordered(past, now, region.states);
        };
        if (races(cell.write))
            report_race(region, start, bytes, access, cell.write, Access::Write, code);
        if (access == Access::Read) {
            Record(&reads)[3] = cell.reads;
            if (reads[0].thread != now.thread || reads[0].block != now.block) {
                const bool same_warp =
                    reads[0].block == now.block && reads[0].thread / WARP == now.thread / WARP;
                reads[same_warp ? 1 : 2] = reads[0];
                if (!same_warp) reads[1] = {};
            }
            reads[0] = now;
        } else {
            for (const Record& read : cell.reads)
                if (races(read)) {
                    report_race(region, start, bytes, access, read, Access::Read, code);
                    break;
                }
            cell.write = now;
        }
        start = stop;
    }
}

void Checker::report_race(const Region& region, size_t offset, size_t bytes, Access access,
                          const Record& past, Access past_access, uintptr_t code) {
    Report report = about(Kind::Race, &region, int64_t(offset), bytes, access, code);
    report.there = actor(past, past.atomic ? Access::Atomic : past_access);
    machine.report(report, false);
}

Report Checker::about(Kind kind, const Region* region, int64_t offset, size_t bytes, Access access,
                      uintptr_t code) const {
    Report report = {kind};
    report.offset = offset;
    report.bytes = bytes;
    if (region) {
        report.argument = region->argument;
        report.array_bytes = region->end - region->begin;
        report.element_bytes = region->element_bytes;
        strncpy(report.name, region->name, sizeof report.name - 1);
    }
    report.here = machine.actor(*machine.current, {code, nullptr, 0});
    report.here.access = access;
    return report;
}

// The thread and block behind a remembered access.
Actor Checker::actor(const Record& past, Access access) const {
    const uint32_t number = block_numbers_[past.block - first_serial_];
    Actor result =
        machine.actor(machine.threads[past.thread], {library_begin_ + past.code, nullptr, 0});
    const uint32_t* grid = machine.launch->grid;
    result.block[0] = number % grid[0];
    result.block[1] = number / grid[0] % grid[1];
    result.block[2] = number / grid[0] / grid[1];
    result.access = access;
    return result;
}

void Checker::copy_issued(const Copy& copy) {
    const auto shared = uintptr_t(copy.shared);
    access(shared, copy.bytes, copy.bytes, Access::Write, copy.code);
    if (copy.given) access(uintptr_t(copy.global), copy.given, copy.bytes, Access::Read, copy.code);
    for (Region& region : regions_)
        if (region.states && shared >= region.begin && shared < region.end)
            memset(region.states + (shared - region.begin), int(ByteState::InFlight), copy.bytes);
}

void Checker::copy_done(const Copy& copy) {
    Region* region = find(uintptr_t(copy.shared), copy.bytes, 1, Access::Write, copy.code);
    if (!region || !region->states) return;
    const size_t offset = uintptr_t(copy.shared) - region->begin;
    memset(region->states + offset, int(ByteState::Initialised), copy.bytes);
    check_races(*region, offset, copy.bytes, Access::Write, copy.code);
}

}  // namespace emulator
