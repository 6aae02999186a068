"""The one flow diagram: the Transformer from the text in to the text out, as far as it is taught.

Each part says which lesson brings it. `flow(8)` draws what a reader has met by the end of lesson 8,
what that lesson adds with a thick border; `flow_text(8)` says the same in words. From lesson 12 on
it is the whole model, with the shapes of the date model.
"""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from tfm_lib.show.plots import COLOURS

FIRST, WHOLE = 6, 12  # the lessons with the smallest and with the whole diagram
FILLS = {"tensor": "#FFFFFF", "weights": "#CFE3F1", "step": "#F7E3D3"}  # apart in grey, too
HALF_WIDTH, HALF_HEIGHT, COLUMN = 0.92, 0.36, 2.5  # of a box; between the columns


@dataclass(frozen=True)
class Part:
    """A box: where it stands, what is written in it, the lesson that adds it, what it leads to."""

    column: float
    row: float
    text: str
    lesson: int
    kind: str  # "tensor": numbers that flow; "weights": learnt; "step": computed without weights
    to: tuple[str, ...] = ()


PARTS = {
    # The encoder, its attention opened. Rows count from below, where the text comes in.
    "source": Part(0, 0, "source ids\n(n,)", 10, "tensor", ("source embedding",)),
    "source embedding": Part(0, 1, "embedding · √64", 10, "weights", ("source positions",)),
    "source positions": Part(0, 2, "+ positions", 10, "step", ("x",)),
    "x": Part(0, 3, "x (n, 64)", 7, "tensor", ("query", "key", "value")),
    "query": Part(-0.72, 4.05, "W_q", 7, "weights", ("split",)),
    "key": Part(0, 4.05, "W_k", 7, "weights", ("split",)),
    "value": Part(0.72, 4.05, "W_v", 7, "weights", ("split",)),
    "split": Part(0, 5.1, "split: 4 heads\nof (n, 16)", 8, "step", ("scores",)),
    "scores": Part(0, 6.15, "scores Q Kᵀ\n(n, n)", 6, "step", ("scale",)),
    "scale": Part(0, 7.15, "/ √d_k", 6, "step", ("mask",)),
    "mask": Part(0, 8.15, "mask", 9, "step", ("softmax",)),
    "softmax": Part(0, 9.15, "softmax: weights\n(n, n)", 6, "step", ("average",)),
    "average": Part(0, 10.15, "weights · V", 6, "step", ("join",)),
    "join": Part(0, 11.15, "join heads, W_o\n(n, 64)", 8, "weights", ("residual 1",)),
    "residual 1": Part(0, 12.15, "+ x, norm", 11, "weights", ("feed-forward",)),
    "feed-forward": Part(0, 13.15, "feed-forward\n64, 128, 64", 11, "weights", ("residual 2",)),
    "residual 2": Part(0, 14.15, "+ x, norm", 11, "weights", ("memory",)),
    "memory": Part(0, 15.3, "memory\n(n, 64)", 12, "tensor", ("cross-attention",)),
    # The decoder, its attention closed.
    "target": Part(1, 0, "target ids,\nshifted right (m,)", 12, "tensor", ("target embedding",)),
    "target embedding": Part(1, 1, "embedding · √64", 12, "weights", ("target positions",)),
    "target positions": Part(1, 2, "+ positions", 12, "step", ("self-attention",)),
    "self-attention": Part(1, 4.05, "self-attention,\ncausal mask", 12, "weights", ("residual 3",)),
    "residual 3": Part(1, 5.1, "+ x, norm", 12, "weights", ("cross-attention",)),
    "cross-attention": Part(
        1, 7.15, "cross-attention:\nK, V of memory", 12, "weights", ("residual 4",)
    ),
    "residual 4": Part(1, 8.15, "+ x, norm", 12, "weights", ("feed-forward 2",)),
    "feed-forward 2": Part(1, 9.65, "feed-forward\n64, 128, 64", 12, "weights", ("residual 5",)),
    "residual 5": Part(1, 10.65, "+ x, norm", 12, "weights", ("generator",)),
    "generator": Part(1, 12.65, "generator", 12, "weights", ("logits",)),
    "logits": Part(1, 13.65, "logits\n(m, vocabulary)", 12, "tensor", ("softmax 2",)),
    "softmax 2": Part(1, 14.65, "softmax", 12, "step", ("next",)),
    "next": Part(1, 15.65, "next token,\nat each place", 12, "tensor"),
}
# What goes past other parts: (from, to, side of the column, lesson).
PASSING = (
    ("split", "average", 1, 8),  # the values
    ("x", "residual 1", -1, 11),
    ("residual 1", "residual 2", -1, 11),
    ("target positions", "residual 3", 1, 12),
    ("residual 3", "residual 4", 1, 12),
    ("residual 4", "residual 5", 1, 12),
)
# Frames around a layer: (side of its name, column, from row, to row, lesson).
FRAMES = ((-1, 0, 3.55, 14.6, 11), (1, 1, 3.55, 11.1, 12))


def parts_of(lesson: int) -> dict[str, Part]:
    """What a reader has met by the end of a lesson. ValueError before lesson 6."""
    if lesson < FIRST:
        raise ValueError(f"{lesson=}: the diagram begins with lesson {FIRST}")
    return {name: part for name, part in PARTS.items() if part.lesson <= lesson}


