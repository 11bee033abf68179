"""What is told of results: comparisons, tables, goals and pictures."""

import dataclasses

import pytest

from bench import cases, compare, goals, plot, results, run, sets, table

# ---------------------------------------------------------------- compare and table


@pytest.fixture(scope="module")
def line():
    """A line of results as a run writes it."""
    case = cases.gaussian_blur("u8", (2, 70, 90), 1.5)
    (line,) = run.run([case], "numpy", [], run.Settings(3, 60.0, 0.0), 2)
    return line


def at(line, milliseconds, **changes):
    """The line with times of ±2 %."""
    times = {
        "median": milliseconds,
        "p10": 0.98 * milliseconds,
        "p90": 1.02 * milliseconds,
    }
    return dataclasses.replace(line, times_ms=times, **changes)


def compared(tmp_path, old, new, *arguments):
    """Exit status of `bench.compare` over two files of these lines."""
    files = []
    for name, lines in (("old", old), ("new", new)):
        files.append(tmp_path / f"{name}.jsonl")
        results.append(files[-1], lines)
    return compare.main([*map(str, files), *arguments])


@pytest.mark.parametrize(
    ("milliseconds", "verdict", "status"),
    [(15, "slower", 1), (10.7, "slower", 0), (10.1, "unchanged", 0), (5, "faster", 0)],
)
def test_compare_tells_changes_beyond_the_noise(
    line, tmp_path, capsys, milliseconds, verdict, status
):
    assert compared(tmp_path, [at(line, 10)], [at(line, milliseconds)]) == status
    assert f"1 {verdict}" in capsys.readouterr().out


def test_compare_has_a_tolerance_and_takes_the_latest_line(line, tmp_path):
    old, new = [at(line, 99), at(line, 10)], [at(line, 15)]
    assert compared(tmp_path, old, new, "--tolerance", "0.6") == 0


def test_compare_tells_a_case_that_is_right_no_more(line, tmp_path, capsys):
    broken = dataclasses.replace(line, status="wrong", times_ms=None)
    assert compared(tmp_path, [line], [broken]) == 1
    assert "1 wrong" in capsys.readouterr().out


