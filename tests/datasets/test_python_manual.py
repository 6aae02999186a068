"""One long text: the manual that every Python ships."""

import pytest

from tfm_lib.datasets.python_manual import hold_out, python_topics


def test_the_manual_is_english():
    text = python_topics()
    assert len(text) > 100_000  # the text differs between Python versions
    assert " the " in text


def test_each_paragraph_stands_once_where_it_first_occurs(monkeypatch):
    topics = {"b": "two\n\n   one\n\n three\n", "a": "one\n\n two \n\nsix"}
    monkeypatch.setattr("pydoc_data.topics.topics", topics)
    assert python_topics() == "one\n\n two \n\nsix\n\n three"


def test_no_paragraph_of_the_manual_comes_twice():
    text = python_topics()
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs)


def test_hold_out_cuts_between_paragraphs():
    text = "one one\n\ntwo\n\nthree three\n\nfour"
    first, last = hold_out(text, 0.4)
    assert (first, last) == ("one one\n\ntwo\n\nthree three", "four")
    assert "\n\n".join([first, last]) == text


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.0, 0.9999])
def test_hold_out_refuses_an_empty_part(share):
    with pytest.raises(ValueError, match="both sides"):
        hold_out("one", share)
