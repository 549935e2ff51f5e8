"""On a CUDA device, cases get the verdicts that they promise; skipped where there is none."""

import pytest
import torch

from compare.cases.cases import CASES
from compare.environment import DTYPES
from compare.training.harness import run

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


EXACT = [
    (name, dtype)
    for name, case in CASES.items()
    for dtype in DTYPES
    if case.promises == "EXACT" and not (case.network.optimizer != "sgd" and dtype == "float16")
]  # adam's eps rounds to 0 in float16


@pytest.mark.parametrize(("name", "dtype"), EXACT)
def test_every_step_is_autograds_bits(name: str, dtype: str) -> None:
    report = run(CASES[name], steps=300, dtype=dtype, device="cuda")
    assert report.verdict == "EXACT", str(report)
    assert report.environment["gpu"]


@pytest.mark.parametrize("name", ["batch_norm", "everything", "digits"])
def test_what_rounds(name: str) -> None:
    report = run(CASES[name], steps=50, device="cuda")
    assert report.verdict in ("EXACT", "ROUNDING"), str(report)


def test_a_population() -> None:
    report = run(CASES["deep"], steps=50, device="cuda:0", population=33)
    assert report.verdict == "EXACT", str(report)
