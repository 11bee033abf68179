"""The command line: `gpuconv filter | ops | info | explain | demo`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, ClassVar

try:
    import click
except ModuleNotFoundError as missing:
    if missing.name != "click":
        raise
    print(
        "gpuconv: the command line needs click, which is not installed: "
        "pip install 'gpuconv[image]'",
        file=sys.stderr,
    )
    raise SystemExit(2) from missing

from gpuconv import backends
from gpuconv._version import __version__
from gpuconv.backends.numpy.threads import get_num_threads
from gpuconv.crew import Cluster, Crew, Threads
from gpuconv.errors import BackendUnavailableError
from gpuconv.explain import built_in_example, explain
from gpuconv.extras import MissingExtraError, need
from gpuconv.files import FileFilter, Settings
from gpuconv.image_io import FORMATS, ImageError, read_image, remove_leftovers
from gpuconv.interrupts import PATIENCE_S, ignore_interrupts, leave, terminable
from gpuconv.jobs import UsageError, choose_work, plan_tasks
from gpuconv.journal import Journal
from gpuconv.memory import default_limit, parse_bytes, tame_allocator
from gpuconv.operations import Argument, operations
from gpuconv.pipeline import Pipeline, unknown_operation
from gpuconv.preview import draw_preview
from gpuconv.report import Run, complain, mention, say, teller
from gpuconv.scale import ClusterError
from gpuconv.step_text import named_kernel, parse_matrix, parse_value
from gpuconv.streams import default_jobs

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 some failed, 2 usage, 130 ^C.

    Without `arguments` they are those of this process, which ends here and now: Python would take
    a tenth of a second to let go of its modules.
    """
    if arguments is not None:
        return _status(list(arguments), own_process=False)
    tame_allocator()
    leave(_status(sys.argv[1:], own_process=True))


def _status(arguments: list[str], *, own_process: bool) -> int:
    try:
        with terminable():
            status = gpuconv.main(
                arguments or ["--help"],
                prog_name="gpuconv",
                standalone_mode=False,
                obj=own_process,
            )
        return status if isinstance(status, int) else OK
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "gpuconv"
        return _complain(error.format_message(), f"{command} --help")
    except (UsageError, BackendUnavailableError, MissingExtraError, ClusterError) as error:
        return _complain(str(error))
    except OSError as error:  # of looking at what was named, as nothing is written yet
        name = f"{error.filename}: " if error.filename else ""
        return _complain(f"{name}{os.strerror(error.errno or 0)}")
    except (click.Abort, KeyboardInterrupt, _Interrupted):
        complain("interrupted")
        return INTERRUPTED


def _complain(message: str, help_command: str = "") -> int:
    line = " ".join(message.split()).rstrip(".")
    hint = f" (see {help_command})" if help_command else ""
    complain(f"{line}{hint}")
    return USAGE


class _Interrupted(Exception):
    """^C, which click would answer with an empty line."""


class _Commands(click.Group):
    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt as error:
            raise _Interrupted from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpuconv")
def gpuconv() -> None:
    """Convolution and pooling for images, on a GPU or on any machine.

    \b
    Blur every photograph of a folder:
      gpuconv filter photos -o blurred --op gaussian_blur:sigma=2
    See the whole story on real photographs:
      gpuconv demo
    """


class _Grouped(click.Command):
    """A command whose options are listed by what they are about; what is in no group comes last."""

    groups: ClassVar = {
        "Images": ("out", "ops", "recursive", "extension"),
        "Outputs that exist": ("resume", "overwrite"),
        "Speed and memory": ("backend", "device", "jobs", "memory_limit", "tile"),
        "Many processes": ("workers", "scheduler"),
        "What is told": ("report", "preview", "quiet"),
    }

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        title_of = {name: title for title, names in self.groups.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {title: [] for title in self.groups}
        for option in self.get_params(context):
            record = option.get_help_record(context)
            if record is not None and isinstance(option, click.Option):
                rows[title_of.get(option.name or "", "What is told")].append(record)
        for title, records in rows.items():
            with formatter.section(title):
                formatter.write_dl(records)


@gpuconv.command("filter", cls=_Grouped, short_help="Filter image files and folders.")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o", "--out", "out", metavar="OUT", required=True, help="Folder, or a file for one input."
)
@click.option(
    "--op",
    "ops",
    metavar="NAME[:KEY=VALUE,...]",
    multiple=True,
    required=True,
    help="An operation; give --op again for the next one. `gpuconv ops` lists them.",
)
@click.option("-r", "--recursive", is_flag=True, help="Look in the folders below, too.")
@click.option(
    "--format", "extension", metavar="EXT", help="png, jpg, webp, tif, npy or zarr for all outputs."
)
@click.option(
    "--backend",
    type=click.Choice(backends.NAMES),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
@click.option("--device", type=click.IntRange(min=0), metavar="N", help="Number of the GPU.")
@click.option("--resume", is_flag=True, help="Continue a former run of the same pipeline.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--report", metavar="FILE.json", help="Write what became of every file as JSON.")
@click.option("--preview", metavar="FILE.png", help="Draw the first image before and after.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Images at work at a time; default one a processor, at most 16.",
)
@click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Memory to use, such as 4GiB; default a quarter of the machine's. Larger TIFF, .npy and "
    "Zarr images are filtered in tiles.",
)
@click.option(
    "--tile",
    type=click.IntRange(min=1),
    metavar="N",
    help="Filter TIFF, .npy and Zarr in tiles of at most N x N pixels, whatever their size.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Use N processes (Dask).")
