"""Benchmarks: is gpuconv right, how fast is it, how near to the machine's limit, and who is faster.

    python -m bench.run --quick                     under a minute, any machine
    python -m bench.run --output bench/results/     the full set (half an hour), kept as JSON lines
    python -m bench.run --threads 1,2               on one thread, then on two
    python -m bench.compare OLD.jsonl NEW.jsonl     what got slower between two commits
    python -m bench.memory                          peak memory over images of 400 Mpixel
    python -m bench.table FILE.jsonl --markdown     a results file as a table for the README
    python -m bench.goals FILE.jsonl                which of the speed goals it meets
    python -m bench.plot FILE.jsonl OUT.svg         as a picture; --sizes: against kernel size
    python -m bench.round --part 3 --out FOLDER     a round on a GPU, in parts of a few minutes
    python -m bench.sass FILE.cu 'kernel<int>'      what a kernel's hot loop costs, without a GPU
    python -m bench.roofline --arch sm_90           what that allows each case, likewise
    python -m bench.host_cost                       what a call costs before its kernel is launched
    python -m bench.folder --format all             a folder of photographs from disk to disk
    python -m bench.timeline REPORT.json OUT.svg    what every worker of such a run did
    python -m bench.scaling                         how far that goes with more machines

The rooms, each importing only from those before it: `machine` (where this runs), `clock` (time and
the copy yardstick), `cases` (what can be measured), `sets` (what is), `truth` (whether a result is
right), `peers/` (who can do a case, gpuconv among them), `results` (JSON lines), `table`, `run`,
`compare`, `goals`, `curves` and `plot`; `round`, made of `supervise`, `sanitized` and
`pytest_lines`; for machine code `nvrtc`, `instructions`, `flow` and `sass`; for predictions from it
`devices`, `asked` (what is launched), `work`, `prediction` and `roofline`; `memory` and
`host_cost`, which stand alone; and for folders of images `photographs`, `timeline`, `folder_loops`
(what one would write with another library), `folder` and `scaling`.

Run them from the root of a checkout. `pip install -e .[bench]` brings the CPU peers but PyTorch.
"""
