"""The command line: reads the arguments, runs, prints. Exit codes are in `main`."""

import argparse
import json
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from compare import options
from compare.cases import CASES, Case, find
from compare.errors import BadInput
from compare.files import save
from compare.interrupt import requests
from compare.verdict import STYLE, WEIGHT

if TYPE_CHECKING:
    from compare.board import RunFolder
    from compare.chunk import Chunk
    from compare.harness import Run
    from compare.report import Report

EXAMPLES = """\
examples:
  python -m compare                                 the blog's 3-layer network, all 60,000 steps
  python -m compare run two_layer --dtype float32   Part 1 of the blog in single precision
  python -m compare run deep --population 8         eight networks at once, seeds 1 to 8
  python -m compare run three_layer --json -        the result as JSON on standard output
  python -m compare run network --sizes 3,8,8,1 --activation tanh --bias --momentum 0.9
  python -m compare run network --data my.csv --target species --dropout 0.2
  python -m compare --list                          every case and what it promises
  python -m compare check my_layer.py               your own forward, backward and inputs
  python -m compare board                           look at the curves of all runs
  python -m compare runs                            list them; diff RUN RUN compares two

exit codes:
  0  the demand is met    1  it is not    2  bad usage or bad input
  3  a fault of this program              130  stopped by Ctrl-C
"""
_FEW_ROWS = 8  # an output of at most this many rows is shown after training


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (python -m compare --help shows examples)")


class _Console(Console):
    """Plain text, and silent once its reader has gone (`| head`): the run goes on to its end."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def say(self, text: str) -> None:
        """Print a line that is never broken, so that it can be copied."""
        self.print(text, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m compare",
        allow_abbrev=False,
        description="Train by hand and by autograd side by side, and compare every bit.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    run = commands.add_parser(
        "run",
        allow_abbrev=False,
        help="run a case (the default command)",
        description="Run a case: train by hand, judge every step by autograd, report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "case", nargs="?", default="three_layer", metavar="CASE",
        help="one of --list (default: three_layer)",
    )  # fmt: skip
    run.add_argument(
        "--steps", type=_whole, metavar="N", help="training steps (default: the case's)"
    )
    run.add_argument(
        "--dtype",
        default="float64",
        metavar="T",
        help="float64 (default), float32, float16, bfloat16",
    )
    run.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda or cuda:N")
    run.add_argument(
        "--seed", type=_whole, default=1, metavar="S", help="numpy's seed (default: 1)"
    )
    run.add_argument(
        "--population", type=_whole, default=1, metavar="P",
        help="networks side by side, with the seeds S, S+1, ... (default: 1)",
    )  # fmt: skip
    run.add_argument(
        "--demand", choices=("exact", "rounding"),
        help="what exit code 0 asks for (default: what the case promises)",
    )  # fmt: skip
    run.add_argument(
        "--log-dir", default="runs", metavar="DIR",
        help="where the TensorBoard run folder goes (default: runs)",
    )  # fmt: skip
    run.add_argument("--no-board", action="store_true", help="write no run folder")
    run.add_argument(
        "--lift", default="auto", metavar="HOW",
        help="lift all, none, or N entries of each large product (default: auto)",
    )  # fmt: skip
    run.add_argument(
        "--json", metavar="FILE", help="write the result as JSON, - for standard output"
    )
    run.add_argument("--quiet", action="store_true", help="print the verdict only")
    options.add(run)
    check = commands.add_parser(
        "check",
        allow_abbrev=False,
        help="check your own backward pass",
        description="Check a file that defines forward, backward and inputs (a dict, a tuple, or "
        "a function that returns one). backward asks by parameter name for grad_output, output, "
        "any input, any intermediate that forward names with compare.name(tensor, 'z1').",
    )
    check.add_argument("file", type=Path, metavar="FILE", help="the Python file")
    check.add_argument("--dtype", metavar="T", help="move the inputs' floats to this dtype")
    check.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda or cuda:N")
    check.add_argument(
        "--demand", choices=("exact", "rounding"), default="rounding",
        help="what exit code 0 asks for (default: rounding)",
    )  # fmt: skip
    check.add_argument(
        "--lift", default="auto", metavar="HOW",
        help="lift all, none, or N entries of each large product (default: auto)",
    )  # fmt: skip
    check.add_argument(
        "--json", metavar="FILE", help="write the result as JSON, - for standard output"
    )
    check.add_argument("--quiet", action="store_true", help="print the verdict only")
    for command in (run, check):
        command.add_argument(
            "--html", metavar="FILE", help="write the report as one page with plots, FILE.html"
        )
    board = commands.add_parser(
        "board",
        allow_abbrev=False,
        help="look at the runs in TensorBoard",
        description="Serve the run folders with TensorBoard until Ctrl-C, every bucket of them.",
    )
    board.add_argument(
        "--port", type=_whole, default=6006, metavar="N",
        help="the port, or the next one that is free (default: 6006)",
    )  # fmt: skip
    runs = commands.add_parser("runs", allow_abbrev=False, help="list the runs and their verdicts")
    diff = commands.add_parser(
        "diff",
        allow_abbrev=False,
        help="say in what two runs differ",
        description="Say in what two runs differ: settings, environment, verdicts, first step.",
    )
    diff.add_argument("one", metavar="RUN", help="a folder's name, or its end")
    diff.add_argument("other", metavar="RUN", help="another")
    for command in (board, runs, diff):
        command.add_argument(
            "--log-dir",
            default="runs",
            metavar="DIR",
            help="where the run folders are (default: runs)",
        )
    commands.add_parser(
        "bench",
        help="time a checked step against plain autograd with SGD",
        description="Time the by-hand step, the checked step and autograd's, side by side.",
    )
    return parser


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Do what `argv` asks for and return the exit code.

    0 the demand is met, 1 it is not, 2 bad usage or input, 3 a fault of the program, 130 Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "--list" in words:
        words = ["--list"]
    elif not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    elif words[0] in CASES:
        print(f"compare: {words[0]!r} is a case: say run {words[0]}", file=sys.stderr)
        return 2
    try:
        with requests():
            code = _dispatch(_parser().parse_args(words))
            sys.stdout.flush()
            return code
    except BadInput as error:
        return _say(f"compare: {error}", 2)
    except KeyboardInterrupt:
        return _say("compare: stopped before anything was judged", 130)
    except OSError as error:
        # standard output itself cannot be written to; nothing more is said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _say(f"compare: cannot write the output: {error.strerror}", 2)
    except Exception:
        traceback.print_exc()
        return _say("compare: this is a fault of the program, not of your input", 3)


def _say(message: str, code: int) -> int:
    """Print a message to standard error, if there is one to print to."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code


