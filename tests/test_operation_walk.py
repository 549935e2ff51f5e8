"""No operation of torch's own tests gets a false word, and docs/operations.md is up to date.

A tenth of the operations is checked again in the quick tests, all with `-m long`.
"""

import pytest
import torch

from compare.proof import operations
from tests.documents import ROOT
from tests.operation_walk import COMMAND, DECIDED, NOT_RUN, entries, outcome, page, rows
from tests.tenth import unless_chosen

PAGE = ROOT / "docs" / "operations.md"
ON_PAGE = rows(PAGE.read_text())
LEAST_SHARE = 0.85  # of the operations that can be run, those whose formula decides

same_torch = pytest.mark.skipif(
    f"of torch {torch.__version__.rpartition('.')[0]} " not in PAGE.read_text(),
    reason="docs/operations.md was written for another release of torch",
)


@pytest.mark.parametrize("name", [pytest.param(k, marks=unless_chosen(k)) for k in ON_PAGE])
@same_torch
def test_an_operation_gets_no_false_word(name: str) -> None:
    """Autograd's gradients are not WRONG, and 1.5 times these do not pass; as the page says."""
    found = outcome(name)
    assert not found.false_words, f"{name}: {found}"
    assert found.way == ON_PAGE[name], f"{name} is {found.way} on {PAGE.name} no longer: {COMMAND}"


@same_torch
def test_the_page_has_every_operation_in_order() -> None:
    assert list(ON_PAGE) == sorted(entries()), COMMAND


def test_most_operations_are_decided() -> None:
    ran = [way for way in ON_PAGE.values() if way != NOT_RUN]
    assert len(ran) > 500
    assert ran.count(DECIDED) >= LEAST_SHARE * len(ran)


@pytest.mark.long
@same_torch
def test_the_page_is_what_the_command_writes() -> None:
    assert page({name: outcome(name) for name in entries()}) == PAGE.read_text(), COMMAND


def test_an_operation_without_its_row_is_not_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = outcome.__wrapped__
    assert fresh("hypot").way == DECIDED
    with monkeypatch.context() as patch:
        patch.delitem(operations.ROWS, "hypot")
        assert "hypot" in fresh("hypot").why
        assert fresh("hypot").way != DECIDED