def test_compare_refuses_files_of_other_devices_and_other_text(line, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        compared(tmp_path, [line], [at(line, 10, device="another")])
    assert stopped.value.code == 2
    text = tmp_path / "text.jsonl"
    text.write_text("no JSON\n")
    with pytest.raises(SystemExit):
        compare.main([str(text), str(text)])
    assert "text.jsonl:1 is no line of results" in capsys.readouterr().err


def test_table_has_a_row_a_case_and_a_column_a_peer(line, tmp_path, capsys):
    peer = at(line, 20, implementation="scipy", ratio=2.0)
    opencv = dataclasses.replace(line, implementation="opencv", status="unsupported", ratio=None)
    path = tmp_path / "some.jsonl"
    other = dataclasses.replace(line, name="sobel/u8/2x70x90/magnitude", implementation="opencv")
    idle = dataclasses.replace(opencv, implementation="torch")
    results.append(path, [at(line, 10), peer, opencv, idle, other])
    assert table.main([str(path), "--markdown"]) == 0
    header, _, row, _ = capsys.readouterr().out.strip().splitlines()[-4:]
    assert header.split(" | ")[-2:] == ["scipy", "opencv |"]
    assert row.startswith("| gaussian_blur/u8/2x70x90/sigma1.5 | 10.0 |")
    assert row.endswith("| 2.00x | - |")
    assert table.main([str(path), "--cases", "sobel*", "none", "--threads", str(line.threads)]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("sobel/u8/2x70x90/magnitude")
    assert table.main([str(path), "--threads", str(line.threads + 1)]) == 0
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- goals


def named(line, name, implementation="opencv", **changes):
    """The line as one of a case of the cpu set."""
    (case,) = sets.select("cpu", name)
    return dataclasses.replace(
        line, name=name, shape=list(case.shape), implementation=implementation, **changes
    )


def goal(part):
    """The goal whose claim holds this text."""
    (found,) = (goal for goal in goals.GOALS if part in goal.claim)
    return found


def test_every_goal_is_about_cases_of_the_cpu_set():
    for each in goals.GOALS:
        assert any(map(each.covers, sets.select("cpu"))), each.claim


def test_goals_are_about_their_sizes_alone():
    sizes = {
        part: {case.shape for case in sets.select("cpu") if goal(part).covers(case)}
        for part in ("K = 11 within 1.5×", "≥ 12× morphology")
    }
    four, sixteen = sets.MEGAPIXELS[4], sets.MEGAPIXELS[16]
    assert sizes["K = 11 within 1.5×"] == {four, sixteen}
    assert sizes["≥ 12× morphology"] == {*sets.MEGAPIXELS.values(), (1, 1536, 2048, 3)}
    assert not any(goal("≥ 12× morphology").covers(case) for case in sets.select("quick"))


@pytest.mark.parametrize(
    ("ratio", "row"),
    [
        (1 / 1.8, ["1", "0.556x", "0.556x", "met"]),
        (0.55, ["1", "0.550x", "0.550x", "MISSED"]),
        (None, ["0", "", "", "not measured"]),
    ],
)
def test_a_goal_beside_a_peer_has_a_least_ratio(line, ratio, row):
    peer = named(line, "filter2d/f32/1x2048x2048/k3", ratio=ratio)
    found = goals.outcome(goal("K = 3, 5, 7"), [peer, named(line, peer.name, "scipy", ratio=9.0)])
    assert found.row()[1:5] == row


def test_a_goal_is_as_good_as_its_worst_case(line):
    lines = [
        named(line, f"filter2d/f32/1x{side}x{side}/k3", ratio=ratio)
        for side, ratio in ((2048, 0.5), (4096, 2.5))
    ]
    found = goals.outcome(goal("K = 3, 5, 7"), lines)
    assert found.row()[1:] == ["2", "0.500x", "1.50x", "MISSED", "filter2d/f32/1x2048x2048/k3"]
    assert found.misses == ["filter2d/f32/1x2048x2048/k3"]


def test_a_goal_of_the_median_lets_a_case_fall_behind(line):
    names = ("filter2d/f32/1x2048x2048/k3", "filter2d/f32/1x2048x2048/k5")
    few, many = (
        [named(line, name, "scipy", ratio=r) for name, r in zip(names, ratios, strict=True)]
        for ratios in ((4, 19), (4, 21))
    )
    assert [goals.outcome(goal("median over"), lines).met for lines in (few, many)] == [False, True]
    assert goals.outcome(goal("median over"), many).misses == []


def test_a_case_that_gpuconv_gets_wrong_is_a_miss(line):
    wrong = named(line, "filter2d/f32/1x2048x2048/k3", "gpuconv", status="wrong", ratio=None)
    for part in ("K = 3, 5, 7", "median over", "a thread"):
        found = goals.outcome(goal(part), [wrong])
        assert found.row()[1:5] == ["1", "not right", "", "MISSED"]
        assert found.misses == [wrong.name]


def test_goals_of_memory_are_a_thread_for_images_and_in_all_for_layers(line):
    image, layer = "filter2d/f32/1x2048x2048/k3", "conv2d/f32/8x64x56x56/3x3-64"
    for part, name, mib, met in (
        ("a thread", image, 8, True),
        ("a thread", image, 9, False),
        ("for CNN", layer, 32, True),
        ("for CNN", layer, 33, False),
    ):
        own = named(line, name, "gpuconv", peak_extra_bytes=mib << 20, threads=2)
        assert goals.outcome(goal(part), [own]).met is met


def test_goals_prints_a_row_a_goal_and_the_cases_that_miss(line, tmp_path, capsys):
    path = tmp_path / "some.jsonl"
    results.append(
        path,
        [
            named(line, "filter2d/f32/1x2048x2048/k3", "gpuconv"),
            named(line, "filter2d/f32/1x2048x2048/k3", ratio=0.25),
        ],
    )
    assert goals.main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert all(goal.claim in printed for goal in goals.GOALS)
    assert "within 1.8× (limit 0.556x)\n     0.250x  filter2d/f32/1x2048x2048/k3\n" in printed


@pytest.mark.parametrize("program", ["goals", "plot"])
def test_goals_and_plot_refuse_other_text_and_other_threads(line, tmp_path, capsys, program):
    picture = [str(tmp_path / "picture.svg")] * (program == "plot")
    text, empty = tmp_path / "text.jsonl", tmp_path / "some.jsonl"
    text.write_text("no JSON\n")
    results.append(empty, [line])
    for path, reason in ((text, "no line of results"), (empty, "3 threads"), ("none", "none")):
        with pytest.raises(SystemExit) as stopped:
            {"goals": goals, "plot": plot}[program].main([str(path), *picture, "--threads", "3"])
        assert stopped.value.code == 2
        assert reason in capsys.readouterr().err


# ---------------------------------------------------------------- plot


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("filter2d/u8/1x2048x2048/k15", "15×15"),
        ("gaussian_blur/f32/1x2048x2048/sigma10", "σ = 10"),
        ("sobel/u8/1x2048x2048/magnitude", "uint8"),
        ("median_blur/u8/1x2048x2048/3x3", "3×3"),
        ("conv2d/f32/8x3x224x224/7x7-64-s2", "7×7 stride 2, 3×224×224 → 64"),
        ("conv2d/f32/8x64x56x56/3x3-64", "3×3, 64×56×56 → 64"),
        ("conv2d/f32/8x128x56x56/3x3-depthwise", "3×3 depthwise, 128×56×56"),
        ("avg_pool2d/f32/1x1x2048x2048/4x4-s4", "4×4 stride 4, 1×2048×2048"),
    ],
)
def test_rows_of_the_plot_are_told_to_a_reader(name, label):
    (case,) = sets.select("cpu", name)
    assert plot.label(case) == label


