"""Trains a case, or goes on with a run that was stopped, and judges every step."""

import argparse
import gc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from compare.cases import options
from compare.cases.cases import MAX_STEPS, Case, check_steps, find_case
from compare.cli.outputs import prepared, write
from compare.cli.parser import EXAMPLES, NewCommand, whole
from compare.console import PlainConsole
from compare.errors import BadInput
from compare.interrupts import exit_code
from compare.ranks.ranks import Ranks
from compare.ranks.watchdog import DEFAULT_WAIT, joined_ranks

if TYPE_CHECKING:
    from compare.board.run_folder import RunFolder
    from compare.report.chunk import Chunk
    from compare.report.report import Report
    from compare.training.harness import Run

_FEW_ROWS = 8  # an output of at most this many rows is shown after training


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="run a case (the default command)",
        description="Run a case: train by hand, judge every step by autograd, report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.option
    option("case", "CASE", "one of --list (default: three_layer)", nargs="?")
    words = f"training steps, at most {MAX_STEPS:,} (default: the case's)"
    option("--steps", "N", words, type=whole)
    option("--dtype", "T", "float64 (default), float32, float16, bfloat16")
    option("--device", "D", "cpu (default), cuda or cuda:N")
    option("--seed", "S", "numpy's seed (default: 1)", type=whole)
    words = "networks side by side, with the seeds S, S+1, ... (default: 1)"
    option("--population", "P", words, type=whole)
    words = "what exit code 0 asks for (default: what the case promises)"
    option("--demand", None, words, choices=("exact", "rounding"))
    words = "where the TensorBoard run folder goes (default: runs)"
    option("--log-dir", "DIR", words, default="runs")
    option("--no-board", None, "write no run folder, hence no checkpoint")
    words = "how long a rank waits for the others under torchrun (default: 300)"
    option("--wait", "SEC", words, type=_seconds, default=DEFAULT_WAIT)
    option(
        "--resume", "RUN",
        "go on with a run that was stopped, in its own folder and with its settings: the folder's "
        "name, or its end. A run writes a checkpoint there now and then, the first after some "
        "seconds",
    )  # fmt: skip
    parser.shared("--lift", "--quiet", "--json", "--html")
    options.add(parser)
    parser.set_defaults(**dict.fromkeys(options.DEFAULTS))  # None: not on the command line


def _seconds(text: str) -> float:
    try:
        if 1 <= (seconds := float(text)) <= 1e6:
            return seconds
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: give 1 second or more")


def run(args: argparse.Namespace) -> int:
    """Train a case by hand and judge every step; of several ranks the first one reports."""
    if args.resume is None:
        vars(args).update({n: v for n, v in options.DEFAULTS.items() if getattr(args, n) is None})
    elif args.no_board:
        raise BadInput("--no-board: --resume goes on in the run's folder; leave one of them out")
    with joined_ranks(args.device, args.wait) as ranks:
        if ranks.rank:
            args.json = args.html = None
        return (_run if args.resume is None else _resume)(args, ranks)


def _run(args: argparse.Namespace, ranks: Ranks) -> int:
    case = options.apply(find_case(args.case), vars(args), args.seed)
    console = _prepare(args, case, ranks)
    if case.sweep:
        return _sweep(args, case, console, ranks)
    report, folder, _ = _train(args, case, console, ranks)
    return _tell(args, case, console, report, folder)


def _resume(args: argparse.Namespace, ranks: Ranks) -> int:
    """Go on with a run that was stopped."""
    console = _prepare(args, None, ranks)
    try:
        from compare.board.resume import taken_up
    except ImportError as error:
        raise BadInput(f"{error}: install tensorboard (pip install tensorboard)") from error

    with taken_up(Path(args.log_dir), args.resume, vars(args), ranks) as (training, folder):
        report, _ = _go(args, training, folder, console)
        return _tell(args, training.case, console, report, folder)


def _prepare(args: argparse.Namespace, case: Case | None, ranks: Ranks) -> PlainConsole:
    """Raise BadInput, before anything runs, for outputs that cannot be; return the console."""
    if args.html is not None and case and case.sweep:
        raise BadInput(f"--html {args.html}: case {case.name} is a table; see --json")
    if str(args.log_dir) in ("", "."):
        raise BadInput("--log-dir is empty: name a folder, runs is the usual one")
    return prepared(args, quiet=ranks.rank > 0)


def _tell(
    args: argparse.Namespace, case: Case, console: PlainConsole, report: "Report",
    folder: "RunFolder | None",
) -> int:  # fmt: skip
    """Print and save what was found; return the exit code.

    What cannot be written takes nothing else with it, and is said in one line when all is done.
    """
    console.print(report.headline() if args.quiet else report, crop=False)
    if not args.quiet:
        _closing(console, report, folder)
    failed = [folder.failed] if folder and folder.failed else []
    write(args, console, report.to_dict, report.page, failed)
    if report.interrupted:
        return exit_code()
    return 0 if report.meets(args.demand or case.demand) else 1


