// Two elements of 8 or 16 bits in a word, compared and moved at once.
//
// A word holds two numbers of 16 bits. Bytes are the upper halves of these: what lies below them is
// any byte, which decides nothing but between equal ones, and is dropped in the end. So four bytes
// become two words by one shift.
//
//   keys_of        4 words of keys from the pixels of a thread: bytes 0, 2 | 1, 3 | 4, 6 | 5, 7
//   bits_of        pixels' bits from keys
//   pair_rows      two rows of such words → words of one column each: (row 0, row 1)
//   part_rows      the reverse, to pixels as they lie in memory
#pragma once
#include "keys.cuh"
#include "strip.cuh"

// All bits of each half that has its highest bit.
__device__ __forceinline__ uint32 spread_signs(uint32 word) {
#ifdef GPUCONV_EMULATOR
    return (word >> 15 & 0x00010001u) * 0xffffu;
#else
    uint32 result;  // bytes 1 and 3, each twice, as copies of their highest bits
    asm("prmt.b32 %0, %1, 0, 0xbb99;" : "=r"(result) : "r"(word));
    return result;
#endif
}

// Keys::of and Keys::bits for both halves.
__device__ __forceinline__ uint32 float_keys(uint32 word, const Keys& keys) {
    const uint32 mask = uint32(keys.mask) * 0x00010001u;
    // Above infinity, the sum reaches the highest bit, and no half reaches the other.
    const uint32 beyond = (0x7fffu - uint32(keys.infinity)) * 0x00010001u;
    const uint32 nan = spread_signs((word & 0x7fff7fffu) + beyond);
    return (word ^ (spread_signs(word) | 0x80008000u) ^ mask) | nan;
}
__device__ __forceinline__ uint32 float_bits(uint32 word, const Keys& keys) {
    word ^= uint32(keys.mask) * 0x00010001u;
    return word ^ (0xffffffffu ^ (spread_signs(word) & 0x7fff7fffu));
}

template <bool FLOATS, int N>
__device__ __forceinline__ void keys_of(uint32 (&found)[4], const Words<uint8, N>& raw,
                                        const Keys& keys) {
    const uint32 mask = uint32(keys.mask) * 0x01010101u;
#pragma unroll
    for (int w = 0; w < 2; ++w) {
        const uint32 word = raw.words[w] ^ mask;
        found[2 * w] = word << 8;
        found[2 * w + 1] = word;
    }
}
template <bool FLOATS, int N>
__device__ __forceinline__ void keys_of(uint32 (&found)[4], const Words<uint16, N>& raw,
                                        const Keys& keys) {
#pragma unroll
    for (int w = 0; w < 4; ++w)
        found[w] = FLOATS ? float_keys(raw.words[w], keys)
                          : raw.words[w] ^ uint32(keys.mask) * 0x00010001u;
}
template <bool FLOATS, int N>
__device__ __forceinline__ void keys_of(uint32 (&found)[4], const Words<uint32, N>& raw,
                                        const Keys& keys) {
#pragma unroll
    for (int w = 0; w < 4; ++w)
        found[w] = FLOATS ? keys.of(raw.words[w]) : raw.words[w] ^ uint32(keys.mask);
}

template <typename U, bool FLOATS>
__device__ __forceinline__ uint32 bits_of(uint32 word, const Keys& keys) {
    if constexpr (sizeof(U) == 4) {
        return FLOATS ? keys.bits(word) : word ^ uint32(keys.mask);
    } else if constexpr (sizeof(U) == 2) {
        return FLOATS ? float_bits(word, keys) : word ^ uint32(keys.mask) * 0x00010001u;
    } else {
        return word ^ uint32(keys.mask) * 0x01010101u;
    }
}

template <typename U>
__device__ __forceinline__ void pair_rows(uint32 (&line)[8], const uint32* row,
                                          const uint32* below) {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        // Pixels of word w: 2w and the next; of bytes, its word of four and every second of these.
        const int first = sizeof(U) == 1 ? w / 2 * 4 + w % 2 : 2 * w;
        const int second = sizeof(U) == 1 ? first + 2 : first + 1;
        line[first] = __byte_perm(row[w], below[w], 0x5410);
        line[second] = __byte_perm(row[w], below[w], 0x7632);
    }
}

template <typename U, int COUNT>
__device__ __forceinline__ void part_rows(uint32 (&row)[COUNT], uint32 (&below)[COUNT],
                                          const uint32 (&line)[8]) {
#pragma unroll
    for (int w = 0; w < COUNT; ++w) {
        uint32 first, second;
        if constexpr (sizeof(U) == 1) {
            first = __byte_perm(line[4 * w], line[4 * w + 1], 0x7351);
            second = __byte_perm(line[4 * w + 2], line[4 * w + 3], 0x7351);
        } else {
            first = line[2 * w];
            second = line[2 * w + 1];
        }
        row[w] = __byte_perm(first, second, 0x5410);
        below[w] = __byte_perm(first, second, 0x7632);
    }
}
