// ldmatrix and mma.sync: each lane gives its fragment, the last one computes for the warp.
//
// Which element a lane holds follows the PTX manual, "Matrix Fragments for mma.m16n8k…": with
// group = lane / 4 and member = lane % 4, a register of A holds the elements of row group (+ 8)
// and columns from member * (elements in a register) on, one of B the same of column `group`.
// Products are summed in double and rounded once; a GPU rounds more often.
#pragma once

namespace emulator {

struct Fragment {
    uint32_t a[4], b[2];
    uint32_t c[4];
};

// How 32 bits hold elements of one format, and what they are summed in.
struct Tf32 {
    using Sum = float;
    using Wide = double;
    static constexpr int per_register = 1;
    // The low 13 bits are not read.
    static Wide element(uint32_t bits, int) { return same_bits<float>(bits & 0xffffe000u); }
};
struct F16 {
    using Sum = float;
    using Wide = double;
    static constexpr int per_register = 2;
    static Wide element(uint32_t bits, int i) {
        return decode<5>((unsigned short)(bits >> 16 * i));
    }
};
struct Bf16 {
    using Sum = float;
    using Wide = double;
    static constexpr int per_register = 2;
    static Wide element(uint32_t bits, int i) {
        return decode<8>((unsigned short)(bits >> 16 * i));
    }
};
struct S8 {
    using Sum = int;
    using Wide = long long;
    static constexpr int per_register = 4;
    static Wide element(uint32_t bits, int i) { return (signed char)(bits >> 8 * i); }
};
struct U8 {
    using Sum = int;
    using Wide = long long;
    static constexpr int per_register = 4;
    static Wide element(uint32_t bits, int i) { return (unsigned char)(bits >> 8 * i); }
};

template <typename A, typename B>
EMULATOR_UNWATCHED uint32_t mma_lanes(Exchange& lanes, uint32_t) {
    using Sum = typename A::Sum;
    using Wide = typename A::Wide;
    constexpr int per = A::per_register, depth = 8 * per;
    Wide a[16][depth], b[depth][8];
    for (int lane = 0; lane < WARP; lane++) {
        const auto given = lanes.given<Fragment>(lane);
        const int group = lane / 4, first = lane % 4 * per;
        for (int e = 0; e < per; e++) {
            for (int r = 0; r < 4; r++)
                a[group + 8 * (r & 1)][first + e + 4 * per * (r >> 1)] = A::element(given.a[r], e);
            for (int r = 0; r < 2; r++)
                b[first + e + 4 * per * r][group] = B::element(given.b[r], e);
        }
    }
    for (int lane = 0; lane < WARP; lane++) {
        const auto given = lanes.given<Fragment>(lane);
        Sum d[4];
        for (int r = 0; r < 4; r++) {
            const int row = lane / 4 + 8 * (r >> 1), column = lane % 4 * 2 + (r & 1);
            Wide sum = same_bits<Sum>(given.c[r]);
            for (int k = 0; k < depth; k++) sum += a[row][k] * b[k][column];
            d[r] = Sum(sum);  // integers wrap, as without .satfinite
        }
        lanes.answer(lane, d);
    }
    return 0;
}

template <typename A, typename B, typename Sum>
EMULATOR_INLINE void mma(Sum (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Site site) {
    Fragment given;
    __builtin_memcpy(given.a, a, sizeof given.a);
    __builtin_memcpy(given.b, b, sizeof given.b);
    __builtin_memcpy(given.c, d, sizeof given.c);
    warp_collective("mma.sync", ~0u, &mma_lanes<A, B>, &given, sizeof given, d, sizeof d, site);
}

struct MatrixRow {
    unsigned short elements[8];
};

template <int MATRICES, bool TRANSPOSED>
EMULATOR_UNWATCHED uint32_t matrix_lanes(Exchange& lanes, uint32_t) {
    for (int lane = 0; lane < WARP; lane++) {
        unsigned short pairs[MATRICES][2];
        for (int m = 0; m < MATRICES; m++)
            for (int e = 0; e < 2; e++) {
                const int along = lane % 4 * 2 + e, across = lane / 4;
                const int row = TRANSPOSED ? along : across, column = TRANSPOSED ? across : along;
                pairs[m][e] = lanes.given<MatrixRow>(8 * m + row).elements[column];
            }
        lanes.answer(lane, pairs);
    }
    return 0;
}

// Lane 8 * m + r gives the address of row r of matrix m; it reads those 16 bytes itself, so that
// the checker sees who reads what. The addresses of the other lanes are not used.
template <int MATRICES, bool TRANSPOSED>
EMULATOR_INLINE void load_matrices(unsigned (&out)[MATRICES], const void* row, Site site) {
    alignas(16) MatrixRow given = {};
    if (lane_index() < 8 * MATRICES) read_matrix_row(&given, row);
    warp_collective("ldmatrix", ~0u, &matrix_lanes<MATRICES, TRANSPOSED>, &given, sizeof given, out,
                    sizeof out, site);
}

}  // namespace emulator
