"""A network of three layers that finds coins, its weights set by hand: no training.

    photograph → conv, ReLU, pool → edges, in 8 directions
               → conv, ReLU, pool → arcs: three neighbouring edge directions along a bend
               → conv, ReLU       → coins: eight arcs around a centre

Each layer's kernels look at the maps of the layer before. With every pooling the same kernel
covers twice as many pixels of the photograph: deeper maps answer to larger things.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv import kernels
from gpuconv.conv import conv2d
from gpuconv.demo.draw import Pixels
from gpuconv.pool import max_pool2d
from gpuconv.window import AxisWindow

DIRECTIONS = 8
EDGE, ARC, COIN = 7, 9, 19
"""Kernel sizes of the three layers."""

ARC_RADIUS = 11.0
COIN_RADII = (4.8, 6.0, 7.4)
"""In pixels of the layers' own maps: half and quarter of the photograph's size."""

STRONGEST_EDGE = 40.0
"""Layer 1 is capped here, so that a bright coin counts no more than a dull one."""

WEAKEST_ARC = 2.0
WEAKEST_COIN = 7.0


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """The maps of the three layers, each (C, H, W), and the coins' centres as (y, x) pixels."""

    edges: Pixels
    arcs: Pixels
    coins: Pixels
    found: list[tuple[int, int]]


def find_coins(grey: Pixels) -> Layers:
    """Run the network on a photograph of coins, (H, W) uint8."""
    maps = grey.astype(np.float32)[None, None]
    around: dict[str, Any] = {"padding": "same", "padding_mode": "reflect"}
    edges = conv2d(maps, edge_kernels(), activation=(0, STRONGEST_EDGE), **around)
    bias = np.full(DIRECTIONS, -WEAKEST_ARC, np.float32)
    arcs = conv2d(max_pool2d(edges, 2), arc_kernels(), bias, activation="relu", **around)
    coins = conv2d(max_pool2d(arcs, 2), coin_kernels(), activation="relu", padding="same")
    best = coins.max(axis=1, keepdims=True)
    peaks = (best == max_pool2d(best, 9, stride=1, padding=4)) & (best > WEAKEST_COIN)
    found = [(int(4 * y + 2), int(4 * x + 2)) for y, x in np.argwhere(peaks[0, 0])]
    return Layers(edges[0], arcs[0], coins[0], found)


def receptive_fields() -> tuple[int, int, int]:
    """Pixels of the photograph, along one axis, that one value of each layer depends on."""
    pool = AxisWindow(2, stride=2)
    below = [AxisWindow(EDGE), pool, AxisWindow(ARC), pool, AxisWindow(COIN)]
    sizes = []
    for depth in (1, 3, 5):
        pixels = 1
        for window in reversed(below[:depth]):
            pixels = window.input_span(pixels)
        sizes.append(pixels)
    return sizes[0], sizes[1], sizes[2]


def edge_kernels() -> Pixels:
    """(8, 1, 7, 7): bright to dark in each direction."""
    bank = []
    for angle in _angles():
        wave = kernels.gabor(9, angle, 2.0, gamma=0.8, psi=math.pi / 2, size=EDGE)
        level = wave - wave.mean()
        bank.append(level / np.abs(level).sum())
    return np.stack(bank)[:, None].astype(np.float32)


def arc_kernels() -> Pixels:
    """(8, 8, 9, 9): edges of three neighbouring directions, placed along a bend."""
    weights = np.zeros((DIRECTIONS, DIRECTIONS, ARC, ARC))
    for k, middle in enumerate(_angles()):
        for step in (-1, 0, 1):
            angle = middle + step * 2 * math.pi / DIRECTIONS
            y = ARC_RADIUS * (math.sin(angle) - math.sin(middle))
            x = ARC_RADIUS * (math.cos(angle) - math.cos(middle))
            weights[k, (k + step) % DIRECTIONS] += _spot(ARC, y, x, 0.8)
        weights[k, (k + DIRECTIONS // 2) % DIRECTIONS] -= 0.5 * _spot(ARC, 0, 0, 1.5)
    positive = np.maximum(weights, 0).sum(axis=(1, 2, 3), keepdims=True)
    result: Pixels = (weights / positive).astype(np.float32)
    return result


def coin_kernels() -> Pixels:
    """(3, 8, 19, 19): every arc at its place around a centre, for three sizes of coin."""
    weights = np.zeros((len(COIN_RADII), DIRECTIONS, COIN, COIN))
    for size, radius in enumerate(COIN_RADII):
        for k, angle in enumerate(_angles()):
            y, x = radius * math.sin(angle), radius * math.cos(angle)
            weights[size, k] = _spot(COIN, y, x, 0.9)
    result: Pixels = (weights / weights.sum(axis=(1, 2, 3), keepdims=True)).astype(np.float32)
    return result


def _angles() -> list[float]:
    return [2 * math.pi * k / DIRECTIONS for k in range(DIRECTIONS)]


def _spot(size: int, y: float, x: float, spread: float) -> Pixels:
    """A soft spot at (y, x) from the middle of a size x size kernel."""
    away = np.arange(size) - (size - 1) / 2
    squared = (away[:, None] - y) ** 2 + (away - x) ** 2
    spot: Pixels = np.exp(-squared / (2 * spread**2))
    return spot
