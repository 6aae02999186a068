import base64
import io
from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib import pyplot as plt

from tfm_lib.show.plots import (
    COLOUR_MAP,
    LINE_STYLES,
    MARKERS,
    attention_map,
    bars,
    curves,
    head_maps,
    show,
)


@pytest.fixture(scope="module", autouse=True)
def shell():
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def names(count: int, word: str = "t") -> list[str]:
    return [f"{word}{index}" for index in range(count)]


def uniform(*shape: int) -> np.ndarray:
    return np.full(shape, 1 / shape[-1])


def tick_texts(labels) -> list[str]:
    return [label.get_text() for label in labels if label.get_visible()]


def draw(figure) -> np.ndarray:
    """The figure as show saves it: (height, width, 4), values between 0 and 1."""
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor="white", bbox_inches="tight")
    png.seek(0)
    return plt.imread(png)


def displayed(figure, alt: str):
    with capture_output() as captured:
        show(figure, alt)
    assert captured.stdout == captured.stderr == ""
    (output,) = captured.outputs
    return output


# --- what is displayed


def test_show_gives_the_text_alternative_and_no_repr():
    alt = "Weights: each of three queries looks equally at five keys."
    output = displayed(attention_map(uniform(3, 5), names(3), names(5)), alt)
    assert output.data.keys() == {"image/png", "text/plain"}
    assert output.data["text/plain"] == alt
    assert output.metadata == {"image/png": {"alt": alt}}


def test_show_gives_a_small_png_on_opaque_white():
    figure = attention_map(uniform(30, 30), names(30), names(30))
    output = displayed(figure, "thirty tokens")
    png = base64.b64decode(output.data["image/png"])
    image = plt.imread(io.BytesIO(png))  # (height, width, rgba)
    assert len(png) < 100_000
    assert (image[..., 3] == 1).all()
    assert (image[[0, -1]] == 1).all()
    assert (image[:, [0, -1]] == 1).all()


def test_show_closes_a_figure_made_by_pyplot():
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    displayed(figure, "a line")
    assert not plt.get_fignums()


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_picture_without_text_is_an_error(alt):
    with pytest.raises(ValueError, match="must say what the figure shows"):
        show(bars({"a": 1.0}, xlabel="x"), alt)


# --- attention maps


@pytest.mark.parametrize(("query_len", "key_len"), [(1, 1), (5, 7), (11, 30), (40, 2)])
def test_every_token_is_named(query_len, key_len):
    queries, keys = names(query_len, "query"), names(key_len, "key")
    ax = attention_map(uniform(query_len, key_len), queries, keys).axes[0]
    assert tick_texts(ax.get_yticklabels()) == queries
    assert tick_texts(ax.get_xticklabels()) == keys
    assert len(ax.get_xticks()) == key_len
    assert len(ax.get_yticks()) == query_len


def test_names_are_thinned_out_only_beyond_forty():
    ax = attention_map(uniform(41, 100), names(41), names(100)).axes[0]
    assert tick_texts(ax.get_yticklabels()) == names(41)[::2]
    assert tick_texts(ax.get_xticklabels()) == names(100)[::3]
    assert list(ax.get_xticks()) == list(range(0, 100, 3))


@pytest.mark.parametrize("count", [5, 30, 31, 40])
@pytest.mark.parametrize("word", ["a", "the", "incomprehensibilities", "고양이"])
def test_no_two_names_overlap_and_none_is_cut(count, word):
    tokens = [word if index % 3 else "." for index in range(count)]
    figure = attention_map(uniform(count, count), tokens, tokens)
    figure.draw_without_rendering()  # lays it out
    page = figure.bbox
    ax = figure.axes[0]
    for label in [*ax.get_xticklabels(), *ax.get_yticklabels()]:
        box = label.get_window_extent()
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    assert_apart(ax.get_yticklabels(), lambda box: (box.y0, box.y1))
    level = [label for label in ax.get_xticklabels() if label.get_rotation() in (0, 90)]
    assert_apart(level, lambda box: (box.x0, box.x1))
    slanted = [label for label in ax.get_xticklabels() if label.get_rotation() == 45]
    if slanted:  # lines of text a cell apart: cell * sin 45 must exceed their height
        cell = ax.transData.transform((1, 0))[0] - ax.transData.transform((0, 0))[0]
        assert cell * 2**-0.5 > slanted[0].get_fontsize() * figure.dpi / 72


def assert_apart(labels, side):
    sides = sorted(side(label.get_window_extent()) for label in labels)
    for (_, end), (start, _) in pairwise(sides):
        assert end <= start + 1  # pixels


