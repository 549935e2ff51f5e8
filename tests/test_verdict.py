"""Verdicts compare equal to their words, and are ordered by severity."""

import itertools
import json
import pickle

import pytest

from compare.proof.verdict import Verdict

ORDER = ("EXACT", "ROUNDING", "WITHIN", "UNDECIDED", "INACCURATE", "WRONG")


@pytest.mark.parametrize("word", ORDER)
def test_a_verdict_is_shown_and_stored_as_its_word(word: str) -> None:
    verdict = Verdict[word]
    assert verdict == word
    assert {word: 1}[verdict] == 1
    assert f"{verdict}" == str(verdict) == word
    assert repr(verdict) == repr(word)
    assert json.dumps({verdict: verdict}) == json.dumps({word: word})
    assert pickle.loads(pickle.dumps(verdict)) is verdict


def test_verdicts_are_ordered_by_severity_and_not_alphabetically() -> None:
    for better, worse in itertools.combinations(ORDER, 2):
        for other in (worse, Verdict[worse]):
            assert Verdict[better] < other
            assert Verdict[better] <= other
            assert not Verdict[better] > other
            assert not Verdict[better] >= other
        assert max(Verdict[worse], Verdict[better]) == worse
    assert Verdict.WRONG <= "WRONG"
    assert Verdict.WRONG >= "WRONG"
    assert [word for word in ORDER if Verdict[word].passes] == ["EXACT", "ROUNDING"]