@click.option("--scheduler", metavar="ADDRESS", help="Use a Dask cluster, such as tcp://host:8786.")
@click.option("-q", "--quiet", is_flag=True, help="Tell nothing but failures.")
@click.pass_obj
def filter_command(
    own_process: bool,
    inputs: tuple[str, ...],
    out: str,
    ops: tuple[str, ...],
    recursive: bool,
    extension: str | None,
    backend: str,
    device: int | None,
    resume: bool,
    overwrite: bool,
    report: str | None,
    preview: str | None,
    jobs: int | None,
    memory_limit: str | None,
    tile: int | None,
    workers: int | None,
    scheduler: str | None,
    quiet: bool,
) -> int:
    """Filter PNG, JPEG, WebP, TIFF, .npy and Zarr images with any chain of operations.

    INPUT is a file, a folder or a quoted glob. Every output keeps its input's name, relative
    path and format. Transparency is kept as it is; photographs are turned upright.

    \b
    One photograph:
      gpuconv filter cat.jpg -o cat-soft.jpg --op gaussian_blur:sigma=2
    A folder and all below it, two operations, all outputs as PNG:
      gpuconv filter photos -r -o out --format png \\
          --op median_blur:size=3 --op sharpen:amount=0.5
    Your own kernel (quote it: the shell reads ';' otherwise):
      gpuconv filter cat.jpg -o edge.png \\
          --op "filter2d:kernel=[0,-1,0;-1,5,-1;0,-1,0]"

    \b
    Exit status: 0 all done, 1 some images failed, 2 wrong usage, 130 interrupted.
    """
    need("gpuconv filter", "image", "PIL", "tifffile", "imagecodecs", "rich")
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other; drop one")
    if not out:
        raise click.UsageError("OUT must not be empty; name a folder or a file")
    pipeline = _pipeline(ops)
    limit = _memory_limit(memory_limit)
    crew = _crew(
        pipeline, backend, device, jobs, limit, tile, workers, scheduler, hasty=own_process
    )
    tasks = plan_tasks(inputs, Path(out), recursive=recursive, suffix=_suffix(extension))
    into_file = len(tasks) == 1 and tasks[0].output == Path(out)
    folder = Path(out).parent if into_file else Path(out)
    journal = Journal(folder) if resume or not into_file else None
    work, skipped = choose_work(
        tasks, journal, pipeline.fingerprint, resume=resume, overwrite=overwrite
    )
    images = [t.input for t in tasks] + [t.output for t in tasks]
    target = _side_file("--report", report, images)
    picture = _side_file("--preview", preview, images)
    outputs = [task.output for task in work if not task.refused]
    places = {output.parent for output in outputs} | {folder}
    for place in places | {side.parent for side in (target, picture) if side is not None}:
        remove_leftovers(place)
    run = Run(crew.name, str(pipeline), skipped, len(tasks))
    begun, ended = False, ""
    try:
        with crew if work else nullcontext():
            if journal is not None:
                _begin(journal, outputs, pipeline)
            begun = True
            with teller(len(work), quiet=quiet) as shown, closing(crew.outcomes(work)) as outcomes:
                for outcome in outcomes:
                    run.outcomes.append(outcome)
                    shown.tell(outcome)
    except (KeyboardInterrupt, ClusterError) as error:
        if not begun:
            raise
        ended = str(error) or "interrupted"
        run.outcomes = [*skipped, *crew.finished]
    if ended and own_process:
        ignore_interrupts()
    for place in places:
        remove_leftovers(place)  # of workers that are lost
    if not quiet:
        mention(run.summary())
    for failure in run.failures:
        complain(f"failed: {failure.item.input}: {failure.reason}")
    written = target is None or _written(run.write, target)
    if ended:
        complain(ended if into_file else f"{ended}; --resume goes on from here")
    elif picture is not None:
        written &= _draw_preview(run, pipeline, picture, limit)
    if ended == "interrupted":
        if own_process:
            leave(INTERRUPTED, places)
        return INTERRUPTED
    return FAILED if run.failures or ended or not written else OK