def test_every_family_of_the_plot_has_cases():
    for _, *patterns in (family for column in plot.COLUMNS for family in column):
        assert all(sets.select("cpu", pattern) for pattern in patterns)


def test_plot_draws_a_mark_a_peer_and_tells_where(line):
    pytest.importorskip("matplotlib")
    names = ("filter2d/f32/1x2048x2048/k3", "conv2d/f32/8x64x56x56/3x3-64")
    lines = [
        *(named(line, name, "gpuconv") for name in names),
        named(line, names[0], "opencv", ratio=0.5),
        named(line, names[1], "torch", ratio=2.0),
        named(line, names[1], "onnxruntime", status="unsupported", ratio=None),
    ]
    columns = [plot.column_rows(column, lines) for column in plot.COLUMNS]
    assert [[row.label for row in rows] for rows in columns] == [
        ["Dense kernel, float32", "3×3"],
        ["Convolution layer, float32", "3×3, 64×56×56 → 64"],
    ]
    figure = plot.draw(columns, "this machine, 2 threads, commit abc")
    assert "this machine, 2 threads, commit abc" in figure.get_suptitle()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["OpenCV", "PyTorch"]
    marks = [axes.get_lines()[-1] for axes in figure.axes]
    assert [mark.get_xydata().tolist() for mark in marks] == [[[0.5, 1]], [[2, 1]]]


def test_plot_writes_the_same_file_for_the_same_results_of_one_device(line, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "some.jsonl"
    name = "filter2d/f32/1x2048x2048/k3"
    results.append(path, [named(line, name, "gpuconv"), named(line, name, ratio=0.5)])
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        assert plot.main([str(path), str(picture)]) == 0
    one, two = (picture.read_bytes() for picture in pictures)
    assert b"<svg" in one
    assert one == two
    results.append(path, [named(line, name, ratio=0.5, device="another")])
    with pytest.raises(SystemExit) as stopped:
        plot.main([str(path), str(pictures[0])])
    assert stopped.value.code == 2
    assert "must be of one device, got" in capsys.readouterr().err