def test_spaces_and_line_ends_are_visible_and_dollars_are_no_formula():
    tokens = [" ", "a b", "\n", "$x$"]
    ax = attention_map(uniform(4, 4), tokens, tokens).axes[0]
    assert tick_texts(ax.get_xticklabels()) == ["␣", "a␣b", "↵", "$x$"]
    assert not any(label.get_parse_math() for label in ax.get_xticklabels())


def test_small_maps_carry_their_numbers_large_ones_do_not():
    weights = np.random.default_rng(0).dirichlet(np.ones(8), size=5)
    ax = attention_map(weights, names(5), names(8)).axes[0]
    assert [t.get_text() for t in ax.texts] == [f"{w:.2f}" for w in weights.flat]
    assert not attention_map(uniform(5, 9), names(5), names(9)).axes[0].texts


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour) -> float:
    srgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_numbers_stand_out_from_every_colour():
    weights = np.array([*np.linspace(0, 1, 15), -np.inf]).reshape(4, 4)
    ax = attention_map(weights, names(4), names(4)).axes[0]
    backgrounds = ax.images[0].to_rgba(ax.images[0].get_array()).reshape(16, 4)
    for text, background in zip(ax.texts, backgrounds, strict=True):
        assert contrast(text.get_color(), background[:3]) >= 4.5  # WCAG AA
    assert {text.get_color() for text in ax.texts} == {"black", "white"}


def test_the_colour_map_grows_brighter_all_the_way():
    brightness = [luminance(COLOUR_MAP(value)) for value in np.linspace(0, 1, 101)]
    assert (np.diff(brightness) > 0).all()


def test_the_colour_bar_spans_zero_to_one_unless_told():
    figure = attention_map(uniform(3, 4), names(3), names(4))
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert figure.axes[1].get_ylim() == (0, 1)
    figure = attention_map(uniform(3, 4), names(3), names(4), vmin=-2, vmax=5)
    assert figure.axes[1].get_ylim() == (-2, 5)


def test_tensors_that_need_gradients_masks_and_lists_are_drawn():
    tensor = torch.full((2, 3), 0.25, requires_grad=True)
    drawn = attention_map(tensor, names(2), names(3)).axes[0].images[0].get_array()
    assert (drawn == 0.25).all()
    assert tensor.requires_grad
    mask = torch.ones(3, 3).tril().bool()
    drawn = attention_map(mask, names(3), names(3)).axes[0].images[0].get_array()
    assert drawn.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert attention_map([[1.0]], ["a"], ["b"]).axes[0].texts[0].get_text() == "1.00"


def test_a_given_axes_is_drawn_into():
    figure, (left, right) = plt.subplots(1, 2)
    assert attention_map(uniform(2, 3), names(2), names(3), title="here", ax=right) is figure
    assert right.get_title() == "here"
    assert not left.images
    plt.close(figure)


def test_wrong_numbers_of_tokens_are_named():
    message = r"weights \(3, 5\) need 3 query and 5 key tokens; got 5 and 3"
    with pytest.raises(ValueError, match=message):
        attention_map(uniform(3, 5), names(5), names(3))
    with pytest.raises(ValueError, match=r"expected 2 dimensions; got shape \(2, 3, 5\)"):
        attention_map(uniform(2, 3, 5), names(3), names(5))


# --- heads


@pytest.mark.parametrize("heads", [1, 2, 5, 8])
@pytest.mark.parametrize(("query_len", "key_len"), [(6, 6), (11, 24), (30, 30)])
def test_heads_share_a_bar_and_name_their_tokens_at_the_edges(heads, query_len, key_len):
    weights = np.random.default_rng(0).dirichlet(np.ones(key_len), size=(heads, query_len))
    queries, keys = names(query_len, "q"), names(key_len, "k")
    figure = head_maps(weights, queries, keys)
    *maps, _ = figure.axes
    assert [ax.get_title() for ax in maps] == [f"head {head}" for head in range(heads)]
    for ax, head in zip(maps, weights, strict=True):
        assert np.array_equal(ax.images[0].get_array(), head)
    rows_and_columns = [ax.get_subplotspec() for ax in maps]
    for ax, spec in zip(maps, rows_and_columns, strict=True):
        column = [other for other in rows_and_columns if other.colspan == spec.colspan]
        lowest = spec.rowspan.start == max(other.rowspan.start for other in column)
        assert tick_texts(ax.get_yticklabels()) == (queries if spec.is_first_col() else [])
        assert tick_texts(ax.get_xticklabels()) == (keys if lowest else [])
    assert figure.get_size_inches()[0] < 14.5  # as wide as a notebook's page, more or less


