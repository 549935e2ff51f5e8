"""Large corpora give the quick tests a tenth of their cases, always the same ones."""

import hashlib
from collections.abc import Sequence

import pytest


def unless_chosen(name: str) -> Sequence[pytest.MarkDecorator]:
    """Return the mark `long` for nine of ten names, by a digest."""
    chosen = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0
    return () if chosen else (pytest.mark.long,)
