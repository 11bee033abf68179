// A plain build checks nothing: a wild pointer or a division by zero there is a signal. While a
// launch runs, such a signal becomes a report instead of the end of the process.
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "runtime.hpp"

namespace emulator {

namespace {
constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
constexpr int COUNT = 3;
struct sigaction old_actions[COUNT];
stack_t old_stack;
pthread_t launching;  // other threads of the process may meet signals of their own
char handler_stack[64 * 1024];  // the fiber's own may be what overflowed

uint64_t interrupted_code(const void* context) {
    const auto& registers = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
    return uint64_t(registers.gregs[REG_RIP]);
#elif defined(__aarch64__)
    return registers.pc;
#else
    return (void)registers, 0;
#endif
}

void handle(int number, siginfo_t*, void* context) {
    if (!machine.current || !pthread_equal(launching, pthread_self())) {
        // Not the kernel's: let it happen again, to whoever had it before.
        for (int i = 0; i < COUNT; i++)
            if (SIGNALS[i] == number) sigaction(number, &old_actions[i], nullptr);
        return;
    }
    Report report = {Kind::Crashed};
    report.bytes = uint64_t(number);
    // One further: places are looked up one byte back, as for the address after a call.
    report.here = machine.actor(*machine.current, {interrupted_code(context) + 1, nullptr, 0});
    machine.report(report, true);
}
}  // namespace

SignalGuard::SignalGuard() {
    stack_t stack = {};
    stack.ss_sp = handler_stack;
    stack.ss_size = sizeof handler_stack;
    sigaltstack(&stack, &old_stack);
    launching = pthread_self();
    struct sigaction action = {};
    action.sa_sigaction = handle;
    // Not blocked while handled: the handler leaves by switching to the scheduler.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < COUNT; i++) sigaction(SIGNALS[i], &action, &old_actions[i]);
}

SignalGuard::~SignalGuard() {
    for (int i = 0; i < COUNT; i++) sigaction(SIGNALS[i], &old_actions[i], nullptr);
    sigaltstack(&old_stack, nullptr);
}

}  // namespace emulator
