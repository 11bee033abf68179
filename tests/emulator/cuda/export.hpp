// How a kernel leaves its library: a body that takes pointers to the arguments, and a signature
// that tells the loader what each argument must be.
#pragma once

namespace emulator {

// One parameter: 'p' pointer, 'c' pointer to const, 'i' 'u' 'f' number, 's' struct by value.
// Of a pointer: the bytes of what it points to, and whether that is a number; 0 for void.
struct Parameter {
    char kind;
    uint8_t to_number;
    uint32_t bytes, element_bytes;
};

template <typename T>
constexpr uint32_t bytes_of() {
    if constexpr (std::is_void<T>::value)
        return 0;
    else
        return sizeof(T);
}

template <typename T>
constexpr Parameter parameter() {
    if constexpr (std::is_pointer<T>::value) {
        using Element = std::remove_pointer_t<T>;
        return {std::is_const<Element>::value ? 'c' : 'p', std::is_arithmetic<Element>::value,
                sizeof(T), bytes_of<Element>()};
    } else {
        constexpr bool is_integer = std::is_integral<T>::value || std::is_enum<T>::value;
        constexpr char kind = std::is_floating_point<T>::value ? 'f'
                              : !is_integer                    ? 's'
                              : std::is_unsigned<T>::value     ? 'u'
                                                               : 'i';
        return {kind, 0, sizeof(T), 0};
    }
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
    static constexpr Parameter signature[] = {parameter<T>()..., {0, 0, 0, 0}};
};

}  // namespace emulator

#define EMULATOR_PUBLIC extern "C" __attribute__((visibility("default")))
// EMULATOR_EXPORT(0, filter2d<float, 3>): the functions kernel_0 and signature_0.
#define EMULATOR_EXPORT(NUMBER, ...)                                                     \
    EMULATOR_PUBLIC EMULATOR_UNWATCHED void kernel_##NUMBER(void** arguments) {          \
        emulator::Kernel<__VA_ARGS__>::body(arguments);                                  \
    }                                                                                    \
    EMULATOR_PUBLIC EMULATOR_UNWATCHED const emulator::Parameter* signature_##NUMBER() { \
        return emulator::Kernel<__VA_ARGS__>::signature;                                 \
    }
