"""The claims of a lesson: what was measured, and a verdict that its evidence must bear out."""

from dataclasses import dataclass

from tfm_lib.show.table import Table

VERDICTS = ("holds", "holds within limits", "does not hold as stated", "not decided here")


@dataclass(frozen=True)
class Claim:
    """One claim, what was measured, the verdict, and the condition that the verdict rests on."""

    number: int  # in the course's list of claims
    claim: str
    measured: str
    verdict: str  # one of VERDICTS
    evidence: bool


def claims_table(*claims: Claim) -> Table:
    """Show claims as a table, once the evidence of each is true.

    Raises AssertionError naming the first claim whose evidence is false, and ValueError for a
    verdict that is not one of VERDICTS.
    """
    for claim in claims:
        if claim.verdict not in VERDICTS:
            raise ValueError(f"verdict={claim.verdict!r} must be one of {VERDICTS}")
        if not claim.evidence:
            raise AssertionError(
                f"claim {claim.number}: the verdict {claim.verdict!r} lacks its evidence "
                f"({claim.claim}; measured: {claim.measured})"
            )
    return Table(
        ("claim", "what it says", "what we measured", "verdict"),
        [(claim.number, claim.claim, claim.measured, claim.verdict) for claim in claims],
    )