def _crew(
    pipeline: Pipeline,
    backend: str,
    device: int | None,
    jobs: int | None,
    limit: int | None,
    tile: int | None,
    workers: int | None,
    scheduler: str | None,
    *,
    hasty: bool,
) -> Crew:
    """Who filters; refused now if it could not."""
    if workers is None and scheduler is None:
        engine = _backend(backend)
        if device is not None:
            if engine.name != "cuda":
                raise click.UsageError(f"--device is for the cuda backend, not {engine.name}")
            try:
                with engine.lane(device):
                    pass
            except ValueError as error:
                raise click.UsageError(f"--{error}") from error
        one = FileFilter(pipeline, backend=engine, device=device, memory_limit=limit, tile=tile)
        patience_s = PATIENCE_S if hasty else None
        return Threads(one, default_jobs() if jobs is None else jobs, patience_s)
    if workers is not None and scheduler is not None:
        raise click.UsageError("--workers and --scheduler exclude each other; drop one")
    if device is not None:
        raise click.UsageError("--device must not be given with --workers or --scheduler")
    need("gpuconv filter on a cluster", "dask", "dask", "distributed")
    threads = None
    if workers is not None:
        threads = max(1, get_num_threads() // workers)
        limit = (default_limit() if limit is None else limit) // workers
        backend = _backend(backend).name
    settings = Settings(pipeline, backend, limit, tile, threads)
    return Cluster(settings, workers, scheduler, jobs, hasty=hasty)


def _memory_limit(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise click.UsageError(f"--memory-limit {error}") from error


def _draw_preview(run: Run, pipeline: Pipeline, path: Path, limit: int | None) -> bool:
    """Draw the first image that was filtered, if there is one."""
    first = next((o.item for o in run.outcomes if o.status in ("done", "skipped")), None)
    if first is None:
        complain("no preview: no image was filtered")
        return True
    try:
        draw_preview(first.input, first.output, str(pipeline), path, memory_limit=limit)
    except ImageError as error:
        complain(f"no preview: {error}")
        return False
    return True


def _written(write: Callable[[Path], None], path: Path) -> bool:
    try:
        write(path)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        complain(f"failed: the report {path} cannot be written: {reason}")
        return False
    return True


def _pipeline(ops: Sequence[str]) -> Pipeline:
    """The chain of --op texts; an error names the text it is about."""
    for text in ops:
        try:
            Pipeline(text)
        except ValueError as error:
            cut = "[" in text and "]" not in text
            hint = "; quote the operation, as the shell ends a command at ';'" if cut else ""
            raise click.UsageError(f"--op {text}: {error}{hint}") from error
    return Pipeline(*ops)


def _backend(name: str) -> Any:
    """The backend that every image will be computed on; 'auto' leaves room for GPUCONV_BACKEND."""
    try:
        return backends.resolve(None if name == "auto" else name, [])
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _suffix(extension: str | None) -> str | None:
    if extension is None:
        return None
    suffix = f".{extension.lower().removeprefix('.')}"
    if suffix not in FORMATS:
        known = ", ".join(s[1:] for s in FORMATS)
        raise click.UsageError(f"--format must be one of {known}, got {extension}")
    return suffix


def _side_file(option: str, name: str | None, images: Sequence[Path]) -> Path | None:
    """Where a report or a picture goes; refused now if it could not be written after a long run."""
    if name is None:
        return None
    path = Path(name)
    above = next(folder for folder in (path.absolute()).parents if folder.exists())
    if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise click.UsageError(f"{option} must name a file in a writeable folder, got {name}")
    if option == "--preview" and path.suffix.lower() != ".png":
        raise click.UsageError(f"--preview must end in .png, got {name}")
    if os.path.abspath(path) in {os.path.abspath(image) for image in images}:
        raise click.UsageError(f"{option} must not be one of the images, got {name}")
    return path


def _begin(journal: Journal, outputs: Sequence[Path], pipeline: Pipeline) -> None:
    try:
        journal.begin(outputs, pipeline.fingerprint)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise click.UsageError(f"OUT {journal.folder} cannot be written: {reason}") from error


@gpuconv.command("ops", short_help="List every operation and its arguments.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def ops_command(name: str | None, as_json: bool) -> int:
    """List every operation with its arguments, their defaults and meaning.

    \b
    Everything:            gpuconv ops
    One of them:           gpuconv ops gaussian_blur
    For a program:         gpuconv ops --json
    """
    known = operations()
    if name is not None:
        known = tuple(operation for operation in known if operation.name == name)
        if not known:
            raise click.UsageError(f"NAME must be {unknown_operation(name)}")
    if as_json:
        say(json.dumps([operation.as_dict() for operation in known], indent=2, default=str))
        return OK
    for operation in known:
        say(f"{operation.name}: {operation.summary}")
        for argument in operation.arguments:
            say(f"    {_heading(argument).ljust(24)} {argument.meaning}".rstrip())
        say("")
    say("Use one with --op, as in: gpuconv filter photos -o out --op gaussian_blur:sigma=2")
    return OK


def _heading(argument: Argument) -> str:
    if argument.required:
        return f"{argument.name} (required)"
    default = argument.default
    shown = str(default).lower() if default is None or isinstance(default, bool) else default
    return f"{argument.name}={shown}"


@gpuconv.command("info", short_help="Show backends, devices and versions.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def info_command(as_json: bool) -> int:
    """Show versions, backends and devices, and what 'auto' picks and why.

    \b
    Example:               gpuconv info
    For a program:         gpuconv info --json
    """
    found = backends.info()
    if as_json:
        say(json.dumps(found, indent=2, default=str))
        return OK
    say(f"gpuconv {found['version']}, Python {found['python']}, NumPy {found['numpy']}")
    for backend in found["backends"]:
        if backend["available"]:
            say(f"{backend['name']}: available ({', '.join(map(str, backend['devices']))})")
        else:
            say(f"{backend['name']}: not available: {backend['reason']}; {backend['remedy']}")
    say(f"auto picks {found['auto']['backend']}: {found['auto']['why']}")
    return OK


@gpuconv.command("explain", short_help="Write out the arithmetic of one output value.")
@click.argument("image", required=False)
@click.option("--kernel", metavar='NAME|"ROW;ROW"', help="A kernel by name or by its rows.")
@click.option("--at", metavar="Y,X", help="The output pixel; the middle if not given.")
@click.option("--stride", metavar="S", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--padding", metavar="P", default="0", show_default=True, help="Number, same, valid.")
def explain_command(
    image: str | None, kernel: str | None, at: str | None, stride: int, padding: str
) -> int:
    """Write out how one output value comes about: 0*0 + 0*-1 + ... = 320.

    Without arguments a small built-in matrix is explained.

    \b
    An example:     gpuconv explain
    A photograph:   gpuconv explain cat.jpg --kernel sharpen --at 10,20
    Your kernel:    gpuconv explain cat.jpg --kernel "0,-1,0;-1,5,-1;0,-1,0"
    """
    if image is None:
        if kernel is not None or at is not None:
            raise click.UsageError("IMAGE must be given with --kernel and --at")
        say(built_in_example())
        return OK
    if not os.path.lexists(image):
        raise click.UsageError(f"IMAGE {image} does not exist")
    if kernel is None:
        raise click.UsageError("--kernel must be given with IMAGE, such as --kernel sharpen")
    try:
        parsed = parse_matrix("kernel", kernel)
        matrix = named_kernel("kernel", parsed) if isinstance(parsed, str) else parsed
        if matrix is None:
            raise ValueError(f"kernel must be a name or rows, got {kernel}")
        place = None if at is None else parse_value("at", f"({at.strip('()')})")
        pad = parse_value("padding", padding)
        page = read_image(image).pages[0]
        say(explain(page.color, matrix, at=place, stride=stride, padding=pad).text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except ImageError as error:
        complain(str(error))
        return FAILED
    return OK


@gpuconv.command("demo", short_help="The whole story on real photographs.")
@click.argument("out", default="gpuconv-demo")
def demo_command(out: str) -> int:
    """Draw what convolution and pooling do, on real photographs, into the folder OUT.

    \b
    Example:               gpuconv demo
    Another folder:        gpuconv demo slides
    """
    need("gpuconv demo", "image", "PIL", "tifffile", "imagecodecs")
    need("gpuconv demo", "plot", "matplotlib", "skimage")
    from gpuconv.demo import run_demo

    try:
        run_demo(out)
    except ImageError as error:
        complain(str(error))
        return FAILED
    return OK
