"""Tables that a lesson shows: plain text for a terminal, Markdown for a notebook page."""

import re
from collections.abc import Sequence


class Table:
    """Rows under a header; the last expression of a cell shows it. Cells are turned into str.

    Raises ValueError for a row whose length is not the header's.
    """

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.header = [str(name) for name in header]
        self.rows = [[str(cell) for cell in row] for row in rows]
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"row {row} has {len(row)} cells, header {self.header} {len(self.header)}"
                )

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def _repr_markdown_(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(cell: str) -> str:
    # A page would take <pad> for HTML and show nothing; in code and formulas it stands as it is.
    cell = re.sub(r"(`[^`]*`|\$[^$]*\$)|<", lambda found: found[1] or "&lt;", cell)
    return cell.replace("|", "\\|").replace("\n", "<br>")