def _dispatch(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    works = {"check": _check, "board": _board, "runs": _runs, "diff": _diff, "bench": _bench}
    return works.get(args.command, _run)(args)


def _list() -> int:
    console = _Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("case", no_wrap=True)
    table.add_column("promises", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("shows")
    for case in CASES.values():
        table.add_row(case.name, case.promises, f"{case.steps:,}", case.shows)
    console.print(table)
    return 0


def _board(args: argparse.Namespace) -> int:
    from compare.serve import serve, stop_at_signals

    if not 1 <= args.port <= 65535:
        raise BadInput(f"--port {args.port}: give 1 to 65535")
    stop = threading.Event()
    stop_at_signals(stop)
    serve(Path(args.log_dir), args.port, _Console().say, stop)
    return 0


def _runs(args: argparse.Namespace) -> int:
    from compare.history import runs

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "verdict"):  # a run's name ends in its case
        table.add_column(title, no_wrap=True)
    for title in ("steps", "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    for run in runs(Path(args.log_dir)):
        if (found := run.result) is None:
            table.add_row(run.name, "stopped before its end")
            continue
        verdict = Text(found["verdict"], style=STYLE[found["verdict"]])
        figures = f"{found['steps']:,}", f"{found['seconds']:.1f}"
        table.add_row(run.name, verdict, *figures)
    _Console().print(table, crop=False, soft_wrap=True)
    return 0


def _diff(args: argparse.Namespace) -> int:
    from compare.history import differences, find

    one, other = (find(Path(args.log_dir), name) for name in (args.one, args.other))
    rows = list(differences(one, other))
    console = _Console()
    if not rows:
        console.say(f"{one.name} and {other.name} differ in nothing but their time")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("what", one.name, other.name):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return 1


def _bench(args: argparse.Namespace) -> int:
    del args
    from compare.bench import bench

    return bench(_Console())


def _check(args: argparse.Namespace) -> int:
    if args.json is not None and args.json != "-":
        _check_can_hold("--json", args.json)
    _check_html(args, None)
    from compare.given import device_named, dtype_named
    from compare.userfile import check_file

    signal.signal(signal.SIGINT, signal.default_int_handler)  # their code may never end
    dtype = None if args.dtype is None else dtype_named(args.dtype)
    report = check_file(args.file, dtype=dtype, device=device_named(args.device), lift=args.lift)
    console = _Console(stderr=args.json == "-")
    console.print(report.headline() if args.quiet else report, crop=False)
    if args.json is not None:
        _save_json(report.to_json(), args.json)
    if args.html is not None:
        report.save(args.html)
    return 0 if report.meets(args.demand) else 1


def _run(args: argparse.Namespace) -> int:
    case = options.asked(find(args.case), vars(args), args.seed)
    on_stdout = args.json == "-"
    if args.json is not None and not on_stdout:
        _check_can_hold("--json", args.json)
    _check_html(args, case)
    if str(args.log_dir) in ("", "."):
        raise BadInput("--log-dir is empty: name a folder, runs is the usual one")
    console = _Console(stderr=on_stdout)
    if case.sweep:
        return _sweep(args, case, console)

    report, folder, _ = _train(args, case, console)
    console.print(report.headline() if args.quiet else report, crop=False)
    if not args.quiet:
        _closing(console, report, folder)
    if args.json is not None:
        _save_json(report.to_json(), args.json)
    if args.html is not None:
        report.save(args.html)
    if folder and folder.failed:
        raise BadInput(folder.failed)
    if report.interrupted:
        return 130
    return 0 if report.meets(args.demand or case.demand) else 1


def _train(
    args: argparse.Namespace, case: Case, console: _Console, *, lines: bool = True
) -> tuple["Report", "RunFolder | None", list[float]]:
    """Run one case; return its report, its folder, and the errors that the blog prints."""
    from compare.harness import Run  # torch comes in here, not for --help or --list

    steps = case.steps if args.steps is None else args.steps
    run = Run(
        case, steps=steps, dtype=args.dtype, device=args.device, seed=args.seed,
        population=args.population, lift=args.lift,
    )  # fmt: skip
    folder = None if args.no_board else _folder(Path(args.log_dir), run)
    try:
        with _Progress(console, steps, quiet=args.quiet, lines=lines) as progress:
            report = run.train([progress] if folder is None else [folder, progress])
    except BaseException:
        if folder:
            folder.discard()
        raise
    if not report.steps:
        if folder:
            folder.discard()
        raise KeyboardInterrupt
    if folder:
        folder.finish(report)
    return report, folder, progress.errors


def _sweep(args: argparse.Namespace, case: Case, console: _Console) -> int:
    """Run a case's networks in turn; print a line of errors for each as it is done."""
    steps = case.steps if args.steps is None else args.steps
    titles = "".join(f"{f'error at {step:,}':<17}" for step in _told(steps))
    if not args.quiet:
        console.say(f"{'sizes':<8}{'alpha':>6}  {titles}verdict")
    reports: list[Report] = []
    met: list[bool] = []
    failed = None
    for network in case.sweep:
        one = replace(case, network=network, sweep=(), promises="")
        report, folder, errors = _train(args, one, console, lines=False)
        reports.append(report)
        met.append(report.meets(args.demand or one.demand))
        failed = failed or (folder and folder.failed)
        if not args.quiet:
            numbers = "".join(f"{error:<17.12g}" for error in errors)
            sizes = "-".join(map(str, network.sizes))
            console.say(f"{sizes:<8}{network.alpha:>6g}  {numbers}{report.verdict}")
            if not met[-1]:
                console.print(report, crop=False)
        if report.interrupted:
            break
    worst = next(v for v in WEIGHT if v in {report.verdict for report in reports})
    console.say(f"{worst}  {len(reports)} networks, each compared at every step")
    if args.json is not None:
        runs = [report.to_dict() for report in reports]
        text = json.dumps({"case": case.name, "verdict": worst, "runs": runs}, indent=1) + "\n"
        _save_json(text, args.json)
    if failed:
        raise BadInput(failed)
    if reports[-1].interrupted:
        return 130
    return 0 if all(met) else 1


def _check_html(args: argparse.Namespace, case: Case | None) -> None:
    if args.html is None:
        return
    if not args.html.endswith(".html"):
        raise BadInput(f"--html {args.html}: name a file that ends in .html")
    if case and case.sweep:
        raise BadInput(f"--html {args.html}: case {case.name} is a table; see --json")
    _check_can_hold("--html", args.html)


def _check_can_hold(option: str, name: str) -> None:
    """Raise BadInput, before anything runs, for a file that could not be written after."""
    path = Path(name)
    if not name or path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise BadInput(f"{option} {name}: no file can be written there, name another place")


def _folder(log_dir: Path, run: "Run") -> "RunFolder":
    """Make the run folder; tensorboard comes in only here."""
    try:
        from compare.board import RunFolder
    except ImportError as error:
        raise BadInput(
            f"{error}: install tensorboard for curves (pip install tensorboard), or say --no-board"
        ) from error
    return RunFolder(log_dir, run)


class _Progress:
    """The blog's "Error:" lines, and on a terminal a bar while the run goes on."""

    def __init__(self, console: _Console, steps: int, *, quiet: bool, lines: bool) -> None:
        self.console = console
        self.lines = lines and not quiet
        self.told = set(_told(steps))
        self.errors: list[float] = []
        self.bar = Progress(
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=steps, speed="")

    def __enter__(self) -> "_Progress":
        self.bar.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.bar.stop()

    def __call__(self, chunk: "Chunk") -> None:
        """Move the bar, and keep and print the errors that the blog prints."""
        for k in sorted(self.told & set(range(chunk.start, chunk.start + chunk.steps))):
            error = float(chunk.error["manual"][k - chunk.start])
            self.errors.append(error)
            if not self.lines:
                continue
            right = chunk.accuracy.get("manual")
            share = "" if right is None else f"   right: {float(right[k - chunk.start]):.1%}"
            self.console.say(f"Error:{error:.12g}{share}")
        speed = self.bar.tasks[0].speed
        self.bar.update(
            self.task, advance=chunk.steps, speed=f"{speed:,.0f} steps/s" if speed else ""
        )


def _told(steps: int) -> range:
    """Return the steps whose error is told: of 60,000 every 10,000th, as the blog does."""
    return range(0, steps, max(1, -(-steps // 6)))


def _closing(console: _Console, report: "Report", folder: "RunFolder | None") -> None:
    """Print what else is worth knowing: the output, the free run, the time, where to look."""
    if 0 < len(report.output) <= _FEW_ROWS:
        rows = "  ".join(" ".join(f"{value:.8f}" for value in row) for row in report.output)
        console.say(f"  output after training  {rows}")
    if report.steps > 1:
        if all(q.equal == q.compared for q in report.quantities.values()):
            free = "the same, since each step is"
        else:
            free = f"weights up to {report.free_gap:.3g} apart"
        console.say(f"  autograd on its own    {free}")
    if report.accuracy is not None:
        console.say(f"  rows kept back         {report.accuracy:.2%} right, by hand")
    speed = report.steps / report.seconds
    console.say(f"  {report.seconds:.1f} s, {speed:,.0f} checked steps a second")
    if folder and not folder.failed:
        place = shlex.quote(str(folder.path.parent))
        where = "" if place == "runs" else f" --log-dir {place}"
        console.say(f"  curves: python -m compare board{where}   ({folder.path.name})")


def _save_json(text: str, name: str) -> None:
    """Write JSON to standard output or a file."""
    if name == "-":
        _Console().out(text, end="")
    else:
        save(Path(name), text)
