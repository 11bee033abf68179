// Borders: which element answers for a position outside an axis. Twin of gpuconv/border.py.
//
//   constant   v v | a b c d | v v        reflect    c b | a b c d | c b
//   edge       a a | a b c d | d d        symmetric  b a | a b c d | d c
//   wrap       c d | a b c d | a b
//
// Positions may lie any distance outside: indices fold again. No header is needed, so that the
// same text compiles with NVRTC and with a host compiler.
#pragma once

#ifndef __CUDACC__
#define GPUCONV_HOST_DEVICE
#else
#define GPUCONV_HOST_DEVICE __host__ __device__
#endif

enum class Border : int { Constant = 0, Edge = 1, Reflect = 2, Symmetric = 3, Wrap = 4 };

// The remainder that is never negative.
GPUCONV_HOST_DEVICE constexpr int fold(int position, int period) {
    const int rest = position % period;
    return rest < 0 ? rest + period : rest;
}

// Position → element of an axis of `length` elements; -1 where the border's value answers.
GPUCONV_HOST_DEVICE constexpr int map_index(Border border, int position, int length) {
    if (position >= 0 && position < length) return position;
    switch (border) {
        case Border::Edge:
            return position < 0 ? 0 : length - 1;
        case Border::Wrap:
            return fold(position, length);
        case Border::Symmetric: {
            const int folded = fold(position, 2 * length);
            return folded < length ? folded : 2 * length - 1 - folded;
        }
        case Border::Reflect: {
            if (length == 1) return 0;
            const int folded = fold(position, 2 * length - 2);
            return folded < length ? folded : 2 * length - 2 - folded;
        }
        case Border::Constant:
            break;
    }
    return -1;
}
