"""Writes notebooks/claims.md: every claim that stands trial, one verdict for each, and where.

    python -m tools.claims

The rows come from the lessons' own tables, as they were executed. A claim that stands trial in
several lessons gets here the one verdict that reconciles them.
"""

import re
from collections import defaultdict
from dataclasses import dataclass

from tfm_lib.show.claims import VERDICTS
from tools.lessons import NOTEBOOKS, code_cells, lesson_paths, read

PAGE = NOTEBOOKS / "claims.md"
HOLDS, WITHIN, NOT, OPEN = VERDICTS


@dataclass(frozen=True)
class Heard:
    """A claim as it is commonly told, the verdict over all lessons, and why."""

    says: str
    verdict: str
    why: str


CLAIMS = {
    1: Heard(
        "A first-order Markov model cannot use what lies further back; a latent state sums it up.",
        WITHIN,
        "The first half holds exactly. A state sums up as much as it has values for, no more.",
    ),
    2: Heard(
        "Plain RNNs keep what is near and lose what is far.",
        WITHIN,
        "So with the usual start; a start from a rotation reaches sixty steps back.",
    ),
    3: Heard(
        "With sigmoid the gradient vanishes over time, with ReLU it explodes.",
        NOT,
        "The weights decide: either activation does either, at another size of the weights.",
    ),
    4: Heard(
        "The LSTM's gates throw away, store, update and output; the GRU does with two.",
        WITHIN,
        "Forced gates do exactly that. A trained unit learns it in about every second run. On "
        "dates GRU and LSTM are equally right.",
    ),
    5: Heard(
        "In a bidirectional RNN each position sees both sides.", HOLDS, "By gradient and by task."
    ),
    6: Heard(
        "One fixed vector between encoder and decoder fails as sentences grow.",
        WITHIN,
        "It fails when there is more to carry, not because a text is long.",
    ),
    7: Heard(
        "Attention lets the decoder weigh the input, step by step; weights form a distribution.",
        HOLDS,
        "Seen in the maps, and by hiding what the maps point at.",
    ),
    8: Heard(
        "Soft attention is differentiable, hard attention picks one; local has a window.",
        HOLDS,
        "By difference quotients, and by windows put on a trained model.",
    ),
    9: Heard(
        "q·k has variance d_k; large values saturate softmax; 1/sqrt(d_k) restores both.",
        WITHIN,
        "For independent entries of variance 1. Most rows pass no gradient, not all.",
    ),
    10: Heard(
        "Without projections a token is most similar to itself; W_q, W_k, W_v undo that.",
        WITHIN,
        "In wide spaces; in narrow ones longer vectors outbid the token itself.",
    ),
    11: Heard(
        "Self-attention reaches any distance in one step, in parallel; an RNN needs the distance.",
        WITHIN,
        "In training. A text is still written one token after the other.",
    ),
    12: Heard(
        "Attention overcomes long-term dependency perfectly.",
        WITHIN,
        "At any distance alike, within the lengths of the training. Among many keys the right "
        "one drowns, and a length never met is another matter than a distance.",
    ),
    13: Heard(
        "Several heads extract different things; heads times head size must equal d_model.",
        WITHIN,
        "Heads differ where the task has two things to find. The second half is a convention.",
    ),
    14: Heard(
        "h heads of d_model / h work better than one of full width.",
        OPEN,
        "On a task that asks for two things they do, every time. On dates the seeds differ more "
        "than the heads.",
    ),
    15: Heard(
        "Masked positions get minus infinity, hence weight 0; training stays autoregressive.",
        WITHIN,
        "A row with nothing to see needs care: plain minus infinity gives NaN there.",
    ),
    16: Heard(
        "Without position self-attention cannot tell orders apart; adding encodings is enough.",
        WITHIN,
        "True without a mask: a causal mask tells orders apart. Enough for trained lengths alone.",
    ),
    17: Heard(
        "Residual connections carry position upward, which would vanish without them.",
        WITHIN,
        "In untrained stacks, and the token vanishes as well.",
    ),
    18: Heard(
        "Shapes stay, so blocks stack; feed-forward treats each position alone, weights shared.",
        HOLDS,
        "By gradient and by count.",
    ),
    19: Heard(
        "Label smoothing prevents over-fitting.",
        OPEN,
        "It prevents over-confidence, every time. The loss on unseen dates fell and rose.",
    ),
    20: Heard(
        "The decoder takes K and V of the topmost encoder layer, queries from the layer below.",
        WITHIN,
        "It takes that layer's output, and makes its own K and V of it in each layer.",
    ),
    21: Heard(
        "Self-attention costs n²d, recurrence nd²; n steps against one; memory grows with n².",
        WITHIN,
        "In operations exactly, for attention alone. Memory need not: fused and chunked forms.",
    ),
    22: Heard(
        "The Transformer beats the RNN with attention at translation.",
        OPEN,
        "Not on dates, for five seeds of five. On captions it was ahead, in one run each.",
    ),
    23: Heard(
        "The published code differs from the paper.",
        WITHIN,
        "In details that lesson 16 lists; that they matter little is measured on our code alone.",
    ),
    24: Heard(
        "Trained attention falls into patterns by depth and is mostly sparse.",
        WITHIN,
        "Rows and columns in the first of four layers. Depth cannot be judged with four.",
    ),
    25: Heard(
        "Sparse attention costs O(n sqrt n); recomputation trades time for memory; strided suits "
        "images, fixed suits text.",
        WITHIN,
        "In operations; recorded time bends upward. Images: strided. Text: not decided.",
    ),
    26: Heard(
        'In a trained model "it" attends to "animal".',
        NOT,
        "One head of 72 does, and on eight more pairs it does what coins would.",
    ),
    27: Heard(
        "BERT reads both sides; Transformer-XL reaches past its segment; XLNet predicts in any "
        "order without seeing the answer.",
        WITHIN,
        "All three do. What it is worth beside simpler means is in the lessons' tables.",
    ),
    28: Heard(
        "A language model over image codes draws what the text says.",
        WITHIN,
        "Digits of 8 by 8 pixels, and known words in new combinations.",
    ),
}


