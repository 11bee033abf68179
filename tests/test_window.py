"""Geometry: output sizes and paddings against a count of the windows that fit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpuconv.window import AxisWindow, adaptive_window, resolve_padding

SMALL = list(itertools.product((1, 2, 3, 5), (1, 2, 3), (1, 2, 3), ((0, 0), (1, 2), (3, 0))))


def count_starts(window: AxisWindow, length: int) -> int:
    """Windows that lie wholly inside the padded axis, counted one by one."""
    padded = length + sum(window.pad)
    return sum(start + window.extent <= padded for start in range(0, max(padded, 0), window.stride))


@pytest.mark.parametrize(("size", "stride", "dilation", "pad"), SMALL)
def test_outputs_counts_the_windows_that_fit(size, stride, dilation, pad):
    window = AxisWindow(size, stride, dilation, pad)
    for length in range(1, 14):
        assert max(0, window.outputs(length)) == count_starts(window, length)


@pytest.mark.parametrize(("size", "stride", "dilation", "pad"), SMALL)
def test_outputs_ceil_mode_never_starts_in_the_padding_behind(size, stride, dilation, pad):
    window = AxisWindow(size, stride, dilation, pad)
    if pad[1] >= window.extent:
        pad = (pad[0], window.extent - 1)
        window = AxisWindow(size, stride, dilation, pad)
    for length in range(window.extent, window.extent + 12):
        plain, ceiling = window.outputs(length), window.outputs(length, ceil_mode=True)
        assert ceiling >= 1
        assert ceiling <= plain + 1
        assert (ceiling - 1) * stride < length + pad[0]


@pytest.mark.parametrize(("size", "stride", "dilation", "pad"), SMALL)
def test_input_range_holds_every_tap_and_no_more(size, stride, dilation, pad):
    window = AxisWindow(size, stride, dilation, pad)
    reads = [o * stride - pad[0] + t * dilation for o in range(2, 6) for t in range(size)]
    assert window.input_range(2, 6) == (min(reads), max(reads) + 1)


@pytest.mark.parametrize("length", [1, 4, 5, 9, 16])
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_resolve_padding_same_gives_ceil_outputs(length, stride, size):
    window = AxisWindow(size, stride, 2)
    for name in ("same", "same_upper", "same_lower"):
        (pad,) = resolve_padding(name, [length], [window])
        assert AxisWindow(size, stride, 2, pad).outputs(length) == -(-length // stride)
        early, late = pad if name == "same_lower" else pad[::-1]
        assert 0 <= early - late <= 1


def test_resolve_padding_full_reaches_every_overlap():
    (pad,) = resolve_padding("full", [7], [AxisWindow(3, dilation=2)])
    assert pad == (4, 4)
    assert AxisWindow(3, dilation=2, pad=pad).outputs(7) == 11


def test_resolve_padding_takes_every_form():
    windows = [AxisWindow(3), AxisWindow(5)]
    assert resolve_padding("valid", [9, 9], windows) == ((0, 0), (0, 0))
    assert resolve_padding(2, [9, 9], windows) == ((2, 2), (2, 2))
    assert resolve_padding((1, 2), [9, 9], windows) == ((1, 1), (2, 2))
    assert resolve_padding([(0, 1), (2, 3)], [9, 9], windows) == ((0, 1), (2, 3))


@pytest.mark.parametrize(
    "bad",
    [
        *("sane", -1, (1, 2, 3), 1.5, None, (1, -2), ((1, 2, 3), 1), True),
        *(b"ab", int, np.array(1.5), 10**30, (1, 2**31)),
    ],
)
def test_resolve_padding_refuses_what_is_no_padding(bad):
    with pytest.raises(ValueError, match=r"^padding must .*, got "):
        resolve_padding(bad, [9, 9], [AxisWindow(3), AxisWindow(3)])


def test_padding_only_finds_windows_without_input():
    assert AxisWindow(2, pad=(2, 0)).padding_only(5, 6)
    assert not AxisWindow(3, pad=(2, 2)).padding_only(5, 7)
    # Taps 3 apart step over an input of 2 elements.
    assert AxisWindow(2, dilation=3, pad=(2, 2)).padding_only(2, 3)
    # A long window is not walked tap by tap.
    assert not AxisWindow(2**31 - 1, pad=(2**30, 2**30)).padding_only(3, 4)


@given(
    st.builds(
        AxisWindow,
        *(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5)),
        st.tuples(st.integers(0, 9), st.integers(0, 9)),
    ),
    st.integers(1, 9),
)
def test_padding_only_is_that_no_tap_of_a_window_lies_in_the_input(window, length):
    outputs = window.outputs(length)
    assume(outputs > 0)
    starts = [i * window.stride - window.pad[0] for i in range(outputs)]
    taps = [range(s, s + window.extent, window.dilation) for s in starts]
    assert window.padding_only(length, outputs) == any(
        not any(0 <= tap < length for tap in each) for each in taps
    )


def test_adaptive_window_covers_the_input_in_order():
    for length, outputs in ((7, 3), (3, 7), (10, 10), (64, 5)):
        cells = [adaptive_window(i, length, outputs) for i in range(outputs)]
        assert cells[0][0] == 0
        assert cells[-1][1] == length
        assert all(a < b for a, b in cells)
        assert all(later[0] <= cell[1] for cell, later in itertools.pairwise(cells))
