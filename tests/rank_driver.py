"""Ranks for tests, forked from a process that has torch imported, which takes seconds each time.

Without words it reads requests from standard input, a line of JSON each, and answers each with a
line. As torchrun does, it keeps the store where the ranks find each other, and ends all of them
when one fails. With words it is one rank that torchrun has started:
`rank_driver.py WHAT RANK STEP words...`, where at that step by hand that rank dies, stops, spoils
its part of an update, or the weights that it goes on with.
"""

import importlib
import itertools
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

import compare.board
import compare.harness
from compare.cases import Case
from compare.cli import main
from compare.sides import Step, by_hand

Named = dict[str, Tensor]
LIMIT = 120.0  # seconds; no test's ranks take so long


def _die(_values: Named) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(_values: Named) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _weights(values: Named) -> None:
    values["syn1"] = values["syn1"] * (1 + 2.0**-52)


def _part(values: Named) -> None:
    values["syn1_part"] = values["syn1_part"] * 1.5


def _update(values: Named) -> None:
    values["syn1_update"] = values["syn1_update"] * 1.5


def _interrupt(_values: Named) -> None:
    os.kill(os.getpid(), signal.SIGINT)


PLANTS: dict[str, Callable[[Named], None]] = {
    "die": _die, "stop": _stop, "weights": _weights, "part": _part, "update": _update,
    "interrupt": _interrupt,
}  # fmt: skip


def planted(plant: Callable[[Named], None], at: int, case: Case) -> Step:
    step, calls = by_hand(case), itertools.count()

    def wrong(**given: Tensor) -> Named:
        values = dict(step(**given))
        if torch.is_inference_mode_enabled() and next(calls) == at:
            plant(values)
        return values

    return wrong


def run(what: str, rank: str, step: str, *words: str) -> int:
    if os.environ["RANK"] == rank:
        compare.harness.by_hand = partial(planted, PLANTS[what], int(step))  # type: ignore[attr-defined]
    return main(words)


def serve(asked: dict[str, Any]) -> dict[str, Any]:
    """Start ranks, wait for them; return their exit codes and what each of them printed."""
    count = asked["ranks"]
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    with tempfile.TemporaryDirectory() as name:
        pids: dict[int, int] = {}
        for rank in range(count):
            pid = os.fork()
            if not pid:
                os.environ |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                    "TORCHELASTIC_RESTART_COUNT": "0",
                }  # fmt: skip
                _be(rank, asked, Path(name))
            pids[pid] = rank
        codes = _wait(pids, asked.get("kill", []), asked.get("after", LIMIT))
        out, err = ([Path(name, f"{what}{r}").read_text() for r in range(count)]
                    for what in ("out", "err"))  # fmt: skip
    return {"codes": codes, "out": "".join(out), "err": "".join(err)}


def _be(rank: int, asked: dict[str, Any], folder: Path) -> NoReturn:
    """Be a rank of one's own, in a process just forked."""
    for number, what in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{what}{rank}", os.O_WRONLY | os.O_CREAT), number)
    os.chdir(asked["folder"])
    code = 99
    try:
        for name, value in asked["patches"].items():
            module, _, attribute = name.rpartition(".")
            setattr(importlib.import_module(module), attribute, value)
        if asked["apart"]:  # on machines of their own, by their names
            socket.gethostname = lambda: f"machine{rank}"
        code = run(*asked["plant"], *asked["words"])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _wait(pids: dict[int, int], kill: list[int], after: float) -> list[int]:
    """Return the exit codes; kill -9 some ranks after so many seconds, and all after LIMIT."""
    started, codes = time.monotonic(), dict.fromkeys(pids.values(), 0)
    running = dict(pids)
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[running.pop(pid)] = code = os.waitstatus_to_exitcode(status)
            for other in running if code else ():
                os.kill(other, signal.SIGTERM)
            continue
        if (passed := time.monotonic() - started) > after:
            for other in [p for p, rank in running.items() if passed > LIMIT or rank in kill]:
                os.kill(other, signal.SIGKILL)
            after = LIMIT
        time.sleep(0.002)
    return [codes[rank] for rank in sorted(codes)]


if __name__ == "__main__":
    if words := sys.argv[1:]:
        sys.exit(run(*words))
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
