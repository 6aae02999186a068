"""The flow diagram: it grows lesson by lesson, every part is joined, and the text says the same."""

import pytest

from tfm_lib.show.diagram import FIRST, PARTS, PASSING, WHOLE, flow, flow_text, links_of, parts_of

every_stage = pytest.mark.parametrize("lesson", range(FIRST, WHOLE + 1))


def texts(figure):
    (ax,) = figure.axes
    return [text.get_text() for text in ax.texts if text.get_text()]


@every_stage
def test_it_draws_what_has_been_taught_and_nothing_else(lesson):
    drawn = texts(flow(lesson))
    taught = [part.text for part in PARTS.values() if part.lesson <= lesson]
    assert [text for text in drawn if text != "2 layers"] == taught


@every_stage
def test_what_the_lesson_adds_has_a_thick_border(lesson):
    (ax,) = flow(lesson).axes
    boxes = [patch for patch in ax.patches if patch.get_facecolor()[3] and patch.get_zorder() == 3]
    assert len(boxes) == len(parts_of(lesson))
    thick = sum(box.get_linewidth() > 2 for box in boxes)
    assert thick == sum(part.lesson == lesson for part in PARTS.values()) > 0


@every_stage
def test_boxes_do_not_overlap_and_letters_stay_inside(lesson):
    figure = flow(lesson)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    boxes = [p.get_window_extent() for p in ax.patches if p.get_zorder() == 3]
    labels = [text.get_window_extent() for text in ax.texts if text.get_zorder() == 4]
    for box, label in zip(boxes, labels, strict=True):
        assert box.x0 <= label.x0
        assert label.x1 <= box.x1
        assert box.y0 <= label.y0
        assert label.y1 <= box.y1
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_the_whole_model_leads_from_both_texts_to_the_next_token():
    assert parts_of(WHOLE) == parts_of(22) == PARTS
    links = {*links_of(PARTS), *((name, target) for name, target, *_ in PASSING)}
    reached, todo = set(), ["source", "target"]
    while todo:
        name = todo.pop()
        reached.add(name)
        todo += [target for start, target in links if start == name and target not in reached]
    assert reached == set(PARTS)


def test_what_is_not_taught_yet_is_passed_over():
    assert links_of(parts_of(6)) == [
        ("scores", "scale"),
        ("scale", "softmax"),
        ("softmax", "average"),
    ]


def test_the_text_names_every_box_and_what_is_new():
    said = flow_text(9)
    for part in parts_of(9).values():
        assert " ".join(part.text.split()) in said
    assert said.endswith("New in this lesson: mask.")
    assert "split: 4 heads of (n, 16) to weights · V" in said


def test_before_the_first_lesson_there_is_none():
    with pytest.raises(ValueError, match="lesson=5: the diagram begins with lesson 6"):
        flow(5)
