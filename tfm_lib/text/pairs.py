"""Texts and what each is to become: the form in which every data set of pairs is handed over."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pairs:
    """Texts and what each is to become: ``sources[i]`` -> ``targets[i]``.

    ``kinds[i]`` says what sort of pair it is, for accuracies by kind. A slice is again Pairs.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    kinds: Sequence[str]

    def __post_init__(self) -> None:
        sizes = len(self.sources), len(self.targets), len(self.kinds)
        if len(set(sizes)) > 1:
            raise ValueError(f"sources, targets, kinds must be equally long; got {sizes}")

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, part: slice) -> "Pairs":
        return Pairs(self.sources[part], self.targets[part], self.kinds[part])


def exact_match(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """The share of texts that are right to the last character, between 0 and 1."""
    if len(predicted) != len(expected) or not expected:
        raise ValueError(
            f"as many predicted as expected texts, at least one; "
            f"got {len(predicted)} and {len(expected)}"
        )
    return sum(map(str.__eq__, predicted, expected)) / len(expected)
