// __half and __nv_bfloat16: stored in 16 bits, every operation rounded once, as CUDA's.
//
// A float holds the sum or product of two of them closely enough that rounding it again is rounding
// once (24 >= 2 * 11 + 2 bits). A fused multiply-add is computed in double, rounded to odd.
#pragma once

namespace emulator {

// A double in a 16-bit format, to nearest even. NaN becomes 0x7fff, as in CUDA.
template <int EXPONENT_BITS>
inline unsigned short encode(double value) {
    constexpr int mantissa_bits = 15 - EXPONENT_BITS, bias = (1 << (EXPONENT_BITS - 1)) - 1;
    constexpr unsigned infinity = ((1u << EXPONENT_BITS) - 1) << mantissa_bits;
    const auto bits = same_bits<unsigned long long>(value);
    const unsigned sign = unsigned(bits >> 48) & 0x8000;
    if (value != value) return 0x7fff;
    const int exponent = int(bits >> 52 & 0x7ff) - 1023 + bias;
    const unsigned long long significand = (bits & 0xfffffffffffffull) | 1ull << 52;
    if (exponent >= (1 << EXPONENT_BITS) - 1) return (unsigned short)(sign | infinity);
    // Below the smallest normal number, bits fall off the end and the exponent field is 0.
    const int dropped = 52 - mantissa_bits + (exponent < 1 ? 1 - exponent : 0);
    if (dropped > 54) return (unsigned short)sign;
    unsigned long long kept = significand >> dropped;
    const unsigned long long rest = significand & ((1ull << dropped) - 1),
                             half = 1ull << (dropped - 1);
    kept += rest > half || (rest == half && (kept & 1));
    // `kept` holds the leading 1 of a normal number: it carries into the exponent by itself.
    const unsigned base = exponent < 1 ? 0 : unsigned(exponent - 1) << mantissa_bits;
    return (unsigned short)(sign | (base + unsigned(kept)));
}

template <int EXPONENT_BITS>
inline float decode(unsigned short bits) {
    constexpr int mantissa_bits = 15 - EXPONENT_BITS, bias = (1 << (EXPONENT_BITS - 1)) - 1;
    const unsigned sign = unsigned(bits & 0x8000) << 16;
    const unsigned exponent = bits >> mantissa_bits & ((1u << EXPONENT_BITS) - 1);
    const unsigned mantissa = unsigned(bits & ((1u << mantissa_bits) - 1)) << (23 - mantissa_bits);
    if (exponent == (1u << EXPONENT_BITS) - 1)
        return same_bits<float>(sign | 0x7f800000u | mantissa);
    if (exponent) return same_bits<float>(sign | (exponent + 127 - bias) << 23 | mantissa);
    // Subnormal: the mantissa counts units of the smallest one.
    const float size = ldexpf(float(mantissa >> (23 - mantissa_bits)), 1 - bias - mantissa_bits);
    return sign ? -size : size;
}

// a * b + c with the last bit set where it is not exact, so that rounding again is rounding once.
inline double fused_to_odd(double a, double b, double c) {
    const double product = a * b, sum = product + c;  // the product of two 11-bit numbers is exact
    const double part = sum - product;
    const double error = (product - (sum - part)) + (c - part);
    auto bits = same_bits<unsigned long long>(sum);
    if (error == 0 || error != error || (bits & 1)) return sum;
    bits += (error > 0) == (sum > 0) ? 1 : -1;
    return same_bits<double>(bits);
}

}  // namespace emulator