def test_eight_heads_lie_whole_on_the_page_and_apart():
    tokens = names(12, "token")
    figure = head_maps(uniform(8, 12, 12), tokens, tokens)
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.texts] == ["key", "query"]
    boxes = [part.get_tightbbox() for part in figure.axes]
    boxes += [text.get_window_extent() for text in figure.texts]
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert {label.get_rotation() for label in figure.axes[7].get_xticklabels()} == {90}  # crowded


def test_heads_take_titles_and_refuse_wrong_ones():
    figure = head_maps(uniform(2, 3, 4), names(3), names(4), titles=["first", "second"])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["first", "second"]
    with pytest.raises(ValueError, match="2 heads need as many titles; got 1"):
        head_maps(uniform(2, 3, 4), names(3), names(4), titles=["first"])
    with pytest.raises(ValueError, match="expected 3 dimensions"):
        head_maps(uniform(3, 4), names(3), names(4))
    with pytest.raises(ValueError, match="need 3 query and 4 key"):
        head_maps(uniform(2, 3, 4), names(4), names(3))


# --- curves and bars


def test_each_curve_has_a_look_of_its_own():
    series = {f"line {index}": (range(50), torch.arange(50.0) * index) for index in range(7)}
    ax = curves(series, xlabel="step", ylabel="loss", title="seven").axes[0]
    assert [line.get_label() for line in ax.lines] == list(series)
    assert ax.lines[2].get_ydata()[-1] == 98
    assert len({line.get_color() for line in ax.lines}) == 7
    assert [line.get_marker() for line in ax.lines] == list(MARKERS)
    assert {line.get_linestyle() for line in ax.lines} == set(LINE_STYLES)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(series)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("step", "loss", "seven")


def test_a_single_curve_needs_no_legend_and_a_bad_one_is_refused():
    assert curves({"a": ([1], [2])}, xlabel="x", ylabel="y").axes[0].get_legend() is None
    with pytest.raises(ValueError, match=r"expected 1 dimensions; got shape \(1, 2\)"):
        curves({"a": ([1, 2], [[1, 2]])}, xlabel="x", ylabel="y")


def test_logarithmic_axes_speak_in_plain_numbers():
    ax = curves({"a": ([16, 64, 256], [1, 10, 0.01])}, xlabel="x", ylabel="y", log="xy").axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert tick_texts(ax.get_xticklabels()) == ["16", "64", "256"]
    assert {"0.01", "0.1", "1", "10"} <= set(tick_texts(ax.get_yticklabels()))
    ax = curves({"a": ([16, 64, 256], [1, 10, 0.01])}, xlabel="x", ylabel="y", log="x").axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")


def test_half_precision_is_drawn():
    x = torch.linspace(0, 1, 3, dtype=torch.bfloat16)
    drawn = curves({"a": (range(3), x)}, xlabel="x", ylabel="y").axes[0].lines[0]
    assert list(drawn.get_ydata()) == [0, 0.5, 1]


def test_bars_are_named_and_numbered_from_the_top():
    ax = bars({"RNN": 0.5, "Transformer": 2}, xlabel="s").axes[0]
    assert tick_texts(ax.get_yticklabels()) == ["RNN", "Transformer"]
    assert [text.get_text() for text in ax.texts] == ["0.5", "2"]
    assert [bar.get_width() for bar in ax.patches] == [0.5, 2]
    assert ax.yaxis_inverted()


# --- letters


def test_every_sign_the_course_uses_has_a_glyph():
    """A missing glyph is a warning, and warnings are errors here."""
    tokens = [
        "고양이",
        "|가",
        "뷁",
        "日",
        " ",
        "\n",
        "\t",
        "▁the",
        "Ġé",
        "→",
        "√d_k",
        "∞",
        "⊤",
        "<eos>",
    ]
    draw(attention_map(uniform(14, 14), tokens, tokens, title="학습 √(d_k) → ∞ · −1 ≤ ‖x‖"))
    draw(curves({"한글 →": ([1, 2], [-1, 2]), "b": ([1], [1])}, xlabel="걸음", ylabel="손실"))


def test_a_sign_without_a_glyph_would_be_noticed():
    with pytest.warns(UserWarning, match="missing from font"):
        draw(bars({"ཀ": 1.0}, xlabel="x"))
