"""One long English text that every Python ships: its own manual."""

PARAGRAPH = "\n\n"


def python_topics() -> str:
    """The English text behind Python's ``help()``: about 370,000 characters, by topic.

    Topics repeat whole passages of each other, so each paragraph is kept where it first occurs:
    nothing long of a held-out part was seen before. The text differs between Python versions.
    """
    from pydoc_data.topics import topics

    text = PARAGRAPH.join(topics[name].strip() for name in sorted(topics))
    unique: dict[str, str] = {}
    for paragraph in text.split(PARAGRAPH):
        unique.setdefault(paragraph.strip(), paragraph)
    return PARAGRAPH.join(unique.values())


def hold_out(text: str, share: float = 0.1) -> tuple[str, str]:
    """Cut a text at a paragraph: what comes first, and about the last ``share`` of it.

    ValueError unless both parts get a paragraph.
    """
    cut = text.find(PARAGRAPH, int((1 - share) * len(text))) if 0 < share < 1 else -1
    first, last = text[: max(cut, 0)], text[cut + len(PARAGRAPH) :]
    if cut < 0 or not (first and last):
        raise ValueError(f"{share=} of {len(text)} characters must leave paragraphs on both sides")
    return first, last
