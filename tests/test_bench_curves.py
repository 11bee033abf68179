"""bench.plot --sizes: share of a copy's speed against kernel size, from made-up results."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import curves, plot, results, sets
from bench.results import Line

SHAPE = [8, 2160, 3840]


def line(name, implementation, share, device="some GPU"):
    """One result of which only what is drawn matters."""
    dtype = str(sets.select("gpu", name)[0].dtype) if sets.select("gpu", name) else "uint8"
    return Line(
        *(name, SHAPE, dtype, implementation, "cuda", "ok", "", "", 1, 1, 9, 1, {"median": 1.0}),
        *(1.0, 1.0, 1.0, share, 0, 1.0, 1, device, None, {}, "abc", False, ""),
    )


@pytest.fixture
def lines():
    """Two libraries over three sizes, in no order, and what is not drawn."""
    made = [
        line(f"{operation}/u8/8x2160x3840/{label}", implementation, share / size)
        for operation, form in (("filter2d", "k{0}"), ("median_blur", "{0}x{0}"))
        for implementation, share in (("gpuconv", 2.7), ("cupy", 0.3))
        for size in (7, 3, 31)
        for label in [form.format(size)]
    ]
    other = replace(made[0], name="filter2d/u8/1x2160x3840/k7", shape=[1, 2160, 3840])
    unknown = replace(made[0], implementation="no such library")
    failed = replace(made[0], implementation="cucim", copy_share=None)
    return [*made, other, unknown, failed, line("sobel/u8/8x2160x3840/magnitude", "cupy", 0.1)]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("filter2d/u8/8x2160x3840/k15", 15), ("dilate/u8/8x2160x3840/31x31", 31)),
        *(("gaussian_blur/u8/8x2160x3840/sigma3", 25), ("sobel/u8/8x1x1/magnitude", None)),
        *(("conv2d/f32/8x3x56x56/3x3-64", None), ("max_pool2d/f32/8x1x9x9/2x2-s2", None)),
    ],
)
def test_sizes_are_read_from_names(name, size):
    assert curves.size_of(name) == size


def test_panels_hold_a_line_a_library_in_the_order_of_sizes(lines):
    found = curves.panels(lines)
    assert [panel.title for panel in found] == ["Dense kernel, uint8", "Median, uint8"]
    for panel in found:
        assert list(panel.curves) == ["gpuconv", "cupy"]
        assert [size for size, _ in panel.curves["cupy"]] == [3, 7, 31]
        assert panel.curves["gpuconv"][0] == (3, pytest.approx(0.9))
    assert curves.panels([]) == []


def test_every_panel_has_cases_of_several_sizes():
    for title, operation, dtype in curves.PANELS:
        sizes = {
            curves.size_of(case.name)
            for case in sets.gpu_group("peers")
            if (case.operation, case.dtype.name) == (operation, dtype)
        }
        assert len(sizes - {None}) >= 2, title


def test_curves_are_drawn_the_same_each_time(lines, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path, pictures = tmp_path / "some.jsonl", [tmp_path / "a.svg", tmp_path / "b.svg"]
    results.append(path, lines)
    for picture in pictures:
        assert plot.main([str(path), str(picture), "--sizes"]) == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    figure = curves.draw(curves.panels(lines), "some GPU")
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in drawn] == ["Dense kernel, uint8", "Median, uint8"]
    labels = [text.get_label() for text in drawn[0].get_lines() if text.get_label()[0] != "_"]
    assert labels == ["gpuconv", "CuPy"]
    empty = tmp_path / "empty.jsonl"
    results.append(empty, [lines[-1]])
    with pytest.raises(SystemExit):
        plot.main([str(empty), str(pictures[0]), "--sizes"])
    assert "filters of several sizes" in capsys.readouterr().err