def links_of(parts: dict[str, Part]) -> list[tuple[str, str]]:
    """Arrows between the parts that are there; what is not taught yet is passed over."""

    def next_of(name: str) -> list[str]:
        found = []
        for target in PARTS[name].to:
            found += [target] if target in parts else next_of(target)
        return list(dict.fromkeys(found))

    return [(name, target) for name in parts for target in next_of(name)]


def flow(lesson: int) -> Figure:
    """Draw the diagram as far as `lesson`; what that lesson adds has a thick border.

    Raises ValueError for a lesson before the first one that has it, lesson 6.
    """
    parts = parts_of(lesson)
    rows = [part.row for part in parts.values()]
    columns = 1 + max(part.column >= 1 for part in parts.values())
    width, height = (4.6 if columns == 2 else 2.9), 0.47 * (max(rows) - min(rows) + 1.6)
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    for name, part in parts.items():
        _draw_box(ax, name, part, new=part.lesson == min(lesson, WHOLE))
    for name, target in links_of(parts):
        _draw_arrow(ax, name, target)
    for name, target, side, since in PASSING:
        if since <= lesson:
            _draw_way_past(ax, name, target, side)
    for side, column, low, high, since in FRAMES:
        if since <= lesson:
            _draw_frame(ax, side, column * COLUMN, low, high)
    ax.set(xlim=(-1.45, 1.45 + COLUMN * (columns - 1)), ylim=(min(rows) - 0.7, max(rows) + 0.7))
    ax.axis("off")
    return figure


def flow_text(lesson: int) -> str:
    """The diagram in words: its boxes in the order of the arrows, and what is new."""
    parts = parts_of(lesson)
    words = {name: " ".join(part.text.split()) for name, part in parts.items()}
    past = [(name, target) for name, target, _, since in PASSING if since <= lesson]
    links = [*links_of(parts), *past]
    arrows = "; ".join(f"{words[name]} to {words[target]}" for name, target in links)
    new = [words[n] for n, part in parts.items() if part.lesson == min(lesson, WHOLE)]
    return f"Flow diagram, read from below. Arrows: {arrows}. New in this lesson: {', '.join(new)}."


def _place(part: Part) -> tuple[float, float]:
    side = 1 if part.column >= 1 else 0
    return side * COLUMN + (part.column - side), part.row


def _draw_box(ax: Axes, name: str, part: Part, *, new: bool) -> None:
    x, y = _place(part)
    half = 0.3 if name in ("query", "key", "value") else HALF_WIDTH
    ax.add_patch(
        FancyBboxPatch(
            (x - half, y - HALF_HEIGHT),
            2 * half,
            2 * HALF_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.12" if part.kind != "tensor" else "square,pad=0",
            facecolor=FILLS[part.kind],
            edgecolor="black",
            linewidth=2.4 if new else 0.9,
            zorder=3,
        )
    )
    ax.text(x, y, part.text, ha="center", va="center", fontsize=9.5, linespacing=1.05, zorder=4)


def _draw_arrow(ax: Axes, name: str, target: str) -> None:
    (x, y), (to_x, to_y) = _place(PARTS[name]), _place(PARTS[target])
    if abs(to_x - x) > 1.5:  # from the memory over to the decoder, between the columns
        middle = (x + to_x) / 2
        ax.plot([x + HALF_WIDTH, middle, middle], [y, y, to_y], color=COLOURS[0], zorder=2)
        start, end = (middle, to_y), (to_x - HALF_WIDTH, to_y)
    else:
        start, end = (x, y + HALF_HEIGHT), (to_x, to_y - HALF_HEIGHT)
    ax.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={"arrowstyle": "-|>", "color": COLOURS[0] if start[1] == end[1] else "black"},
        zorder=2,
    )


def _draw_way_past(ax: Axes, name: str, target: str, side: int) -> None:
    """A line that leaves a box above, goes up at its side, and enters another from the side."""
    (x, y), (_, to_y) = _place(PARTS[name]), _place(PARTS[target])
    beside, above = x + side * (HALF_WIDTH + 0.13), y + HALF_HEIGHT + 0.07
    ax.plot([x, beside, beside], [above, above, to_y], color=COLOURS[2], linewidth=1.2, zorder=2)
    ax.annotate(
        "",
        xy=(x + side * HALF_WIDTH, to_y),
        xytext=(beside + side * 0.01, to_y),
        arrowprops={"arrowstyle": "-|>", "color": COLOURS[2], "shrinkA": 0, "shrinkB": 0},
        zorder=2,
    )


def _draw_frame(ax: Axes, side: int, x: float, low: float, high: float) -> None:
    ax.add_patch(
        FancyBboxPatch(
            (x - 1.14, low),
            2.28,
            high - low,
            boxstyle="round,pad=0,rounding_size=0.2",
            facecolor="none",
            edgecolor="dimgrey",
            linestyle="--",
            zorder=1,
        )
    )
    aligned = "right" if side < 0 else "left"
    x, y = x + side * 1.18, (low + high) / 2
    ax.text(x, y, "2 layers", rotation=90, ha=aligned, va="center", fontsize=9)
