// hidden(x): x, of which the compiler knows nothing any more. Where it knows that an index is a
// multiple of four, it writes the addresses of a pack's elements in a form whose stores it then
// fails to join.
#pragma once
#include "prelude.cuh"

__device__ __forceinline__ int hidden(int x) {
#ifndef GPUCONV_EMULATOR
    asm("" : "+r"(x));
#endif
    return x;
}
