// First include of every CUDA source here: makes one text compile under two compilers.
//
//   NVRTC   for the GPU; brings the half and bfloat16 types and no other header
//   g++     for the emulator in tests/emulator (-DGPUCONV_EMULATOR), which brings CUDA's language
//
// Shared memory is declared through the two macros alone, so that the emulator can poison it
// before each block and watch it:
//
//   SHARED_ARRAY(float, tile, [8][33]);     a static array, float tile[8][33]
//   DYNAMIC_SHARED(float, rows);            the bytes given at launch, float* rows; once a kernel
#pragma once

#ifdef GPUCONV_EMULATOR
#include "device.hpp"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define SHARED_ARRAY(T, name, ...) __shared__ __align__(16) T name __VA_ARGS__
#define DYNAMIC_SHARED(T, name)                                            \
    extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[]; \
    T* name = reinterpret_cast<T*>(dynamic_shared_bytes)
#endif

// NVRTC has no <stdint.h>.
using int8 = signed char;
using uint8 = unsigned char;
using int16 = short;
using uint16 = unsigned short;
using int32 = int;
using uint32 = unsigned int;
using int64 = long long;
using uint64 = unsigned long long;
using float16 = __half;
using bfloat16 = __nv_bfloat16;

constexpr unsigned FULL_WARP = 0xffffffffu;
