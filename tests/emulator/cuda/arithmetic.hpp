// CUDA's arithmetic functions that C's library lacks: conversions that saturate, bit tricks,
// single-rounding operations, packed bytes, cached loads.
#pragma once

// min and max of one type, and CUDA's rule for mixed signs: unsigned wins.
#define EMULATOR_MIN_MAX(T)                                   \
    EMULATOR_INLINE T min(T a, T b) { return b < a ? b : a; } \
    EMULATOR_INLINE T max(T a, T b) { return a < b ? b : a; }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
#undef EMULATOR_MIN_MAX
EMULATOR_INLINE unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
EMULATOR_INLINE unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
EMULATOR_INLINE unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
EMULATOR_INLINE unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }
EMULATOR_INLINE float min(float a, float b) { return fminf(a, b); }
EMULATOR_INLINE float max(float a, float b) { return fmaxf(a, b); }
EMULATOR_INLINE double min(double a, double b) { return fmin(a, b); }
EMULATOR_INLINE double max(double a, double b) { return fmax(a, b); }

// One rounding each: never merged with a neighbour, whatever the compiler's flags say.
#define EMULATOR_ROUNDED(PREFIX, T)                              \
    EMULATOR_INLINE T PREFIX##add_rn(T a, T b) { return a + b; } \
    EMULATOR_INLINE T PREFIX##sub_rn(T a, T b) { return a - b; } \
    EMULATOR_INLINE T PREFIX##mul_rn(T a, T b) { return a * b; } \
    EMULATOR_INLINE T PREFIX##div_rn(T a, T b) { return a / b; }
EMULATOR_ROUNDED(__f, float)
EMULATOR_ROUNDED(__d, double)
#undef EMULATOR_ROUNDED
EMULATOR_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
EMULATOR_INLINE double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
EMULATOR_INLINE float __fsqrt_rn(float a) { return sqrtf(a); }
EMULATOR_INLINE double __dsqrt_rn(double a) { return sqrt(a); }
EMULATOR_INLINE float __frcp_rn(float a) { return 1.0f / a; }
// The fast, less exact ones: exact here.
EMULATOR_INLINE float __fdividef(float a, float b) { return a / b; }
EMULATOR_INLINE float rsqrtf(float a) { return 1.0f / sqrtf(a); }
EMULATOR_INLINE double rsqrt(double a) { return 1.0 / sqrt(a); }
EMULATOR_INLINE float __expf(float a) { return expf(a); }
EMULATOR_INLINE float __logf(float a) { return logf(a); }
EMULATOR_INLINE float __powf(float a, float b) { return powf(a, b); }
EMULATOR_INLINE float __saturatef(float a) { return a > 0 ? (a < 1 ? a : 1) : 0; }

namespace emulator {
// A rounded number as an integer: the nearest end outside the range, 0 for NaN, as cvt.sat.
template <typename I, typename F>
EMULATOR_INLINE I saturated(F value) {
    constexpr I highest = I(-1) > 0 ? I(-1) : I(~(1ull << (sizeof(I) * 8 - 1)));
    constexpr I lowest = I(-1) > 0 ? 0 : I(-highest - 1);
    if (value != value) return 0;
    if (value >= F(highest)) return highest;
    return value <= F(lowest) ? lowest : I(value);
}
}  // namespace emulator

#define EMULATOR_CONVERSIONS(FROM, F, TO, I)                                                 \
    EMULATOR_INLINE I __##FROM##2##TO##_rn(F a) { return emulator::saturated<I>(rint(a)); }  \
    EMULATOR_INLINE I __##FROM##2##TO##_rd(F a) { return emulator::saturated<I>(floor(a)); } \
    EMULATOR_INLINE I __##FROM##2##TO##_ru(F a) { return emulator::saturated<I>(ceil(a)); }  \
    EMULATOR_INLINE I __##FROM##2##TO##_rz(F a) { return emulator::saturated<I>(trunc(a)); }
EMULATOR_CONVERSIONS(float, float, int, int)
EMULATOR_CONVERSIONS(float, float, uint, unsigned)
EMULATOR_CONVERSIONS(float, float, ll, long long)
EMULATOR_CONVERSIONS(float, float, ull, unsigned long long)
EMULATOR_CONVERSIONS(double, double, int, int)
EMULATOR_CONVERSIONS(double, double, uint, unsigned)
EMULATOR_CONVERSIONS(double, double, ll, long long)
EMULATOR_CONVERSIONS(double, double, ull, unsigned long long)
#undef EMULATOR_CONVERSIONS
EMULATOR_INLINE float __int2float_rn(int a) { return float(a); }
EMULATOR_INLINE float __uint2float_rn(unsigned a) { return float(a); }
EMULATOR_INLINE float __ll2float_rn(long long a) { return float(a); }
EMULATOR_INLINE double __ll2double_rn(long long a) { return double(a); }
EMULATOR_INLINE float __double2float_rn(double a) { return float(a); }

