"""Positional encodings against the formula, one number at a time."""

import math

import pytest
import torch

from tfm_lib.attention.positions import LearnedPositions, SinusoidalPositions, sinusoidal_encoding


@pytest.mark.parametrize("d_model", [1, 2, 6, 7])
def test_sinusoids_equal_the_formula(d_model):
    encoding = sinusoidal_encoding(11, d_model)
    assert encoding.shape == (11, d_model)
    for position in range(11):
        for column in range(d_model):
            angle = position / 10000 ** (2 * (column // 2) / d_model)
            wanted = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert encoding[position, column].item() == pytest.approx(wanted, abs=1e-6)


def test_a_shift_is_a_rotation():
    """PE(p + k) is a linear function of PE(p), the same for all p (section 3.5)."""
    encoding, shift = sinusoidal_encoding(50, 8), 3
    for pair in range(4):
        angle = shift / 10000 ** (2 * pair / 8)
        rotation = torch.tensor(
            [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        )
        columns = encoding[:, 2 * pair : 2 * pair + 2]
        torch.testing.assert_close(
            columns[:-shift] @ rotation.T, columns[shift:], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    "build", [lambda: SinusoidalPositions(6), lambda: LearnedPositions(300, 6)]
)
def test_start_continues_where_the_prefix_ended(build):
    positions, x = build(), torch.randn(2, 200, 6)
    whole = positions(x)
    torch.testing.assert_close(positions(x[:, 150:], start=150), whole[:, 150:], atol=0, rtol=0)
    assert whole.shape == x.shape


def test_sinusoids_grow_without_changing():
    positions = SinusoidalPositions(5)
    short = positions(torch.zeros(1, 3, 5))
    long = positions(torch.zeros(1, 1000, 5))
    torch.testing.assert_close(long[:, :3], short, atol=0, rtol=0)
    torch.testing.assert_close(long[0], sinusoidal_encoding(1000, 5))


def test_sinusoids_keep_the_modules_precision_when_they_grow():
    positions = SinusoidalPositions(5).to(torch.bfloat16)
    positions(torch.zeros(1, 100, 5))
    assert positions.encoding.dtype == torch.bfloat16


def test_angles_are_exact_where_the_default_is_double_precision():
    torch.set_default_dtype(torch.float64)
    try:
        encoding = sinusoidal_encoding(300, 6)
    finally:
        torch.set_default_dtype(torch.float32)
    angle = 299 / 10000 ** (2 / 6)
    assert encoding[299, 2].item() == pytest.approx(math.sin(angle), abs=1e-14)


def test_sinusoids_are_not_saved_with_the_weights():
    assert SinusoidalPositions(6).state_dict() == {}


def test_learned_positions_start_small():
    torch.manual_seed(0)
    weight = LearnedPositions(200, 60).embedding.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)  # GPT-2's and BERT's own start
    assert abs(weight.mean().item()) < 1e-3


def test_sinusoids_are_not_learned_and_learned_ones_are():
    assert list(SinusoidalPositions(6).parameters()) == []
    positions = LearnedPositions(7, 6)
    positions(torch.zeros(2, 3, 6)).sum().backward()
    used = positions.embedding.weight.grad.abs().sum(dim=1) > 0
    assert used.tolist() == [True, True, True, False, False, False, False]


def test_the_last_position_is_still_one():
    assert LearnedPositions(7, 6)(torch.zeros(2, 3, 6), start=4).shape == (2, 3, 6)


def test_past_max_len_is_an_error():
    with pytest.raises(ValueError, match=r"positions 5..7 pass max_len=7"):
        LearnedPositions(7, 6)(torch.zeros(2, 3, 6), start=5)


@pytest.mark.parametrize(("length", "d_model"), [(0, 4), (4, 0)])
def test_empty_encodings_are_an_error(length, d_model):
    with pytest.raises(ValueError, match=f"length={length} and d_model={d_model}"):
        sinusoidal_encoding(length, d_model)
