"""The course's pictures: attention maps, curves and bars, drawn from arrays and shown with a text.

Each function returns an ordinary matplotlib figure, to be changed at will and then given to `show`.
Importing this module sets the course's matplotlib defaults: white background, Hangul in labels.
"""

import base64
import importlib.util
import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from IPython.display import display
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

COLOUR_MAP = mpl.colormaps["cividis"].with_extremes(bad="lightgrey")
# Okabe and Ito's colours, told apart by colour-blind readers; the yellow is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, LINE_STYLES = "osD^vPX", ("-", "--", "-.", ":")
VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}
NUMBERS_UP_TO, LABELS_UP_TO = 8, 40  # tokens a side: write each weight; name each token

HANGUL_PACKAGE = "koreanize_matplotlib"  # only its font file: the package itself needs distutils
spec = importlib.util.find_spec(HANGUL_PACKAGE)
if spec and spec.origin:
    font_manager.fontManager.addfont(Path(spec.origin).parent / "fonts" / "NanumGothic.ttf")
mpl.rcParams.update(
    {
        "font.family": ["DejaVu Sans"] + ["NanumGothic"] * (spec is not None),
        "font.size": 9,
        "axes.titlesize": 10,
        "figure.dpi": 100,
        "figure.facecolor": "white",
    }
)


def attention_map(
    weights: ArrayLike,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    *,
    title: str | None = None,
    vmin: float = 0.0,
    vmax: float = 1.0,
    ax: Axes | None = None,
) -> Figure:
    """Draw weights (query_len, key_len): a row for each query, a column for each key.

    vmin and vmax are the values at the two ends of the colour bar; NaN and infinities are grey.
    Raises ValueError unless there is one token for each row and column.
    """
    weights = _array(weights, 2)
    cell = min(0.5, 9 / max(weights.shape))  # inches
    if ax is None:
        width, height = _map_size(weights, query_tokens, key_tokens, cell)
        ax = Figure(figsize=(max(width + 1.3, 3.5), height + 0.7), layout="constrained").subplots()
    image = _draw_map(ax, weights, query_tokens, key_tokens, cell, vmin, vmax)
    ax.set(title=title, xlabel="key", ylabel="query")
    ax.figure.colorbar(image, ax=ax, shrink=0.9)
    return _figure(ax)


def head_maps(
    weights: ArrayLike,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    vmin: float = 0.0,
    vmax: float = 1.0,
) -> Figure:
    """Draw weights (heads, query_len, key_len) side by side, one map a head, with one colour bar.

    titles: one for each head, "head 0", "head 1", ... if left out. Tokens are named at the left
    and lower edges. Raises ValueError unless tokens and titles fit the weights.
    """
    weights = _array(weights, 3)
    titles = [f"head {head}" for head in range(len(weights))] if titles is None else titles
    if len(titles) != len(weights):
        raise ValueError(f"{len(weights)} heads need as many titles; got {len(titles)}")
    cell = min(0.42, max(0.15, 2.6 / max(weights.shape[1:])))  # inches
    inner_width, inner_height = cell * weights.shape[2] + 0.25, cell * weights.shape[1] + 0.35
    columns = max(1, min(4, len(weights), int(12 / inner_width)))
    rows = math.ceil(len(weights) / columns)
    width, height = _map_size(weights[0], query_tokens, key_tokens, cell)
    figure = Figure(
        figsize=(width + inner_width * (columns - 1) + 1, height + inner_height * (rows - 1) + 0.8),
        layout="constrained",
    )
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for head, (ax, title) in enumerate(zip(axes, titles, strict=False)):
        image = _draw_map(ax, weights[head], query_tokens, key_tokens, cell, vmin, vmax)
        ax.set_title(title)
        ax.tick_params(labelleft=head % columns == 0, labelbottom=head + columns >= len(weights))
    for ax in axes[len(weights) :]:
        ax.remove()
    figure.supxlabel("key", fontsize="medium")
    figure.supylabel("query", fontsize="medium")
    figure.colorbar(image, ax=figure.axes, shrink=0.8 / rows**0.5)
    return figure


def curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    log: Literal["", "x", "y", "xy"] = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw lines ``{name: (x, y)}``, each with a colour, a marker and a line style of its own.

    log: the axes that are logarithmic. Their ticks are plain numbers, 0.01 and not 10^-2; up to
    eight different values of x are the ticks themselves.
    """
    if ax is None:
        ax = Figure(figsize=(6.4, 3.8), layout="constrained").subplots()
    looks = zip(cycle(COLOURS), cycle(MARKERS), cycle(LINE_STYLES), strict=False)
    for (name, (x, y)), (colour, marker, line_style) in zip(series.items(), looks, strict=False):
        x, y = _array(x, 1), _array(y, 1)
        every = max(1, len(x) // 10)
        (line,) = ax.plot(x, y, label=name, color=colour, linestyle=line_style)
        line.set(marker=marker, markersize=5, markevery=every)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if "x" in log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        values = sorted({float(value) for x, _ in series.values() for value in _array(x, 1)})
        if len(values) <= 8:
            ax.set_xticks(values)
            ax.minorticks_off()
    if "y" in log:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
    ax.grid(alpha=0.3)
    if len(series) > 1:
        ax.legend()
    return _figure(ax)


def bars(
    values: Mapping[str, float], *, xlabel: str, title: str | None = None, ax: Axes | None = None
) -> Figure:
    """Draw ``{name: value}`` as one horizontal bar each, the first on top, its value beside it."""
    if ax is None:
        ax = Figure(figsize=(6.4, 0.9 + 0.35 * len(values)), layout="constrained").subplots()
    drawn = ax.barh(range(len(values)), [float(v) for v in values.values()], color=COLOURS[0])
    ax.bar_label(drawn, fmt="{:.4g}", padding=3)
    ax.set_yticks(range(len(values)), labels=list(values), parse_math=False)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set(xlabel=xlabel, title=title)
    return _figure(ax)


def show(figure: Figure, alt: str) -> None:
    """Display the figure as a PNG on white and close it; ``alt`` says in words what it shows.

    ``alt`` is the picture's text alternative, and the whole of the output's ``text/plain``.
    Raises ValueError if it is empty.
    """
    if not alt.strip():
        raise ValueError(f"alt={alt!r} must say what the figure shows to those who cannot see it")
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor="white", bbox_inches="tight")
    plt.close(figure)  # or the notebook shows a figure made by pyplot a second time
    data = {"image/png": base64.b64encode(png.getvalue()).decode("ascii"), "text/plain": alt}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def _array(values: ArrayLike, dimensions: int) -> np.ndarray:
    detach = getattr(values, "detach", None)  # a tensor that may require gradients
    array = np.asarray(detach().cpu().double() if detach else values, dtype=float)
    if array.ndim != dimensions:
        raise ValueError(f"expected {dimensions} dimensions; got shape {array.shape}")
    return array


def _draw_map(
    ax: Axes,
    weights: np.ndarray,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    cell: float,
    vmin: float,
    vmax: float,
) -> AxesImage:
    if weights.shape != (len(query_tokens), len(key_tokens)):
        raise ValueError(
            f"weights {weights.shape} need {weights.shape[0]} query and {weights.shape[1]} key "
            f"tokens; got {len(query_tokens)} and {len(key_tokens)}"
        )
    image = ax.imshow(np.ma.masked_invalid(weights), cmap=COLOUR_MAP, vmin=vmin, vmax=vmax)
    for axis, tokens in ((ax.xaxis, key_tokens), (ax.yaxis, query_tokens)):
        step = math.ceil(len(tokens) / LABELS_UP_TO)
        axis.set_ticks(
            range(0, len(tokens), step),
            labels=[_visible(token) for token in tokens[::step]],
            fontsize=_label_points(cell, len(tokens)),
            parse_math=False,
        )
    turn = _turn(key_tokens, cell)
    for label in ax.get_xticklabels():
        if turn and len(label.get_text()) > 1:
            label.set(rotation=turn)
            if turn < 90:
                label.set(ha="right", rotation_mode="anchor")
    if max(weights.shape) <= NUMBERS_UP_TO:
        centred: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": min(9, 22 * cell)}
        colours = image.to_rgba(np.ma.masked_invalid(weights))  # (rows, columns, 4)
        for (row, column), weight in np.ndenumerate(weights):
            ax.text(column, row, f"{weight:.2f}", color=_ink(colours[row, column]), **centred)
    return image


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("ax stands in no figure any more: give one that does, or none")
    return figure


def _visible(token: str) -> str:
    return "".join(VISIBLE.get(character, character) for character in token)


def _ink(colour: np.ndarray) -> str:
    """Black or white, whichever has more contrast on the colour (WCAG's relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return "black" if np.dot([0.2126, 0.7152, 0.0722], linear) > 0.179 else "white"


def _label_points(cell: float, count: int) -> float:
    return min(9, 54 * cell * math.ceil(count / LABELS_UP_TO))


def _text_inches(tokens: Sequence[str], points: float) -> float:
    wide = [sum(1.6 if unicodedata.east_asian_width(c) in "WF" else 1 for c in t) for t in tokens]
    return 0.65 * points / 72 * max(wide, default=0)


def _turn(key_tokens: Sequence[str], cell: float) -> int:
    """By how many degrees to turn the keys' names: as little as keeps them apart."""
    step = math.ceil(len(key_tokens) / LABELS_UP_TO)
    if _text_inches(key_tokens, _label_points(cell, len(key_tokens))) < 0.9 * cell * step:
        return 0
    return 45 if cell * step >= 0.3 else 90


def _map_size(
    weights: np.ndarray, query_tokens: Sequence[str], key_tokens: Sequence[str], cell: float
) -> tuple[float, float]:
    """Width and height in inches of one map with its names."""
    left = _text_inches(query_tokens, _label_points(cell, len(query_tokens)))
    below = _text_inches(key_tokens, _label_points(cell, len(key_tokens)))
    below *= math.sin(math.radians(_turn(key_tokens, cell)))
    return cell * weights.shape[1] + left + 0.2, cell * weights.shape[0] + max(below, 0.2) + 0.2