namespace emulator {
template <typename To, typename From>
EMULATOR_INLINE To same_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "as many bits out as in");
    To result;
    __builtin_memcpy(&result, &value, sizeof result);
    return result;
}
}  // namespace emulator
EMULATOR_INLINE int __float_as_int(float a) { return emulator::same_bits<int>(a); }
EMULATOR_INLINE unsigned __float_as_uint(float a) { return emulator::same_bits<unsigned>(a); }
EMULATOR_INLINE float __int_as_float(int a) { return emulator::same_bits<float>(a); }
EMULATOR_INLINE float __uint_as_float(unsigned a) { return emulator::same_bits<float>(a); }
EMULATOR_INLINE long long __double_as_longlong(double a) {
    return emulator::same_bits<long long>(a);
}
EMULATOR_INLINE double __longlong_as_double(long long a) { return emulator::same_bits<double>(a); }

EMULATOR_INLINE int __popc(unsigned a) { return __builtin_popcount(a); }
EMULATOR_INLINE int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
EMULATOR_INLINE int __clz(int a) { return a ? __builtin_clz(unsigned(a)) : 32; }
EMULATOR_INLINE int __clzll(long long a) { return a ? __builtin_clzll(a) : 64; }
EMULATOR_INLINE int __ffs(int a) { return __builtin_ffs(a); }
EMULATOR_INLINE int __ffsll(long long a) { return __builtin_ffsll(a); }
EMULATOR_INLINE unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned((unsigned long long)a * b >> 32);
}
EMULATOR_INLINE int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
EMULATOR_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
EMULATOR_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++)
        result |= unsigned(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}
EMULATOR_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((unsigned long long)high << 32 | low) >> (shift & 31));
}
EMULATOR_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((unsigned long long)high << 32 | low) << (shift & 31) >> 32);
}

// Four bytes or two half-words in a word, lane by lane.
namespace emulator {
template <typename Lane, typename F>
EMULATOR_INLINE unsigned each_lane(unsigned a, unsigned b, F f) {
    constexpr int bits = 8 * sizeof(Lane);
    unsigned result = 0;
    for (int shift = 0; shift < 32; shift += bits) {
        const auto lane =
            (typename std::make_unsigned<Lane>::type)(f(Lane(a >> shift), Lane(b >> shift)));
        result |= unsigned(lane) << shift;
    }
    return result;
}
}  // namespace emulator
#define EMULATOR_PACKED(SUFFIX, LANE)                                                       \
    EMULATOR_INLINE unsigned __vmin##SUFFIX(unsigned a, unsigned b) {                       \
        return emulator::each_lane<LANE>(a, b, [](int x, int y) { return y < x ? y : x; }); \
    }                                                                                       \
    EMULATOR_INLINE unsigned __vmax##SUFFIX(unsigned a, unsigned b) {                       \
        return emulator::each_lane<LANE>(a, b, [](int x, int y) { return x < y ? y : x; }); \
    }
EMULATOR_PACKED(u4, unsigned char)
EMULATOR_PACKED(s4, signed char)
EMULATOR_PACKED(u2, unsigned short)
EMULATOR_PACKED(s2, short)
#undef EMULATOR_PACKED
EMULATOR_INLINE unsigned __vadd4(unsigned a, unsigned b) {
    return emulator::each_lane<unsigned char>(a, b, [](int x, int y) { return x + y; });
}
EMULATOR_INLINE unsigned __vadd2(unsigned a, unsigned b) {
    return emulator::each_lane<unsigned short>(a, b, [](int x, int y) { return x + y; });
}
EMULATOR_INLINE int __dp4a(int a, int b, int sum) {
    for (int shift = 0; shift < 32; shift += 8)
        sum += (signed char)(a >> shift) * (signed char)(b >> shift);
    return sum;
}
EMULATOR_INLINE unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
    for (int shift = 0; shift < 32; shift += 8)
        sum += (unsigned char)(a >> shift) * (unsigned char)(b >> shift);
    return sum;
}

// Loads and stores with a cache hint are loads and stores.
#define EMULATOR_LOAD(NAME)                  \
    template <typename T>                    \
    EMULATOR_INLINE T NAME(const T* place) { \
        return *place;                       \
    }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldca)
#undef EMULATOR_LOAD
#define EMULATOR_STORE(NAME)                                                        \
    template <typename T>                                                           \
    EMULATOR_INLINE void NAME(T* place, typename std::common_type<T>::type value) { \
        *place = value;                                                             \
    }
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stcg)
#undef EMULATOR_STORE
