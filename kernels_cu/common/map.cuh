// Feature maps: where their elements lie, whatever their layout and rank.
//
// Every map has five axes here: batch, channel, depth, row (height) and column (width); those that
// it does not have are of size 1. Channels first or last is a matter of strides alone.
#pragma once
#include "access.cuh"
#include "border.cuh"

// Strides in elements. Twin of MAP_STRIDES in gpuconv/backends/cuda/maps.py.
struct MapStrides {
    int64 batch, channel, depth, row, column;
};
