// Groups accesses into the requests of warps and counts what each costs.
#include "counters.hpp"

#include <algorithm>
#include <unordered_map>

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

void Counter::begin_launch() {
    touches_.clear();
    places_.clear();
    counts_.clear();
}

void Counter::add(uint64_t code, int thread, uintptr_t address, size_t bytes, Access access,
                  bool shared) {
    touches_.push_back({code, address, uint32_t(bytes), 0, uint16_t(thread), access, shared});
}

void Counter::settle() {
    std::unordered_map<uint64_t, uint32_t> turns;
    for (Touch& touch : touches_) touch.turn = turns[touch.code << 10 | touch.thread]++;
    std::sort(touches_.begin(), touches_.end(), [](const Touch& a, const Touch& b) {
        return std::make_tuple(a.request(), a.thread) < std::make_tuple(b.request(), b.thread);
    });
    const Touch* end = touches_.data() + touches_.size();
    for (const Touch* first = touches_.data(); first < end;) {
        const Touch* last = first;
        while (last < end && last->request() == first->request()) last++;
        count_request(first, last);
        first = last;
    }
    touches_.clear();
}

void Counter::count_request(const Touch* first, const Touch* last) {
    const auto key = std::make_tuple(first->code, first->shared, first->access, size_t(first->bytes));
    const auto found = places_.emplace(key, counts_.size());
    if (found.second)
        counts_.push_back({first->code, first->shared, first->access, first->bytes, 0, 0, 0});
    AccessCount& count = counts_[found.first->second];
    count.requests++;

    std::vector<uintptr_t> units;
    if (!first->shared) {
        for (const Touch* t = first; t < last; t++) add_units(units, t->address, t->bytes, 1);
        count.ideal += (distinct(units) + SECTOR - 1) / SECTOR;
        units.clear();
        for (const Touch* t = first; t < last; t++) add_units(units, t->address, t->bytes, SECTOR);
        count.transactions += distinct(units);
        return;
    }
    // 16 bytes a thread: eight lanes already fill the banks.
    const int lanes_at_once = int(std::min<uintptr_t>(WARP, BANKS * WORD / std::max<uintptr_t>(first->bytes, WORD)));
    for (int lane = 0; lane < WARP; lane += lanes_at_once) {
        units.clear();
        for (const Touch* t = first; t < last; t++)
            if (t->thread % WARP / lanes_at_once == lane / lanes_at_once)
                add_units(units, t->address, t->bytes, WORD);
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
