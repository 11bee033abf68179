// The switch between fibers, and the memory of their stacks.
#include "fibers.hpp"

#include <stdlib.h>
#include <sys/mman.h>

#ifndef EMULATOR_SWITCH_UCONTEXT
// void emulator_switch(void** save, void* resume): push what a call must keep, change stacks, pop.
// It jumps to the return address instead of returning: the processor's return predictor would
// expect the caller of the other stack, and be wrong each time.
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
.size emulator_switch, . - emulator_switch
)");
extern "C" void emulator_switch(void** save, void* resume);
#endif

namespace emulator {

void Stacks::reserve(int count) {
    if (!memory_) {  // addresses for all, memory only for what is touched
        void* memory = mmap(nullptr, MOST * STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) abort();
        memory_ = static_cast<char*>(memory);
    }
    for (; count_ < size_t(count); count_++) mprotect(stack(int(count_)), GUARD_BYTES, PROT_NONE);
}

#ifdef EMULATOR_SWITCH_UCONTEXT

void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }

void Stacks::prepare(Context& context, int number, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = stack(number) + GUARD_BYTES;
    context.state.uc_stack.ss_size = STACK_BYTES - GUARD_BYTES;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}

#else

void switch_context(Context& from, Context& to) {
    emulator_switch(&from.stack_pointer, to.stack_pointer);
}

void Stacks::prepare(Context& context, int number, void (*entry)()) {
    // Tops at different offsets, so that the threads' frames spread over the sets of the cache.
    const size_t offset = 64 + size_t(number) * 5 % 64 * 64;
    void** top = reinterpret_cast<void**>(stack(number) + STACK_BYTES - offset);
    *--top = nullptr;                              // where `entry` would return to: never
    *--top = reinterpret_cast<void*>(entry);       // popped last, jumped to
    for (int i = 0; i < 6; i++) *--top = nullptr;  // the six registers
    context.stack_pointer = top;
}

#endif

}  // namespace emulator
