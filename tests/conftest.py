"""Fixtures that several test files share: long finished runs, ranks and planted bugs."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compare.cases.cases import CASES, Case
from compare.proof.verdict import Proof
from compare.report.chunk import Chunk
from compare.report.report import Report
from compare.training.adapters import Step, manual_step_of
from compare.training.harness import Run

if "PYTEST_XDIST_WORKER" in os.environ:  # xdist starts one process per core: use one thread in each
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that a test starts

# The test files that search for fixes; elsewhere the search costs seconds and changes no verdict.
TESTS_OF_FIXES = {
    "test_bit_exact_search", "test_checkpoint", "test_cli", "test_diagnosis", "test_docstrings",
    "test_progress", "test_readme",
}  # fmt: skip

# The test files whose cases have the same verdicts in wide arithmetic, which serves large inputs.
BOTH_ARITHMETICS = {
    "test_accuracy", "test_false_words", "test_indexed_operations", "test_masks",
    "test_right_code", "test_right_forms", "test_right_numbers", "test_special_operations",
    "test_wrong_forms",
}  # fmt: skip

Curves = dict[str, dict[int, float]]
Plant = Callable[[dict[str, Tensor]], None]


@pytest.fixture(autouse=True, scope="module")
def _without_fix_search(request: pytest.FixtureRequest) -> Iterator[None]:
    """Turn off the search for fixes, except in the files of TESTS_OF_FIXES."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".")[2] not in TESTS_OF_FIXES:
            skip_fix_search(patch)
        yield


def skip_fix_search(patch: pytest.MonkeyPatch) -> None:
    """Turn off the search for fixes, so that proofs stay unchanged."""

    def as_they_are(_evidence: object, proofs: dict[str, Proof], *_: object, **__: object) -> Any:
        return dict(proofs)

    for home in ("checking.check", "training.prover"):
        patch.setattr(f"compare.{home}.diagnose", as_they_are)
        patch.setattr(f"compare.{home}.suggest_rewrites", as_they_are)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the cases of some files in wide arithmetic too: the verdicts are the same."""
    if metafunc.module.__name__.rpartition(".")[2] in BOTH_ARITHMETICS:
        wide = pytest.param("wide", marks=pytest.mark.long)
        metafunc.parametrize("_arithmetic", ["balls", wide], indirect=True)


@pytest.fixture(autouse=True)
def _arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have exact values computed in wide arithmetic first, however few they are."""
    if getattr(request, "param", "balls") == "wide":
        monkeypatch.setattr("compare.proof.pair.MOST_FOR_BALLS_ALONE", 0)


@pytest.fixture(scope="session")
def _driver() -> Iterator[subprocess.Popen[str]]:
    """Yield a process that has imported torch and forks ranks; see `rank_driver` for requests."""
    root = Path(__file__).parent
    env = {"PYTHONPATH": str(root.parent), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [sys.executable, str(root / "rank_driver.py")], env={**os.environ, **env}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield process
        assert process.stdin
        process.stdin.close()


Started = Callable[..., tuple[list[int], str, str]]


@pytest.fixture
def ranks(_driver: subprocess.Popen[str], tmp_path: Path) -> Started:
    """Return a function that runs the command line on several ranks: codes, stdout and stderr."""

    def run(
        count: int, words: str, plant: tuple[str, int, int] | None = None, **request: Any
    ) -> Any:
        fault, *rank_and_step = plant or ("none", -1, 0)
        request |= {"ranks": count, "words": words.split(), "folder": str(tmp_path)}
        request["plant"] = [fault, *map(str, rank_and_step)]
        assert _driver.stdin
        assert _driver.stdout
        print(json.dumps(request), file=_driver.stdin, flush=True)
        answer = json.loads(_driver.stdout.readline())
        return answer["codes"], answer["out"], answer["err"]

    return run


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Yield a function that sets torch's number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def three_layer() -> tuple[Report, Curves]:
    """Return the report of the default run, and both sides' mean absolute error at each step."""
    return run_with_curves(CASES["three_layer"])


def run_with_curves(case: Case) -> tuple[Report, Curves]:
    """Train `case` to the end; return its report and each side's error by step."""
    curves: Curves = {"manual": {}, "autograd": {}}

    def watch(chunk: Chunk) -> None:
        for side, errors in chunk.error.items():
            curves[side].update(enumerate(errors.tolist(), start=chunk.start))

    return Run(case).train([watch]), curves


def planted(case: Case, plant: Plant, *, at: int) -> Step:
    """Return the case's by-hand step, with `plant` applied to its values at step `at` alone."""
    step = manual_step_of(case)
    calls = itertools.count()

    def wrong(**given: Tensor) -> dict[str, Tensor]:
        values = step(**given)
        # a run calls the step in inference mode; the calls that trace it do not count
        if torch.is_inference_mode_enabled() and next(calls) == at:
            plant(values)
        return values

    return wrong


def one_ulp(name: str, *index: int) -> Plant:
    """Return a plant that replaces one element of `name` by the next larger float."""

    def plant(values: dict[str, Tensor]) -> None:
        values[name] = values[name].clone()
        values[name][index] = torch.nextafter(
            values[name][index], torch.tensor(torch.inf).to(values[name])
        )

    return plant
