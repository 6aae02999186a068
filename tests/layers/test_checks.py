"""The checks of token ids: what they let pass, what they refuse, and whom they name."""

import pytest
import torch

from tfm_lib.layers.checks import check_padding, check_token_ids, check_tokens_left, is_traced

IDS = torch.tensor([[1, 2, 0], [3, 0, 0]])


def test_good_ids_pass():
    check_token_ids(IDS, 4)
    check_padding(IDS, 0)
    check_tokens_left(IDS, 0)
    check_token_ids(torch.zeros(1, 1, dtype=torch.long), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda **name: check_token_ids(IDS, 3, **name), r"reach from 0 to 3.*ids 0\.\.2"),
        (lambda **name: check_token_ids(IDS - 1, 4, **name), "reach from -1 to 2"),
        (lambda **name: check_token_ids(IDS[0], 4, **name), r"has torch.int64 and shape \(3,\)"),
        (lambda **name: check_padding(IDS.flip(1), 0, **name), r"row 0 is \[0, 2, 1\]"),
        (lambda **name: check_tokens_left(IDS * 0 + 7, 7, **name), "row 0 must hold a token"),
    ],
)
def test_bad_ids_are_named(call, message):
    with pytest.raises(ValueError, match=f"^token_ids {message}"):
        call()
    with pytest.raises(ValueError, match=f"^src_ids {message}"):
        call(name="src_ids")


def test_the_row_that_is_named_is_the_first_wrong_one():
    rows = torch.tensor([[5, 6, 0], [5, 0, 6], [0, 5, 6]])
    with pytest.raises(ValueError, match=r"row 1 is \[5, 0, 6\]"):
        check_padding(rows, 0)
    with pytest.raises(ValueError, match="row 2 must hold"):
        check_tokens_left(torch.tensor([[1, 0], [1, 1], [0, 0]]), 0)


def test_outside_of_a_recording_values_are_read():
    assert is_traced(IDS) is False
