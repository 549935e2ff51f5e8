"""The command `run`: train a case, or resume a stopped run, and check every step."""

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

_FEW_ROWS = 8  # the output after training is printed if it has at most this many rows


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="run a case (the default command)",
        description="Run a case: train by hand, check every step against autograd, print a report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.option
    option("case", "CASE", "a case of --list (default: three_layer)", nargs="?")
    text = f"number of training steps, at most {MAX_STEPS:,} (default: set by the case)"
    option("--steps", "N", text, type=whole)
    option("--dtype", "T", "float64 (default), float32, float16, bfloat16")
    option("--device", "D", "cpu (default), cuda or cuda:N")
    option("--seed", "S", "seed of numpy's random generator (default: 1)", type=whole)
    text = "train P networks side by side, with the seeds S, S+1, ... (default: 1)"
    option("--population", "P", text, type=whole)
    text = "worst verdict that gives exit code 0 (default: exact if --list expects EXACT, "
    text += "else rounding)"
    option("--demand", None, text, choices=("exact", "rounding", "within"))
    text = "folder in which the run folder is made (default: runs)"
    option("--log-dir", "DIR", text, default="runs")
    option("--no-board", None, "write no run folder, and therefore no checkpoint")
    text = "seconds that a rank waits for the others under torchrun (default: 300)"
    option("--wait", "SEC", text, type=_seconds, default=DEFAULT_WAIT)
    option(
        "--resume", "RUN",
        "resume a stopped run in its own folder and with its settings. RUN is the name of the run "
        "folder, or the last part of the name. A run writes its first checkpoint after 5 seconds, "
        "and then at intervals",
    )  # fmt: skip
    parser.shared("--lift", "--quiet", "--json", "--html")
    options.add(parser)
    # None marks an option that was not used; `run` fills in options.DEFAULTS
    parser.set_defaults(**dict.fromkeys(options.DEFAULTS))


def _seconds(text: str) -> float:
    try:
        if 1 <= (seconds := float(text)) <= 1e6:
            return seconds
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: give 1 second or more")


def run(args: argparse.Namespace) -> int:
    """Train a case by hand and check every step; with several ranks only rank 0 reports."""
    if args.resume is None:
        vars(args).update({n: v for n, v in options.DEFAULTS.items() if getattr(args, n) is None})
    elif args.no_board:
        raise BadInput("--no-board: --resume needs the run folder; leave one of the two out")
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
    return _report(args, case, console, report, folder)


def _resume(args: argparse.Namespace, ranks: Ranks) -> int:
    """Resume a stopped run from its checkpoint."""
    console = _prepare(args, None, ranks)
    try:
        from compare.board.resume import stopped_run
    except ImportError as error:
        raise BadInput(f"{error}: install tensorboard (pip install tensorboard)") from error

    with stopped_run(Path(args.log_dir), args.resume, vars(args), ranks) as (training, folder):
        report, _ = _train_to_end(args, training, folder, console)
        return _report(args, training.case, console, report, folder)


def _prepare(args: argparse.Namespace, case: Case | None, ranks: Ranks) -> PlainConsole:
    """Return the console; raise BadInput, before training starts, for impossible outputs."""
    if args.html is not None and case and case.sweep:
        raise BadInput(
            f"--html {args.html}: case {case.name} trains several networks and has no report page; "
            "use --json"
        )
    if str(args.log_dir) in ("", "."):
        raise BadInput("--log-dir is empty: name a folder (the default is runs)")
    return prepared(args, quiet=ranks.rank > 0)


def _report(
    args: argparse.Namespace, case: Case, console: PlainConsole, report: "Report",
    folder: "RunFolder | None",
) -> int:  # fmt: skip
    """Print and save the report; return the exit code.

    An output that cannot be written does not stop the others; all failures are reported last.
    """
    console.print(report.headline() if args.quiet else report, crop=False)
    if not args.quiet:
        _print_summary(console, report, folder)
    failed = [folder.failed] if folder and folder.failed else []
    write(args, console, report.to_dict, report.page, failed)
    if report.interrupted:
        return exit_code()
    return 0 if report.meets(args.demand or case.demand) else 1


def _train(
    args: argparse.Namespace, case: Case, console: PlainConsole, ranks: Ranks, *,
    lines: bool = True,
) -> tuple["Report", "RunFolder | None", list[float]]:  # fmt: skip
    """Run one case; return its report, its run folder, and the errors that the blog prints."""
    from compare.training.harness import Run  # imported late: --help and --list need no torch

    training = Run(
        case, steps=args.steps, dtype=args.dtype, device=args.device, seed=args.seed,
        population=args.population, lift=args.lift, ranks=ranks,
    )  # fmt: skip
    folder = None if args.no_board or ranks.rank else _folder(Path(args.log_dir), training)
    report, errors = _train_to_end(args, training, folder, console, lines=lines)
    return report, folder, errors


