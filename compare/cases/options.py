"""The command-line options that describe a network: one for each field of `Network`."""

import argparse
import dataclasses
import functools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compare.cases.cases import CASES, INITS, Case, Network
from compare.errors import BadInput, unknown

#: The default settings of a run. argparse itself has None for each, so that --resume can tell which
#: options the command line names.
DEFAULTS: dict[str, Any] = {
    "case": "three_layer", "dtype": "float64", "device": "cpu", "seed": 1, "population": 1,
    "lift": "auto",
}  # fmt: skip
#: The options for fields of Case and for its data, as arguments of argparse.
_CASE_OPTIONS: dict[str, dict[str, Any]] = {
    "init": {
        "metavar": "V", "help": f"initial weights: {', '.join(INITS)} (default: blog)"
    },
    "batch_size": {
        "type": int, "metavar": "N",
        "help": "rows of a mini-batch (default: all rows at every step)",
    },
    "data": {
        "type": Path, "metavar": "FILE",
        "help": "CSV file with your own data: numbers and a column of classes",
    },
    "target": {"metavar": "COLUMN", "help": "name of the column of classes (default: the last)"},
}  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of Network, for the initial weights and for the data."""
    group = parser.add_argument_group(
        "your own network", "for 'run network', or to change a case built from these options"
    )
    fields = {field.name: _argparse_settings(field) for field in dataclasses.fields(Network)}
    for name, settings in (fields | _CASE_OPTIONS).items():
        group.add_argument(_flag(name), dest=name, default=argparse.SUPPRESS, **settings)


def _argparse_settings(field: "dataclasses.Field[Any]") -> dict[str, Any]:
    """Return the keyword arguments of `add_argument` for a field's option."""
    text = field.metadata.get("help", "number of values in each layer, inputs first: 3,8,8,1")
    choices = field.metadata.get("choices") or ()
    if choices:
        text += f": {', '.join(choices)}"
    if isinstance(field.default, bool):
        return {"action": "store_true", "help": text}
    if field.name != "sizes":
        text += f" (default: {_value_text(field.default)})"
    value_type = str if choices else _LIST_TYPES.get(field.name, float)
    return {"type": value_type, "metavar": "V", "help": text}


def apply(case: Case, options: dict[str, Any], seed: int) -> Case:
    """Return the case with the options of the command line applied.

    Args:
        case: the case that the command line names.
        options: the parsed command line, by name; names that are no option of a network are
            ignored.
        seed: seed of the run, which splits the rows of `--data`.

    Raises:
        BadInput: for an option of a case that takes none, or a value that cannot be used.
    """
    requested = {name: options[name] for name in _option_values(case) if name in options}
    if not requested:
        return case
    if case.by_hand != "network" or case.sweep:
        fixed = "a fixed table of networks" if case.sweep else "a fixed listing"
        raise BadInput(
            f"{_flag(next(iter(requested)))}: case {case.name} is {fixed} and takes no such "
            "option; use it with 'run network'"
        )
    if requested.get("init", "blog") not in INITS:
        raise unknown("init", requested["init"], INITS)
    if "data" in requested:
        if not requested["data"].name:
            raise BadInput("--data is empty: name a CSV file")
        case = _with_table(case, requested.pop("data"), requested.pop("target", None), seed)
    elif "target" in requested:
        raise BadInput(
            f"--target {requested['target']}: it names a column of a table; give --data FILE too"
        )
    case_fields = {n: requested.pop(n) for n in ("init", "batch_size") if n in requested}
    network = dataclasses.replace(case.network, **requested)
    network.check()
    return dataclasses.replace(case, network=network, promises="", **case_fields)


