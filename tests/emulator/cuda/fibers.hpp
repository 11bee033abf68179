// One stack per CUDA thread, and the switch from one to another.
//
// x86-64 saves the six registers that a call must keep, by hand: some nanoseconds. Any other
// processor, or -DEMULATOR_UCONTEXT, goes through ucontext: slower, the same meaning.
#pragma once
#include <stddef.h>
#include <stdint.h>
#if !defined(__x86_64__) || defined(EMULATOR_UCONTEXT)
#define EMULATOR_SWITCH_UCONTEXT 1
#include <ucontext.h>
#endif

namespace emulator {

// What a suspended thread of execution needs to go on.
struct Context {
#ifdef EMULATOR_SWITCH_UCONTEXT
    ucontext_t state;
#else
    void* stack_pointer;
#endif
};

// Suspend the running context into `from` and go on with `to`.
void switch_context(Context& from, Context& to);

// The stacks of all fibers, side by side, each with a page below it that must not be touched.
class Stacks {
public:
    static constexpr size_t STACK_BYTES = 256 * 1024;
    static constexpr size_t GUARD_BYTES = 4096;

    // Room for `count` stacks; those that exist stay where they are.
    void reserve(int count);
    // Make `context` start in `entry` on stack `number` when it is switched to.
    void prepare(Context& context, int number, void (*entry)());
    bool holds(int number, uintptr_t address) const {
        return address - uintptr_t(stack(number)) < STACK_BYTES;
    }
    bool any_holds(uintptr_t address) const {
        return address - uintptr_t(memory_) < count_ * STACK_BYTES;
    }

private:
    static constexpr int MOST = 1024;
    char* stack(int number) const { return memory_ + size_t(number) * STACK_BYTES; }
    char* memory_ = nullptr;
    size_t count_ = 0;
};

}  // namespace emulator
