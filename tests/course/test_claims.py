"""The page of claims says what the lessons' tables say, and one verdict reconciles them."""

import pytest

from tfm_lib.show.claims import VERDICTS
from tools.claims import CLAIMS, HOLDS, NOT, OPEN, PAGE, page, rows

every_claim = pytest.mark.parametrize("number", CLAIMS)


def test_the_page_is_what_the_lessons_say():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tools.claims"


def test_every_claim_is_tried_and_none_is_unknown():
    assert list(CLAIMS) == list(range(1, 29))
    assert rows().keys() == CLAIMS.keys()


@every_claim
def test_no_verdict_is_stronger_than_the_rows_below_it(number):
    verdict, found = CLAIMS[number].verdict, [row[-1] for row in rows()[number]]
    assert set(found) <= set(VERDICTS)
    if verdict in (HOLDS, NOT, OPEN):
        assert verdict in found
    if verdict == HOLDS:
        assert set(found) == {HOLDS}
    if set(found) == {HOLDS}:
        assert verdict != NOT
