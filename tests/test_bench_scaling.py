"""The scaling plan is arithmetic over rates: the slowest part decides. No timing is tested."""

import dataclasses

import pytest

from bench import scaling
from bench.results import Line
from bench.scaling import CODEC, GPU, LINK, NETWORK, STORAGE, TASKS, Part

CODEC_RATES = scaling.Codec(decode_s=10e-9, encode_s=15e-9, read_bytes=0.25, written_bytes=0.5)

RATES = [
    Part(GPU, 1000.0, 1, ""),
    Part(LINK, 500.0, 1, ""),
    Part(CODEC, 20.0, 1, ""),
    Part(TASKS, 800.0, None, ""),
    Part(NETWORK, 120.0, 8, ""),
    Part(STORAGE, 900.0, None, ""),
]


def line(**changes):
    """A line of results as a GPU would give it."""
    fields = {field.name: None for field in dataclasses.fields(Line)}
    told = {
        "name": "gaussian_blur/u8/1x4096x4096/sigma3",
        "implementation": "gpuconv",
        "backend": "cuda",
        "device": "a GPU",
        "gb_per_s": 3600.0,
    }
    return Line(**(fields | told | changes))


def test_rows_the_slowest_part_decides():
    found = {(row.way, row.gpus): row for row in scaling.rows(RATES)}
    assert len(found) == 9
    assert [found["on the device", n].images_per_s for n in (1, 8, 64)] == [1000, 8000, 64000]
    assert {found["host to host", n].limit for n in (1, 8, 64)} == {LINK}
    files = [found["JPEG files", n] for n in (1, 8, 64)]
    assert [(row.images_per_s, row.limit) for row in files] == [
        (20.0, CODEC),
        (120.0, NETWORK),
        (800.0, TASKS),
    ]
    assert files[0].gpx_per_s == pytest.approx(0.48)


def test_a_node_serves_its_gpus_together():
    network = Part(NETWORK, 100.0, 8, "")
    assert [network.on(n) for n in (1, 8, 9, 64)] == [100, 100, 200, 800]


def test_gpu_part_prefers_what_was_measured():
    floor = scaling.gpu_part([line(backend="numpy"), line(implementation="opencv")])
    assert "no GPU has been measured" in floor.origin
    assert floor.images_per_s == pytest.approx(2150e9 / 72e6)
    found = scaling.gpu_part([line(gb_per_s=1.0), line()])
    assert found.images_per_s == pytest.approx(1800e9 / 72e6)
    assert "measured: gaussian_blur/u8/1x4096x4096/sigma3 on a GPU" in found.origin
    assert "assumed" in scaling.gpu_part([line(gb_per_s=None), line(name="sobel/u8/x")]).origin


def test_file_parts_follow_from_their_rates():
    parts = {
        part.name: part
        for part in scaling.file_parts(
            CODEC_RATES, 400.0, cores=12, network=24.0, storage=36.0, here="a CPU"
        )
    }
    assert parts[CODEC].images_per_s == pytest.approx(12 / 0.6)
    assert parts[TASKS].on(64) == 400.0
    assert parts[NETWORK].images_per_s == pytest.approx(24e9 / 12e6)
    assert parts[STORAGE].images_per_s == pytest.approx(36e9 / 18e6)
    assert "12 cores a GPU" in parts[CODEC].origin


def test_link_part_moves_raw_pixels():
    assert scaling.link_part(55).images_per_s == pytest.approx(55e9 / 72e6)


def test_told_names_every_origin():
    text = scaling.told([dataclasses.replace(p, origin=f"from {p.name}") for p in RATES])
    assert "| JPEG files | 8 | 120 | 2.88 | network |" in text
    assert all(f"from {part.name}." in text for part in RATES)


def test_measure_codec_measures_something():
    pytest.importorskip("PIL")
    pytest.importorskip("skimage")
    pytest.importorskip("tifffile")
    codec = scaling.measure_codec(megapixels=0.05, rounds=1)
    assert codec.decode_s > 0
    assert codec.encode_s > 0
    assert 0.05 < codec.read_bytes < codec.written_bytes < 6


def test_main_prints_a_table_for_each_rate(monkeypatch, capsys):
    monkeypatch.setattr(scaling, "measure_codec", lambda megapixels: CODEC_RATES)
    assert scaling.main(["--rate", "100", "5000", "--tasks", "200"]) == 0
    out = capsys.readouterr().out
    assert out.count("| way | GPUs | images/s | Gpx/s | limited by |") == 2
    assert "| host to host | 1 | 100 | 2.40 | GPU |" in out
    assert "| host to host | 1 | 764 | 18.3 | link |" in out
