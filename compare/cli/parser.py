"""What the command line says, and what it takes."""

import argparse
from pathlib import Path
from typing import NoReturn

from compare.bench.claims import CHOICES
from compare.cases import options
from compare.cases.cases import MOST_STEPS
from compare.errors import BadInput
from compare.practice.levels import LEVELS
from compare.ranks.watchdog import WAIT
from compare.streams import streams

EXAMPLES = """\
examples:
  python -m compare                                 the blog's 3-layer network, all 60,000 steps
  python -m compare run two_layer --dtype float32   Part 1 of the blog in single precision
  python -m compare run deep --population 8         eight networks at once, seeds 1 to 8
  python -m compare run three_layer --json -        the result as JSON on standard output
  python -m compare run network --sizes 3,8,8,1 --activation tanh --bias --momentum 0.9
  python -m compare run network --data my.csv --target species --dropout 0.2
  torchrun --nproc-per-node 2 -m compare run digits   each step's rows shared by 2 processes
  python -m compare --list                          every case and what it promises
  python -m compare run --resume three_layer        go on with a run that was stopped
  python -m compare check my_layer.py               your own forward, backward and inputs
  python -m compare practice new my_network.py      rebuild the blog's network from memory
  python -m compare mutants my_layer.py             would the checks see a bug in it?
  python -m compare board                           look at the curves of all runs
  python -m compare runs                            list them; diff RUN RUN compares two

exit codes:
  0  the demand is met    1  it is not    2  bad usage or bad input
  3  a fault of this program              130  stopped by Ctrl-C (143 SIGTERM, 129 SIGHUP)
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (python -m compare --help shows examples)")

    def print_help(self, _file: object = None) -> None:
        streams().output.write(self.format_help())  # argparse itself hides what cannot be written


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    top = _Parser(
        prog="python -m compare",
        allow_abbrev=False,
        description="Train by hand and by autograd side by side, and compare every bit.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--list", action="store_true", help="list the cases and stop")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    run = commands.add_parser(
        "run",
        allow_abbrev=False,
        help="run a case (the default command)",
        description="Run a case: train by hand, judge every step by autograd, report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "case", nargs="?", metavar="CASE",
        help="one of --list (default: three_layer)",
    )  # fmt: skip
    run.add_argument(
        "--steps", type=_whole, metavar="N",
        help=f"training steps, at most {MOST_STEPS:,} (default: the case's)",
    )  # fmt: skip
    run.add_argument("--dtype", metavar="T", help="float64 (default), float32, float16, bfloat16")
    run.add_argument("--device", metavar="D", help="cpu (default), cuda or cuda:N")
    run.add_argument("--seed", type=_whole, metavar="S", help="numpy's seed (default: 1)")
    run.add_argument(
        "--population", type=_whole, metavar="P",
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
    run.add_argument(
        "--no-board", action="store_true", help="write no run folder, hence no checkpoint"
    )
    run.add_argument(
        "--wait", type=_seconds, default=WAIT, metavar="SEC",
        help="how long a rank waits for the others under torchrun (default: 300)",
    )  # fmt: skip
    run.add_argument(
        "--resume", metavar="RUN",
        help="go on with a run that was stopped, in its own folder and with its settings: the "
        "folder's name, or its end. A run writes a checkpoint there now and then, the first after "
        "some seconds",
    )  # fmt: skip
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
    mutants = commands.add_parser(
        "mutants",
        allow_abbrev=False,
        help="see how many bugs a check of your backward pass would catch",
        description="Make mutants of a backward pass, each with one operation wrong, and count how "
        "many check catches, and how many allclose, assert_close, gradcheck and twice the error of "
        "low precision do. Says which lines the inputs do not exercise. Exit code 0: check caught "
        "all that are not the same function.",
    )
    mutants.add_argument(
        "target", metavar="FILE|CASE", help="a file as check takes it, or one of --list"
    )
    mutants.add_argument("--dtype", metavar="T", help="move the inputs' floats to this dtype")
    mutants.add_argument(
        "--seed", type=_whole, default=0, metavar="S", help="of what is drawn anew (default: 0)"
    )
    mutants.add_argument("--quiet", action="store_true", help="print how many survived only")
    mutants.add_argument(
        "--json", metavar="FILE", help="write the result as JSON, - for standard output"
    )
    mutants.add_argument(
        "--save", metavar="FILE", help="save inputs that show what survived, for --inputs"
    )
    for command in (check, mutants):
        command.add_argument(
            "--inputs", type=Path, metavar="FILE",
            help="inputs that mutants --save wrote, in place of the file's own",
        )  # fmt: skip
        command.add_argument(
            "--timeout", type=float, metavar="SECONDS",
            help="stop a file that runs longer (default: no limit)",
        )  # fmt: skip
    for command in (run, check):
        command.add_argument(
            "--lift", default="auto", metavar="HOW",
            help="lift all, none, or N entries of each large product (default: auto)",
        )  # fmt: skip
        command.add_argument("--quiet", action="store_true", help="print the verdict only")
        command.add_argument(
            "--json", metavar="FILE", help="write the result as JSON, - for standard output"
        )
        command.add_argument(
            "--html", metavar="FILE", help="write the report as one page with plots, FILE.html"
        )
    options.add(run)
    _add_practice(commands)
    run.set_defaults(**dict.fromkeys(options.USUAL))  # None: not asked for, see options.USUAL
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
    bench = commands.add_parser(
        "bench",
        allow_abbrev=False,
        help="time our steps beside autograd with SGD and other peers",
        description="Time by-hand and checked steps beside autograd with SGD, torch.compile, "
        "torch.func, numpy, JAX and gradcheck: each claim with its limit, whether it holds here, "
        "and every peer that is faster. Groups: " + ", ".join(CHOICES) + ".",
    )
    bench.add_argument(
        "--only", metavar="GROUP", action="append", default=[],
        help="one group, may be given several times (default: all, some minutes)",
    )  # fmt: skip
    bench.add_argument(
        "--json", metavar="FILE", help="write every figure as JSON, - for standard output"
    )
    bench.add_argument(
        "--plot", metavar="FILE", help="draw the growth as a picture, FILE.png (needs matplotlib)"
    )
    bench.add_argument(
        "--threads", type=_whole, metavar="N", help="of torch (default: its own choice); on a busy "
        "machine 1 is steadier",
    )  # fmt: skip
    return top


def _add_practice(commands: "argparse._SubParsersAction[_Parser]") -> None:
    practice = commands.add_parser(
        "practice",
        allow_abbrev=False,
        usage="python -m compare practice new FILE [--level NAME]\n"
        "       python -m compare practice FILE [--hint] [--answer] [--timeout SECONDS]",
        help="rebuild the networks from memory, line by line",
        description="`new` writes a file with the blog's data and names and lines to fill in. "
        "Without it the file is checked line by line and trained: the first line that is not "
        f"right is shown, with a hint. Levels: {', '.join(LEVELS)}.",
    )
    practice.add_argument("words", nargs="+", metavar="[new] FILE", help="the practice file")
    practice.add_argument("--level", metavar="NAME", help="of `new`: the level (two_layer)")
    practice.add_argument("--hint", action="store_true", help="say more about the line")
    practice.add_argument("--answer", action="store_true", help="show the line as it should be")
    practice.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS",
        help="stop a file that runs longer (default: 60)",
    )  # fmt: skip
    practice.add_argument(
        "--json", metavar="FILE", help="write the answer as JSON, - for standard output"
    )


def _seconds(text: str) -> float:
    try:
        if 1 <= (seconds := float(text)) <= 1e6:
            return seconds
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: give 1 second or more")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
