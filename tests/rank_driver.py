"""Ranks for tests, forked from a process that has imported torch, since that takes seconds.

Without arguments it reads requests from standard input, one line of JSON each, and answers each
with a line. Like torchrun it has the store through which the ranks connect, and ends all ranks when
one fails. With arguments it is one rank that torchrun has started:
`rank_driver.py FAULT RANK STEP words...`. At that by-hand step, that rank dies, stops, or corrupts
its part of an update or its weights.
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

import compare.board.run_folder  # noqa: F401, imported once for all ranks
from compare.cases.cases import Case
from compare.cli.main import main
from compare.training.adapters import Step
from tests.conftest import planted, skip_fix_search

Named = dict[str, Tensor]
LIMIT = 120.0  # seconds; the ranks of every test take less


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


FAULTS: dict[str, Callable[[Named], None]] = {
    "die": _die, "stop": _stop, "weights": _weights, "part": _part, "update": _update,
    "interrupt": _interrupt, "full": _full,
}  # fmt: skip


def run(fault: str, rank: str, step: str, *words: str) -> int:
    def planted_step_of(case: Case) -> Step:
        return planted(case, FAULTS[fault], at=int(step))

    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests' parent may ignore it
    with pytest.MonkeyPatch.context() as patch:
        skip_fix_search(patch)
        if os.environ["RANK"] == rank:
            patch.setattr("compare.training.harness.manual_step_of", planted_step_of)
        return main(words)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Start ranks and wait for them; return their exit codes and outputs."""
    count = request["ranks"]
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
                _run_rank(rank, request, Path(name))
            pids[pid] = rank
        codes = _wait(pids, request)
        out, err = ([Path(name, f"{stream}{r}").read_text() for r in range(count)]
                    for stream in ("out", "err"))  # fmt: skip
    return {"codes": codes, "out": "".join(out), "err": "".join(err)}


def _run_rank(rank: int, request: dict[str, Any], folder: Path) -> NoReturn:
    """Run as a rank in a process that was just forked."""
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{stream}{rank}", os.O_WRONLY | os.O_CREAT), number)
    os.chdir(request["folder"])
    code = 99
    try:
        for name, value in request.get("patches", {}).items():
            pytest.MonkeyPatch().setattr(name, value)
        if request.get("apart"):  # each rank on a machine with another name
            socket.gethostname = lambda: f"machine{rank}"
        code = run(*request["plant"], *request["words"])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _wait(pids: dict[int, int], request: dict[str, Any]) -> list[int]:
    """Wait for the ranks and return their exit codes; kill them all after LIMIT seconds.

    After `after` seconds the ranks `kill` get the signal `signal`. The seconds count from the
    start, or from when a file matches the pattern `once`. When one rank fails, the others get
    SIGTERM, unless they are on other machines.
    """
    kill, after, once = request.get("kill", []), request.get("after", LIMIT), request.get("once")
    number = request.get("signal", int(signal.SIGKILL))
    started, codes = time.monotonic(), dict.fromkeys(pids.values(), 0)
    running = dict(pids)
    while running:
        if once and any(Path(request["folder"]).glob(once)):
            started, once = time.monotonic(), None
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[running.pop(pid)] = code = os.waitstatus_to_exitcode(status)
            for other in running if code and not request.get("apart") else ():
                os.kill(other, signal.SIGTERM)
            continue
        if (passed := time.monotonic() - started) > LIMIT:
            kill, number = list(running.values()), int(signal.SIGKILL)
        if passed > LIMIT or (passed > after and not once):
            if not (killer := os.fork()):  # a rank takes SIGTERM from its parent for torchrun's
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
    with contextlib.redirect_stdout(io.StringIO()):  # imports for all ranks
        for case in ("two_layer", "digits"):
            main(["run", case, "--steps", "2", "--no-board", "--quiet"])
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
