// How a kernel leaves its library: a body that takes pointers to the arguments, and a signature
// that tells the loader what each argument must be.
#pragma once

namespace emulator {

// One parameter: 'p' pointer, 'c' pointer to const, 'i' 'u' 'f' number, 's' struct by value.
struct Parameter {
    char kind;
    uint32_t bytes;
};

template <typename T>
constexpr Parameter parameter() {
    using Pointee = std::remove_pointer_t<T>;
    const char kind = std::is_pointer<T>::value          ? (std::is_const<Pointee>::value ? 'c' : 'p')
                      : std::is_floating_point<T>::value ? 'f'
                      : !std::is_integral<T>::value && !std::is_enum<T>::value ? 's'
                      : std::is_signed<T>::value || std::is_enum<T>::value     ? 'i'
                                                                               : 'u';
    return {kind, uint32_t(sizeof(T))};
}

template <auto F>
struct Kernel;

template <typename... T, void (*F)(T...)>
struct Kernel<F> {
    template <size_t... I>
    EMULATOR_UNWATCHED static void call(void** arguments, std::index_sequence<I...>) {
        F(*static_cast<T*>(arguments[I])...);
    }
    EMULATOR_UNWATCHED static void body(void** arguments) {
        call(arguments, std::index_sequence_for<T...>{});
    }
    static constexpr int parameters = int(sizeof...(T));
    static constexpr Parameter signature[] = {parameter<T>()..., {0, 0}};
};

}  // namespace emulator

#define EMULATOR_PUBLIC extern "C" __attribute__((visibility("default")))
// EMULATOR_EXPORT(0, filter2d<float, 3>): the functions kernel_0 and signature_0.
#define EMULATOR_EXPORT(NUMBER, ...)                                                \
    EMULATOR_PUBLIC EMULATOR_UNWATCHED void kernel_##NUMBER(void** arguments) {     \
        emulator::Kernel<__VA_ARGS__>::body(arguments);                             \
    }                                                                               \
    EMULATOR_PUBLIC EMULATOR_UNWATCHED const emulator::Parameter* signature_##NUMBER() { \
        return emulator::Kernel<__VA_ARGS__>::signature;                            \
    }
