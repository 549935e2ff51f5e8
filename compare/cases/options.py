"""The command line's options for a network of one's own: one for each field of its description."""

import argparse
import dataclasses
import functools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compare.cases.cases import CASES, INITS, Case, Network
from compare.errors import BadInput, unknown

#: What a run is unless the command line says otherwise: there a None says nothing.
USUAL: dict[str, Any] = {
    "case": "three_layer", "dtype": "float64", "device": "cpu", "seed": 1, "population": 1,
    "lift": "auto",
}  # fmt: skip
#: What a Case has and Network has not.
_OF_THE_CASE: dict[str, dict[str, Any]] = {
    "init": {
        "metavar": "V", "help": f"how weights are drawn: {', '.join(INITS)} (default: blog)"
    },
    "batch_size": {
        "type": int, "metavar": "N",
        "help": "rows of a mini-batch (default: all rows at every step)",
    },
    "data": {
        "type": Path, "metavar": "FILE",
        "help": "a table of your own, CSV: numbers, and a column of classes",
    },
    "target": {"metavar": "COLUMN", "help": "the column of classes (default: the last)"},
}  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of Network, and for how its weights and rows are drawn."""
    group = parser.add_argument_group(
        "a network of your own", "with run network, or to change a case built of the same pieces"
    )
    own = {field.name: _words(field) for field in dataclasses.fields(Network)}
    for name, words in (own | _OF_THE_CASE).items():
        group.add_argument(_flag(name), dest=name, default=argparse.SUPPRESS, **words)


def _words(field: "dataclasses.Field[Any]") -> dict[str, Any]:
    """Return what argparse is told of a field's option."""
    text = field.metadata.get("help", "values in each layer, inputs first, as 3,8,8,1")
    choices = field.metadata.get("choices") or ()
    if choices:
        text += f": {', '.join(choices)}"
    if isinstance(field.default, bool):
        return {"action": "store_true", "help": text}
    if field.name != "sizes":
        text += f" (default: {_text(field.default)})"
    kind = str if choices else _SEVERAL.get(field.name, float)
    return {"type": kind, "metavar": "V", "help": text}


def asked(case: Case, options: dict[str, Any], seed: int) -> Case:
    """Return the case with what the command line asks for.

    Raises BadInput where the case is a listing that stands as it is, or for an unfit value.
    """
    given = {name: options[name] for name in _asked_of(case) if name in options}
    if not given:
        return case
    if case.by_hand != "network" or case.sweep:
        what = "a table of its own" if case.sweep else "a listing that stands as it is"
        raise BadInput(f"{_flag(next(iter(given)))}: case {case.name} is {what}; use run network")
    if given.get("init", "blog") not in INITS:
        raise unknown("init", given["init"], INITS)
    if "data" in given:
        if not given["data"].name:
            raise BadInput("--data is empty: name a CSV file")
        case = _on_table(case, given.pop("data"), given.pop("target", None), seed)
    elif "target" in given:
        raise BadInput(f"--target {given['target']}: it names a column of --data FILE")
    own = {name: given.pop(name) for name in ("init", "batch_size") if name in given}
    changed = dataclasses.replace(case.network, **given)
    changed.check()
    return dataclasses.replace(case, network=changed, promises="", **own)


def _on_table(case: Case, path: Path, target: str | None, seed: int) -> Case:
    """Return the case on a person's own table, its usual settings those of a classifier."""
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
    """Return the command line of a run without what is usual; None for a case of Python's own."""
    base = CASES.get(case.name)
    if base is not None and base.sweep and not case.sweep:
        base = CASES["network"]
    if base is None:
        return None
    if isinstance(case.data, functools.partial):
        path, target = case.data.args
        base = _on_table(base, path, target, settings["seed"])
        base = dataclasses.replace(base, data=case.data)
    usual = _asked_of(base) | {"data": None, "target": None}
    words = {name: v for name, v in _asked_of(case).items() if v != usual[name]}
    if base != case:
        kept = ("name", "shows", "steps", "promises", "network", "init", "batch_size")
        again = dataclasses.replace(base, **{name: getattr(case, name) for name in kept})
        if again != case or case.by_hand != "network":
            return None
    words |= {"steps": steps} | {n: v for n, v in settings.items() if v != USUAL[n]}
    spelled = [_spelled(name, value) for name, value in words.items()]
    return f"python -m compare run {base.name} {' '.join(spelled)}"


def _asked_of(case: Case) -> dict[str, Any]:
    """Return what options ask for it, by their names."""
    path, target = case.data.args if isinstance(case.data, functools.partial) else (None, None)
    table = {"data": path, "target": target}
    return table | case.network.question() | {"init": case.init, "batch_size": case.batch_size}


def elsewhere(log_dir: Path) -> str:
    """Return the words that name a log folder, none for the usual one."""
    place = shlex.quote(str(log_dir))
    return "" if place == "runs" else f" --log-dir {place}"


def resuming(folder: Path) -> str:
    """Return the command line that goes on with the run of a folder."""
    return f"python -m compare run --resume {shlex.quote(folder.name)}{elsewhere(folder.parent)}"


def agree(words: dict[str, Any], case: Case, settings: dict[str, Any]) -> None:
    """Raise BadInput for a word of the command line that is not so in a run to go on with."""
    for name, value in {"case": case.name, **_asked_of(case), **settings}.items():
        if words.get(name) is not None and words[name] != value:
            said = f"case {words[name]}" if name == "case" else _spelled(name, words[name])
            raise BadInput(
                f"{said}: the run to go on with has {_text(value)}; leave that out, or run it anew"
            )


def _spelled(name: str, value: Any) -> str:
    if value is True:
        return _flag(name)
    text = shlex.quote(_text(value))
    return f"{_flag(name)}{'=' if text.startswith('-') else ' '}{text}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _several(kind: Callable[[str], Any], words: str) -> Callable[[str], tuple[Any, ...]]:
    """Return what reads numbers with commas between them."""

    def read(text: str) -> tuple[Any, ...]:
        try:
            return tuple(map(kind, text.split(",")))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: give {words}") from None

    return read


_SEVERAL = {
    "sizes": _several(int, "whole numbers as 3,8,8,1"),
    "betas": _several(float, "two numbers as 0.9,0.999"),
}