def rows():
    """number -> the lessons' rows on it: (path, what it says, what was measured, verdict)."""
    found = defaultdict(list)
    for path in lesson_paths():
        for cell in code_cells(read(path)):
            for output in cell.outputs:
                text = output.get("data", {}).get("text/markdown", "")
                if text.startswith("| claim | what it says |"):
                    for line in text.splitlines()[2:]:
                        number, says, measured, verdict = re.split(r"(?<!\\) \| ", line[2:-2])
                        found[int(number)].append((path, says, measured, verdict))
    return found


def page():
    """The text of the page."""
    tried = rows()
    lines = [
        "# The claims, and what became of them",
        "",
        "28 sentences that are commonly told about these models. Each stands trial in the lessons",
        "named with it; their rows are copied from there, where the evidence is code. The verdict",
        "in bold reconciles them. What the four verdicts mean stands in",
        "[lesson 00](00_start_here.ipynb). Written by `python -m tools.claims`.",
        "",
        "| verdict | claims |",
        "| --- | --- |",
    ]
    for verdict in VERDICTS:
        numbers = [n for n, claim in CLAIMS.items() if claim.verdict == verdict]
        lines.append(f"| {verdict} | {', '.join(map(str, numbers))} |")
    for number, claim in CLAIMS.items():
        lines += ["", f"## {number}. {claim.says}", "", f"**{claim.verdict}.** {claim.why}", ""]
        lines += [
            "| lesson | what it says | what was measured | verdict |",
            "| --- | --- | --- | --- |",
        ]
        for path, says, measured, verdict in tried[number]:
            lines.append(f"| [{path.name[:2]}]({path.name}) | {says} | {measured} | {verdict} |")
    return "\n".join(lines) + "\n"


def main():
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    print(f"{PAGE.relative_to(NOTEBOOKS.parent)}: {len(CLAIMS)} claims")


if __name__ == "__main__":
    main()
