"""`python -m compare board` serves the curves over HTTP and shows the page in a browser."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from compare.board.run_folder import RunFolder
from compare.board.serve import _await
from compare.cases.cases import CASES
from compare.cli.main import main
from compare.errors import BadInput
from compare.training.harness import Run
from tests.conftest import one_ulp, planted

ROOT = Path(__file__).parent.parent
AT = 31_234  # of 60,000 steps, the one with a changed bit
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of three_layer with one ulp planted at one of 60,000 steps."""
    path = tmp_path_factory.mktemp("runs")
    case = CASES["three_layer"]
    run = Run(case, step=planted(case, one_ulp("l1_delta", 0, 1, 2), at=AT))
    folder = RunFolder(path, run)
    folder.finish(run.train([folder]))
    return path


@pytest.fixture(scope="module")
def board(log_dir: Path) -> Iterator[str]:
    """Yield the address of a running board that was started on a port in use."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["board", "--log-dir", str(log_dir), "--port", str(port)]
        process = subprocess.Popen(
            [sys.executable, "-m", "compare", *words], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)/\?smoothing=0", line)
        assert match, line or process.communicate(timeout=20)
        assert int(match[1]) > port  # the board chose the next free port
        yield match[0].removesuffix("?smoothing=0")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")


def served(address: str, **query: str) -> Any:
    with urllib.request.urlopen(f"{address}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
@pytest.mark.parametrize("default", [False, True])
def test_the_one_bad_step_is_served(board: str, log_dir: Path, default: bool) -> None:
    """The server is `board`, or a TensorBoard that was started without options."""
    if default:
        process = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir), "--port", "0"],
            text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        board = line[line.index("http://") :].split()[0]
    try:
        (name,) = (path.name for path in log_dir.iterdir())
        address = f"{board}data/plugin/scalars/scalars"
        tag = "differences/largest ulp of the bucket"
        for _ in range(100):  # the server reads the folder in the background
            try:
                points = served(address, run=f"{name}/compare", tag=tag)
            except urllib.error.HTTPError:
                points = []
            if len(points) == 1000:
                break
            time.sleep(0.1)
        assert len(points) == 1000
        differing = [(step, value) for _, step, value in points if value]
        assert differing == [(AT // 60 * 60 + 59, 1.0)]
        last = served(address, run=f"{name}/compare", tag="differences/unequal elements so far")[-1]
        assert last[1:] == [59_999, 2]  # and in the syn0_update that autograd computes from it
    finally:
        if default:
            process.terminate()
            process.communicate(timeout=20)


TEXT_OF_ALL = """
const parts = [];
(function visit(node) {
  if (node.nodeType === Node.TEXT_NODE) parts.push(node.textContent);
  if (node.shadowRoot) visit(node.shadowRoot);
  for (const child of node.childNodes) visit(child);
})(document.body);
return parts.join(" ");
"""
CURVES = """
let count = 0;
(function visit(node) {
  if (node.tagName === "CANVAS" || node.tagName === "path") count += 1;
  if (node.shadowRoot) visit(node.shadowRoot);
  for (const child of node.childNodes) visit(child);
})(document.body);
return count;
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tab", "wanted"),
    [
        ("timeseries", ["three_layer/manual", "three_layer/autograd", "mean absolute error"]),
        ("scalars", ["three_layer/manual", "three_layer/autograd", "differences", "loss"]),
        ("text", ["ROUNDING", "same formulas at the sampled steps", "l1_delta", f"step {AT}"]),
    ],
)
def test_a_browser_shows_both_curves_and_the_verdict(
    board: str, tmp_path: Path, tab: str, wanted: list[str]
) -> None:
    """The browser is real; the environment variable SCREENSHOTS names a folder for screenshots."""
    if CHROMIUM is None or shutil.which("chromedriver") is None:
        assert "SCREENSHOTS" not in os.environ, ".ci/run installs chromium and chromium-driver"
        pytest.skip("no browser here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1400,1000"):
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={tmp_path}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.get(f"{board}?smoothing=0#{tab}")
        patience = WebDriverWait(browser, 60)
        for words in wanted:
            patience.until(partial(_shows, words))
        if tab != "text":
            patience.until(lambda b: b.execute_script(CURVES) > 1)
        time.sleep(2)  # the page is still drawing the data
        shot = Path(os.environ.get("SCREENSHOTS", tmp_path)) / f"{tab}.png"
        assert browser.save_screenshot(str(shot))
        assert shot.stat().st_size > 20_000
    finally:
        browser.quit()


def _shows(words: str, browser: webdriver.Chrome) -> bool:
    return words in browser.execute_script(TEXT_OF_ALL)


def test_nothing_to_show_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["board"], ["runs"], ["diff", "a", "b"]):
        assert main([*command, "--log-dir", str(tmp_path)]) == 2
        assert (
            f"no runs in {tmp_path} yet: python -m compare runs a case" in capsys.readouterr().err
        )


@pytest.mark.parametrize("port", ["0", "70000"])
def test_an_invalid_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "--port", port]) == 2
    assert f"--port {port}: give 1 to 65535" in capsys.readouterr().err


def test_a_server_that_does_not_answer_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compare.board.serve.time.sleep", lambda _: None)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(BadInput, match=f"{address} does not answer: .*; choose another --port"):
            _await(address)