def _train(
    args: argparse.Namespace, case: Case, console: PlainConsole, ranks: Ranks, *,
    lines: bool = True,
) -> tuple["Report", "RunFolder | None", list[float]]:  # fmt: skip
    """Run one case; return its report, its folder, and the errors that the blog prints."""
    from compare.training.harness import Run  # torch comes in here, not for --help or --list

    training = Run(
        case, steps=args.steps, dtype=args.dtype, device=args.device, seed=args.seed,
        population=args.population, lift=args.lift, ranks=ranks,
    )  # fmt: skip
    folder = None if args.no_board or ranks.rank else _folder(Path(args.log_dir), training)
    report, errors = _go(args, training, folder, console, lines=lines)
    return report, folder, errors


def _go(
    args: argparse.Namespace, training: "Run", folder: "RunFolder | None", console: PlainConsole,
    *, lines: bool = True,
) -> tuple["Report", list[float]]:  # fmt: skip
    """Train to the end, in its folder; return the report, and the errors that the blog prints."""
    from compare.cli.progress import RunProgress

    steps, done, quiet = training.steps, training.report.steps, args.quiet
    if not gc.get_freeze_count():
        gc.freeze()  # torch and all that is loaded stays: no collection need walk through it
    try:
        with RunProgress(console, steps, done=done, quiet=quiet, lines=lines) as progress:
            report = training.train([progress, folder or partial(_no_folder, args, training)])
        if not report.steps:
            raise KeyboardInterrupt
    except BaseException:
        if folder:
            folder.discard()
        raise
    if folder:
        folder.finish(report)
    return report, progress.errors


def _no_folder(args: argparse.Namespace, training: "Run", _chunk: "Chunk") -> None:
    """Give this rank's state to the first one, where that keeps a checkpoint."""
    from compare.checkpoint.checkpoint import states

    if not args.no_board:
        states(training)


def _sweep(args: argparse.Namespace, case: Case, console: PlainConsole, ranks: Ranks) -> int:
    """Run a case's networks in turn; print a line of errors for each as it is done."""
    from compare.cli.progress import told

    steps = check_steps(case.steps if args.steps is None else args.steps)
    titles = "".join(f"{f'error at {step:,}':<17}" for step in told(steps))
    if not args.quiet:
        console.say(f"{'sizes':<8}{'alpha':>6}  {titles}verdict")
    reports: list[Report] = []
    met: list[bool] = []
    failed: list[str] = []
    for network in case.sweep:
        one = replace(case, network=network, sweep=(), promises="")
        report, folder, errors = _train(args, one, console, ranks, lines=False)
        reports.append(report)
        met.append(report.meets(args.demand or one.demand))
        failed += [folder.failed] if folder and folder.failed else []
        if not args.quiet:
            numbers = "".join(f"{error:<17.12g}" for error in errors)
            sizes = "-".join(map(str, network.sizes))
            console.say(f"{sizes:<8}{network.alpha:>6g}  {numbers}{report.verdict}")
            if not met[-1]:
                console.print(report, crop=False)
        if report.interrupted:
            break
    worst = max(report.verdict for report in reports)
    console.say(f"{worst}  {len(reports)} networks, each compared at every step")
    both = {"case": case.name, "verdict": worst}
    write(args, console, lambda: {**both, "runs": [r.to_dict() for r in reports]}, failed=failed)
    if reports[-1].interrupted:
        return exit_code()
    return 0 if all(met) else 1


def _folder(log_dir: Path, run: "Run") -> "RunFolder":
    """Make the run folder; tensorboard comes in only here."""
    try:
        from compare.board.run_folder import RunFolder
    except ImportError as error:
        raise BadInput(
            f"{error}: install tensorboard for curves (pip install tensorboard), or say --no-board"
        ) from error
    return RunFolder(log_dir, run)


def _closing(console: PlainConsole, report: "Report", folder: "RunFolder | None") -> None:
    """Print what else is worth knowing: the output, the free run, the time, where to look."""
    if 0 < len(report.output) <= _FEW_ROWS:
        rows = "  ".join(" ".join(f"{value:.8f}" for value in row) for row in report.output)
        console.say(f"  output after training  {rows}")
    if report.steps > 1:
        if all(q.equal == q.compared for q in report.quantities.values()):
            free = "ends at the same weights, since every step is equal"
        elif report.free_gap is None:
            free = "not run, because there are too many weights"
        else:
            free = f"ends at weights that differ by at most {report.free_gap:.3g}"
        console.say(f"  autograd alone         {free}")
    if report.accuracy is not None:
        console.say(f"  rows kept back         {report.accuracy:.2%} right, by hand")
    speed = f", {report.steps / report.seconds:,.0f} checked steps a second"
    console.say(f"  {report.seconds:.1f} s{speed if report.steps > 1 else ''}")
    if folder and not folder.failed:
        from compare.checkpoint.folder import CHECKPOINT

        where = options.log_dir_option(folder.path.parent)
        console.say(f"  curves: python -m compare board{where}   ({folder.path.name})")
        if report.interrupted and (folder.path / CHECKPOINT).exists():
            console.say(
                f"  resume: {folder.run.ranks.command(options.resume_command(folder.path))}"
            )
