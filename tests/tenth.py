"""Choice of a tenth of the cases of large test tables for the quick tests, always the same."""

import hashlib
from collections.abc import Sequence

import pytest


def unless_chosen(name: str) -> Sequence[pytest.MarkDecorator]:
    """Return the mark `long` for nine of ten names; a digest of the name decides."""
    chosen = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0
    return () if chosen else (pytest.mark.long,)