def _with_table(case: Case, path: Path, target: str | None, seed: int) -> Case:
    """Return the case on the user's table, with the defaults of a classifier."""
    from compare.cases.data import csv_table

    data = functools.partial(csv_table, path, target)
    table = data(seed)
    rows, inputs = table.X.shape
    batch_size = min(32, rows)
    network = dataclasses.replace(
        case.network, sizes=(inputs, 16, len(table.classes)), alpha=0.1, output="identity",
        loss="cross_entropy",
    )  # fmt: skip
    return dataclasses.replace(
        case, network=network, X=(), y=(), data=data, init="glorot", batch_size=batch_size,
        steps=50 * (rows // batch_size),
    )  # fmt: skip


def command(case: Case, steps: int, settings: dict[str, Any]) -> str | None:
    """Return the command line that repeats a run; None where no command line can.

    Options at their defaults are left out. A case that was built in Python has no command line.

    Args:
        case: the case of the run, with the options applied.
        steps: number of steps of the run.
        settings: `DEFAULTS`' keys except "case", with the values of the run.
    """
    base = CASES.get(case.name)
    if base is not None and base.sweep and not case.sweep:
        base = CASES["network"]
    if base is None:
        return None
    if isinstance(case.data, functools.partial):
        path, target = case.data.args
        base = _with_table(base, path, target, settings["seed"])
        base = dataclasses.replace(base, data=case.data)
    defaults = _option_values(base) | {"data": None, "target": None}
    options = {name: v for name, v in _option_values(case).items() if v != defaults[name]}
    if base != case:
        changeable = ("name", "shows", "steps", "promises", "network", "init", "batch_size")
        rebuilt = dataclasses.replace(base, **{name: getattr(case, name) for name in changeable})
        if rebuilt != case or case.by_hand != "network":
            return None
    options |= {"steps": steps} | {n: v for n, v in settings.items() if v != DEFAULTS[n]}
    texts = [_option_text(name, value) for name, value in options.items()]
    return f"python -m compare run {base.name} {' '.join(texts)}"


def _option_values(case: Case) -> dict[str, Any]:
    """Return the values of all options that describe the case, by name."""
    path, target = case.data.args if isinstance(case.data, functools.partial) else (None, None)
    table = {"data": path, "target": target}
    return table | case.network.arguments() | {"init": case.init, "batch_size": case.batch_size}


def log_dir_option(log_dir: Path) -> str:
    """Return the option --log-dir for a folder, after a space; "" for the default folder."""
    path = shlex.quote(str(log_dir))
    return "" if path == "runs" else f" --log-dir {path}"


def resume_command(folder: Path) -> str:
    """Return the command line that resumes the run in a folder."""
    return (
        f"python -m compare run --resume {shlex.quote(folder.name)}{log_dir_option(folder.parent)}"
    )


def check_unchanged(requested: dict[str, Any], case: Case, settings: dict[str, Any]) -> None:
    """Raise BadInput for an option that differs from the run to resume.

    Args:
        requested: the parsed command line, by name; None for an option that it does not name.
        case: the case of the run to resume.
        settings: the settings of that run.
    """
    for name, value in {"case": case.name, **_option_values(case), **settings}.items():
        other = requested.get(name)
        if other is not None and other != value:
            option = f"case {other}" if name == "case" else _option_text(name, other)
            raise BadInput(
                f"{option}: the run to resume has {_value_text(value)}; leave the option out, or "
                "start a new run"
            )


def _option_text(name: str, value: Any) -> str:
    if value is True:
        return _flag(name)
    text = shlex.quote(_value_text(value))
    return f"{_flag(name)}{'=' if text.startswith('-') else ' '}{text}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _value_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _comma_separated(kind: Callable[[str], Any], cure: str) -> Callable[[str], tuple[Any, ...]]:
    """Return a parser of numbers with commas between them; `cure` ends its error message."""

    def read(text: str) -> tuple[Any, ...]:
        try:
            return tuple(map(kind, text.split(",")))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: give {cure}") from None

    return read


_LIST_TYPES = {
    "sizes": _comma_separated(int, "whole numbers as 3,8,8,1"),
    "betas": _comma_separated(float, "two numbers as 0.9,0.999"),
}