#define EMULATOR_HALF(H, H2, EXPONENT_BITS)                                                      \
    struct __attribute__((aligned(2))) H {                                                       \
        unsigned short bits;                                                                     \
        H() = default;                                                                           \
        EMULATOR_INLINE H(float v) : bits(emulator::encode<EXPONENT_BITS>(v)) {}                 \
        EMULATOR_INLINE H(double v) : bits(emulator::encode<EXPONENT_BITS>(v)) {}                \
        EMULATOR_INLINE H(int v) : bits(emulator::encode<EXPONENT_BITS>(v)) {}                   \
        EMULATOR_INLINE H(unsigned v) : bits(emulator::encode<EXPONENT_BITS>(v)) {}              \
        EMULATOR_INLINE operator float() const { return emulator::decode<EXPONENT_BITS>(bits); } \
    };                                                                                           \
    struct __attribute__((aligned(4))) H2 {                                                      \
        H x, y;                                                                                  \
    };                                                                                           \
    EMULATOR_INLINE H operator+(H a, H b) { return H(float(a) + float(b)); }                     \
    EMULATOR_INLINE H operator-(H a, H b) { return H(float(a) - float(b)); }                     \
    EMULATOR_INLINE H operator*(H a, H b) { return H(float(a) * float(b)); }                     \
    EMULATOR_INLINE H operator/(H a, H b) { return H(float(a) / float(b)); }                     \
    EMULATOR_INLINE H operator-(H a) { return H(-float(a)); }                                    \
    EMULATOR_INLINE H& operator+=(H& a, H b) { return a = a + b; }                               \
    EMULATOR_INLINE H& operator-=(H& a, H b) { return a = a - b; }                               \
    EMULATOR_INLINE H& operator*=(H& a, H b) { return a = a * b; }                               \
    EMULATOR_INLINE bool operator<(H a, H b) { return float(a) < float(b); }                     \
    EMULATOR_INLINE bool operator>(H a, H b) { return float(a) > float(b); }                     \
    EMULATOR_INLINE bool operator<=(H a, H b) { return float(a) <= float(b); }                   \
    EMULATOR_INLINE bool operator>=(H a, H b) { return float(a) >= float(b); }                   \
    EMULATOR_INLINE bool operator==(H a, H b) { return float(a) == float(b); }                   \
    EMULATOR_INLINE bool operator!=(H a, H b) { return float(a) != float(b); }                   \
    EMULATOR_INLINE H __hadd(H a, H b) { return a + b; }                                         \
    EMULATOR_INLINE H __hsub(H a, H b) { return a - b; }                                         \
    EMULATOR_INLINE H __hmul(H a, H b) { return a * b; }                                         \
    EMULATOR_INLINE H __hdiv(H a, H b) { return a / b; }                                         \
    EMULATOR_INLINE H __hneg(H a) { return -a; }                                                 \
    EMULATOR_INLINE H __hfma(H a, H b, H c) {                                                    \
        return H(emulator::fused_to_odd(float(a), float(b), float(c)));                          \
    }                                                                                            \
    EMULATOR_INLINE bool __hisnan(H a) { return a != a; }                                        \
    EMULATOR_INLINE H __hmax(H a, H b) { return __hisnan(a) || a < b ? b : a; }                  \
    EMULATOR_INLINE H __hmin(H a, H b) { return __hisnan(a) || b < a ? b : a; }                  \
    EMULATOR_INLINE H __hmax_nan(H a, H b) {                                                     \
        return __hisnan(a) || __hisnan(b) ? H(NAN) : __hmax(a, b);                               \
    }                                                                                            \
    EMULATOR_INLINE H __hmin_nan(H a, H b) {                                                     \
        return __hisnan(a) || __hisnan(b) ? H(NAN) : __hmin(a, b);                               \
    }                                                                                            \
    EMULATOR_INLINE H2 __hadd2(H2 a, H2 b) { return {a.x + b.x, a.y + b.y}; }                    \
    EMULATOR_INLINE H2 __hmul2(H2 a, H2 b) { return {a.x * b.x, a.y * b.y}; }                    \
    EMULATOR_INLINE H2 __hfma2(H2 a, H2 b, H2 c) {                                               \
        return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};                                   \
    }                                                                                            \
    EMULATOR_INLINE H2 __hmax2(H2 a, H2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }      \
    EMULATOR_INLINE H2 __hmin2(H2 a, H2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
EMULATOR_HALF(__half, __half2, 5)
EMULATOR_HALF(__nv_bfloat16, __nv_bfloat162, 8)
#undef EMULATOR_HALF
using half = __half;
using half2 = __half2;

EMULATOR_INLINE float __half2float(__half a) { return a; }
EMULATOR_INLINE __half __float2half(float a) { return a; }
EMULATOR_INLINE __half __float2half_rn(float a) { return a; }
EMULATOR_INLINE __half __double2half(double a) { return a; }
EMULATOR_INLINE float2 __half22float2(__half2 a) { return {a.x, a.y}; }
EMULATOR_INLINE __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
EMULATOR_INLINE __half2 make_half2(__half x, __half y) { return {x, y}; }
EMULATOR_INLINE unsigned short __half_as_ushort(__half a) { return a.bits; }
EMULATOR_INLINE __half __ushort_as_half(unsigned short bits) {
    return emulator::same_bits<__half>(bits);
}
EMULATOR_INLINE float __bfloat162float(__nv_bfloat16 a) { return a; }
EMULATOR_INLINE __nv_bfloat16 __float2bfloat16(float a) { return a; }
EMULATOR_INLINE __nv_bfloat16 __float2bfloat16_rn(float a) { return a; }
EMULATOR_INLINE __nv_bfloat16 __double2bfloat16(double a) { return a; }
EMULATOR_INLINE float2 __bfloat1622float2(__nv_bfloat162 a) { return {a.x, a.y}; }
EMULATOR_INLINE __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
EMULATOR_INLINE unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return a.bits; }
EMULATOR_INLINE __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    return emulator::same_bits<__nv_bfloat16>(bits);
}
