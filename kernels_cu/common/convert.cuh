// Instructions that the compiler does not find by itself.
//
//   bytes_of(a, b, c, d)  four floats as bytes of a word, half to even, saturated
//   halves_of(a, b)       two floats, doubles or integers as half words of a word, likewise
//   dot_bytes<H>(w, b, s) s + low half of w * byte 2H of b + high half of w * byte 2H + 1
//   quick_root(x)         the square root, within one unit of its last place
#pragma once
#include "prelude.cuh"

__device__ __forceinline__ uint32 bytes_of(float a, float b, float c, float d) {
#ifdef GPUCONV_EMULATOR
    const auto byte = [](float value) { return uint32(min(max(__float2int_rn(value), 0), 255)); };
    return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
#else
    uint32 result;  // from sm_86 on, two conversions are one F2IP
    asm("{\n"
        ".reg .s32 a, b, c, d;\n"
        ".reg .b32 high;\n"
        "cvt.rni.s32.f32 a, %1;\n"
        "cvt.rni.s32.f32 b, %2;\n"
        "cvt.rni.s32.f32 c, %3;\n"
        "cvt.rni.s32.f32 d, %4;\n"
        "cvt.pack.sat.u8.s32.b32 high, d, c, 0;\n"
        "cvt.pack.sat.u8.s32.b32 %0, b, a, high;\n"
        "}"
        : "=r"(result)
        : "f"(a), "f"(b), "f"(c), "f"(d));
    return result;
#endif
}

__device__ __forceinline__ uint32 halves_of(float a, float b) {
#if defined(GPUCONV_EMULATOR)
    const auto half = [](float x) { return uint32(min(max(__float2int_rn(x), 0), 65535)); };
    return half(a) | half(b) << 16;
#else
    uint32 result;
    asm("{\n"
        ".reg .s32 a, b;\n"
        "cvt.rni.s32.f32 a, %1;\n"
        "cvt.rni.s32.f32 b, %2;\n"
        "cvt.pack.sat.u16.s32 %0, b, a;\n"
        "}"
        : "=r"(result)
        : "f"(a), "f"(b));
    return result;
#endif
}
__device__ __forceinline__ uint32 halves_of(double a, double b) {
#if defined(GPUCONV_EMULATOR)
    const auto half = [](double x) { return uint32(min(max(__double2int_rn(x), 0), 65535)); };
    return half(a) | half(b) << 16;
#else
    uint32 result;
    asm("{\n"
        ".reg .s32 a, b;\n"
        "cvt.rni.s32.f64 a, %1;\n"
        "cvt.rni.s32.f64 b, %2;\n"
        "cvt.pack.sat.u16.s32 %0, b, a;\n"
        "}"
        : "=r"(result)
        : "d"(a), "d"(b));
    return result;
#endif
}

__device__ __forceinline__ uint32 halves_of(int a, int b) {
#if defined(GPUCONV_EMULATOR)
    return uint32(min(max(a, 0), 65535)) | uint32(min(max(b, 0), 65535)) << 16;
#else
    uint32 result;
    asm("cvt.pack.sat.u16.s32 %0, %1, %2;" : "=r"(result) : "r"(b), "r"(a));
    return result;
#endif
}

// Halves are signed, bytes are not.
template <int H>
__device__ __forceinline__ int dot_bytes(int halves, uint32 bytes, int sum) {
    static_assert(H == 0 || H == 1, "a word has two halves");
#ifdef GPUCONV_EMULATOR
    return sum + int16(halves) * int(bytes >> (16 * H) & 0xff) +
           (halves >> 16) * int(bytes >> (16 * H + 8) & 0xff);
#else
    int result;
    if constexpr (H == 0) {
        asm("dp2a.lo.s32.u32 %0, %1, %2, %3;" : "=r"(result) : "r"(halves), "r"(bytes), "r"(sum));
    } else {
        asm("dp2a.hi.s32.u32 %0, %1, %2, %3;" : "=r"(result) : "r"(halves), "r"(bytes), "r"(sum));
    }
    return result;
#endif
}

__device__ __forceinline__ float quick_root(float value) {
#ifdef GPUCONV_EMULATOR
    return sqrtf(value);
#else
    float result;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
#endif
}
