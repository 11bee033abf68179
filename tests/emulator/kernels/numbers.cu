// Arithmetic that the emulator must do as a GPU does it.
#include "common/scalar.cuh"

template <typename H>
__global__ void half_arithmetic(const H* a, const H* b, const H* c, H* out, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const H results[] = {a[i] + b[i],
                         a[i] - b[i],
                         a[i] * b[i],
                         a[i] / b[i],
                         __hfma(a[i], b[i], c[i]),
                         __hmax(a[i], b[i]),
                         __hmin(a[i], b[i]),
                         __hmax_nan(a[i], b[i]),
                         __hmin_nan(a[i], b[i])};
    for (int k = 0; k < 9; k++) out[k * count + i] = results[k];
}

template <typename T>
__global__ void widened(const T* in, Wide<T>* out, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = widen(in[i]);
}
template <typename T, typename From>
__global__ void narrowed(const From* in, T* out, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = narrow<T>(in[i]);
}
template <typename T>
__global__ void extremes(const T* a, const T* b, T* out, int count) {
    const int i = threadIdx.x;
    out[i] = maximum(a[i], b[i]);
    out[count + i] = minimum(a[i], b[i]);
    out[2 * count + i] = lowest<T>();
    out[3 * count + i] = highest<T>();
}

// Each pack of four turned round.
template <typename T>
__global__ void packs(const T* in, T* out) {
    const Pack<T, 4> pack = load_pack<4>(in + 4 * threadIdx.x);
    Pack<T, 4> turned;
    for (int i = 0; i < 4; i++) turned.values[i] = pack.values[3 - i];
    store_pack(out + 4 * threadIdx.x, turned);
}

__global__ void bit_tricks(const unsigned* a, const unsigned* b, unsigned* out, int count) {
    const int i = threadIdx.x;
    const unsigned x = a[i], y = b[i];
    const unsigned results[] = {unsigned(__popc(x)),
                                unsigned(__clz(int(x))),
                                unsigned(__ffs(int(x))),
                                __umulhi(x, y),
                                unsigned(__mulhi(int(x), int(y))),
                                __byte_perm(x, y, 0x3715),
                                __funnelshift_r(x, y, 5),
                                __vmaxu4(x, y),
                                __vmins4(x, y),
                                __vmaxs2(x, y),
                                __vminu2(x, y),
                                unsigned(__dp4a(int(x), int(y), 3)),
                                __float_as_uint(__uint_as_float(x)),
                                max(x, y),
                                unsigned(min(int(x), int(y)))};
    for (int k = 0; k < 15; k++) out[k * count + i] = results[k];
}
