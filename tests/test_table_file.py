"""A table from a pipe, a device, or a file without end."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from compare.cases import table_file
from compare.cases.table_file import table_bytes
from compare.cli.main import main
from compare.errors import BadInput

CSV = "a,b,k\n" + "".join(f"{n},{n * n % 7},c{n % 2}\n" for n in range(40))


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/full", "/dev/null", "/dev/tty"])
def test_a_device_is_no_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if Path(name).exists():
        assert main(["run", "network", "--data", name]) == 2
        message = (
            f"{name}: it is neither a regular file nor a pipe; name a CSV file that can be read"
        )
        assert capsys.readouterr() == ("", f"compare: {message}\n")


def test_a_table_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit also holds for a file that reports no size, such as those of /proc."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(table_file.MAX_BYTES + 1)
    message = "more than 1,024 MiB: give fewer rows, or fewer digits"
    with pytest.raises(BadInput, match=message):
        table_bytes(big)
    monkeypatch.setattr(table_file, "MAX_BYTES", 10)
    with pytest.raises(BadInput, match="more than 0 MiB"):
        table_bytes(Path("/proc/self/maps"))


def test_a_pipe_is_read_once_for_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its writer opens it late, and writes in two parts."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        time.sleep(0.4)
        with pipe.open("w") as file:
            file.write(CSV[:100])
            file.flush()
            time.sleep(0.4)
            file.write(CSV[100:])

    writer = threading.Thread(target=write)
    writer.start()
    words = f"run network --data {pipe} --steps 2 --no-board --quiet --lift none"
    assert main(words.split()) in (0, 1)
    writer.join()
    assert capsys.readouterr().err == ""


def test_waiting_for_a_pipe_prints_a_note_and_ctrl_c_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(table_file, "_SILENCE", 0.1)
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    assert main(["run", "network", "--data", str(pipe)]) == 130
    err = capsys.readouterr().err.splitlines()
    assert err == [
        f"compare: --data {pipe}: waiting for data in this pipe",
        "compare: stopped before anything was checked",
    ]