def _train_to_end(
    args: argparse.Namespace, training: "Run", folder: "RunFolder | None", console: PlainConsole,
    *, lines: bool = True,
) -> tuple["Report", list[float]]:  # fmt: skip
    """Train to the last step; return the report and the errors that the blog prints."""
    from compare.cli.progress import RunProgress

    steps, done, quiet = training.steps, training.report.steps, args.quiet
    if not gc.get_freeze_count():
        gc.freeze()  # loaded modules stay until exit: spare every collection walking through them
    try:
        with RunProgress(console, steps, done=done, quiet=quiet, lines=lines) as progress:
            report = training.train([progress, folder or partial(_send_state, args, training)])
        if not report.steps:
            raise KeyboardInterrupt
    except BaseException:
        if folder:
            folder.discard()
        raise
    if folder:
        folder.finish(report)
    return report, progress.errors


def _send_state(args: argparse.Namespace, training: "Run", _chunk: "Chunk") -> None:
    """Send this rank's state to rank 0, which writes the checkpoint of all ranks."""
    from compare.checkpoint.checkpoint import states

    if not args.no_board:
        states(training)


def _sweep(args: argparse.Namespace, case: Case, console: PlainConsole, ranks: Ranks) -> int:
    """Run the networks of a case one after the other; print a line of errors for each."""
    from compare.cli.progress import error_steps

    steps = check_steps(case.steps if args.steps is None else args.steps)
    titles = "".join(f"{f'error at {step:,}':<17}" for step in error_steps(steps))
    if not args.quiet:
        console.say(f"{'sizes':<8}{'alpha':>6}  {titles}verdict")
    reports: list[Report] = []
    passed: list[bool] = []
    failed: list[str] = []
    for network in case.sweep:
        single = replace(case, network=network, sweep=(), promises="")
        report, folder, errors = _train(args, single, console, ranks, lines=False)
        reports.append(report)
        passed.append(report.meets(args.demand or single.demand))
        failed += [folder.failed] if folder and folder.failed else []
        if not args.quiet:
            numbers = "".join(f"{error:<17.12g}" for error in errors)
            sizes = "-".join(map(str, network.sizes))
            console.say(f"{sizes:<8}{network.alpha:>6g}  {numbers}{report.verdict}")
            if not passed[-1]:
                console.print(report, crop=False)
        if report.interrupted:
            break
    worst = max(report.verdict for report in reports)
    console.say(f"{worst}  {len(reports)} networks, each compared at every step")
    head = {"case": case.name, "verdict": worst}
    write(args, console, lambda: {**head, "runs": [r.to_dict() for r in reports]}, failed=failed)
    if reports[-1].interrupted:
        return exit_code()
    return 0 if all(passed) else 1


def _folder(log_dir: Path, run: "Run") -> "RunFolder":
    """Make the run folder; tensorboard is imported only when one is wanted."""
    try:
        from compare.board.run_folder import RunFolder
    except ImportError as error:
        raise BadInput(
            f"{error}: install tensorboard for curves (pip install tensorboard), or use --no-board"
        ) from error
    return RunFolder(log_dir, run)


def _print_summary(console: PlainConsole, report: "Report", folder: "RunFolder | None") -> None:
    """Print the output, the run of autograd alone, the time, and the commands that go on."""
    if 0 < len(report.output) <= _FEW_ROWS:
        rows = "  ".join(" ".join(f"{value:.8f}" for value in row) for row in report.output)
        console.say(f"  output after training  {rows}")
    if report.steps > 1:
        if all(q.equal == q.compared for q in report.quantities.values()):
            alone = "ends at the same weights, since every step is equal"
        elif report.free_gap is None:
            alone = "not tracked: too many weights"
        else:
            alone = f"ends with weights that differ by at most {report.free_gap:.3g}"
        console.say(f"  autograd alone         {alone}")
    if report.accuracy is not None:
        correct = f"{report.accuracy:.2%} classified correctly by the by-hand network"
        console.say(f"  test rows              {correct}")
    rate = report.steps / report.seconds
    speed = f", {rate:,.{0 if rate >= 10 else 1}f} checked steps per second"
    console.say(f"  {report.seconds:.1f} s{speed if report.steps > 1 else ''}")
    if folder and not folder.failed:
        from compare.checkpoint.run_folder_files import CHECKPOINT

        log_dir = options.log_dir_option(folder.path.parent)
        console.say(f"  curves: python -m compare board{log_dir}   ({folder.path.name})")
        if report.interrupted and (folder.path / CHECKPOINT).exists():
            console.say(
                f"  resume: {folder.run.ranks.command(options.resume_command(folder.path))}"
            )
