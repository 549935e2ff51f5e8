"""Ranks for tests, forked from a process that has torch imported, which takes seconds each time.

Without words it reads requests from standard input, a line of JSON each, and answers each with a
line. As torchrun does, it keeps the store where the ranks find each other, and ends all of them
when one fails. With words it is one rank that torchrun has started:
`rank_driver.py WHAT RANK STEP words...`, where at that step by hand that rank dies, stops, spoils
its part of an update, or the weights that it goes on with.
"""

import contextlib
import io
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

import compare.board.run_folder  # noqa: F401, so that no rank has to
from compare.cases.cases import Case
from compare.cli.main import main
from compare.training.adapters import Step
from tests.conftest import look_for_no_remedies, planted

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


def _full(_values: Named) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    pytest.MonkeyPatch().setattr("compare.board.run_folder.EventFile.put", full)


PLANTS: dict[str, Callable[[Named], None]] = {
    "die": _die, "stop": _stop, "weights": _weights, "part": _part, "update": _update,
    "interrupt": _interrupt, "full": _full,
}  # fmt: skip


def run(what: str, rank: str, step: str, *words: str) -> int:
    def by_hand(case: Case) -> Step:
        return planted(case, PLANTS[what], at=int(step))

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests ignores it
    with pytest.MonkeyPatch.context() as patch:
        look_for_no_remedies(patch)
        if os.environ["RANK"] == rank:
            patch.setattr("compare.training.harness.by_hand", by_hand)
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
                    "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_RUN_ID": "tests",
                }  # fmt: skip
                _be(rank, asked, Path(name))
            pids[pid] = rank
        codes = _wait(pids, asked)
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
        for name, value in asked.get("patches", {}).items():
            pytest.MonkeyPatch().setattr(name, value)
        if asked.get("apart"):  # on machines of their own, by their names
            socket.gethostname = lambda: f"machine{rank}"
        code = run(*asked["plant"], *asked["words"])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _wait(pids: dict[int, int], asked: dict[str, Any]) -> list[int]:
    """Return the exit codes; signal the ranks `kill` `after` so many seconds, kill all after LIMIT.

    The seconds are counted from the start, or from when a file fits the pattern `once`. Where one
    rank fails the others are told to end, unless they are on other machines.
    """
    kill, after, once = asked.get("kill", []), asked.get("after", LIMIT), asked.get("once")
    number = asked.get("signal", int(signal.SIGKILL))
    started, codes = time.monotonic(), dict.fromkeys(pids.values(), 0)
    running = dict(pids)
    while running:
        if once and any(Path(asked["folder"]).glob(once)):
            started, once = time.monotonic(), None
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[running.pop(pid)] = code = os.waitstatus_to_exitcode(status)
            for other in running if code and not asked.get("apart") else ():
                os.kill(other, signal.SIGTERM)
            continue
        if (passed := time.monotonic() - started) > LIMIT:
            kill, number = list(running.values()), int(signal.SIGKILL)
        if passed > LIMIT or (passed > after and not once):
            if not (killer := os.fork()):  # a SIGTERM of its parent is torchrun's to a rank
                for other in [p for p, rank in running.items() if rank in kill]:
                    os.kill(other, number)
                os._exit(0)
            os.waitpid(killer, 0)
            after = LIMIT
        time.sleep(0.002)
    return [codes[rank] for rank in sorted(codes)]


if __name__ == "__main__":
    if words := sys.argv[1:]:
        sys.exit(run(*words))
    with contextlib.redirect_stdout(io.StringIO()):  # what is imported now, no rank has to
        for case in ("two_layer", "digits"):
            main(["run", case, "--steps", "2", "--no-board", "--quiet"])
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
