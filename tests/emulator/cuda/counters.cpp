// Replays the steps of a warp's lanes, gathers their accesses into requests and counts the cost.
#include "counters.hpp"

#include <algorithm>

namespace emulator {

namespace {
constexpr uintptr_t BANKS = 32, WORD = 4, SECTOR = 32;

size_t distinct(std::vector<uintptr_t>& numbers) {
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
    return numbers.size();
}

void add_units(std::vector<uintptr_t>& units, uintptr_t address, size_t bytes, uintptr_t unit) {
    for (uintptr_t u = address / unit; u <= (address + bytes - 1) / unit; u++) units.push_back(u);
}
}  // namespace

void Counter::begin_launch(size_t threads) {
    events_.assign(threads, {});
    places_.clear();
    counts_.clear();
}

void Counter::settle() {
    for (size_t first = 0; first < events_.size(); first += WARP) replay_warp(first);
    for (auto& events : events_) events.clear();
}

void Counter::replay_warp(size_t first_thread) {
    const int lanes = int(std::min<size_t>(WARP, events_.size() - first_thread));
    size_t next[WARP] = {};
    std::vector<Touch> request;
    for (;;) {
        uint64_t lowest = UINT64_MAX;
        for (int lane = 0; lane < lanes; lane++) {
            const auto& events = events_[first_thread + size_t(lane)];
            if (next[lane] < events.size()) lowest = std::min(lowest, events[next[lane]].code);
        }
        if (lowest == UINT64_MAX) return;
        request.clear();
        for (int lane = 0; lane < lanes; lane++) {
            const auto& events = events_[first_thread + size_t(lane)];
            if (next[lane] == events.size() || events[next[lane]].code != lowest) continue;
            const Event& event = events[next[lane]++];
            if (event.bytes) request.push_back({lane, event});
        }
        if (!request.empty()) count_request(request);
    }
}

void Counter::count_request(const std::vector<Touch>& request) {
    const Event& event = request[0].event;
    const auto key = std::make_tuple(event.code, event.shared, event.access, size_t(event.bytes));
    const auto found = places_.emplace(key, counts_.size());
    if (found.second)
        counts_.push_back({event.code, event.shared, event.access, event.bytes, 0, 0, 0});
    AccessCount& count = counts_[found.first->second];
    count.requests++;

    std::vector<uintptr_t> units;
    if (!event.shared) {
        for (const Touch& t : request) add_units(units, t.event.address, t.event.bytes, 1);
        count.ideal += (distinct(units) + SECTOR - 1) / SECTOR;
        units.clear();
        for (const Touch& t : request) add_units(units, t.event.address, t.event.bytes, SECTOR);
        count.transactions += distinct(units);
        return;
    }
    // 16 bytes a thread: eight lanes already fill the banks.
    const int lanes_at_once =
        int(std::min<uintptr_t>(WARP, BANKS * WORD / std::max<uintptr_t>(event.bytes, WORD)));
    for (int lane = 0; lane < WARP; lane += lanes_at_once) {
        units.clear();
        for (const Touch& t : request)
            if (t.lane / lanes_at_once == lane / lanes_at_once)
                add_units(units, t.event.address, t.event.bytes, WORD);
        if (units.empty()) continue;
        const size_t words = distinct(units);
        int in_bank[BANKS] = {};
        int most = 0;
        for (uintptr_t word : units) most = std::max(most, ++in_bank[word % BANKS]);
        count.transactions += uint64_t(most);
        count.ideal += (words + BANKS - 1) / BANKS;
    }
}

}  // namespace emulator
