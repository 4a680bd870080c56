"""Tables in a document in Markdown, each between two comments that name it, so that they are written by a script."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["filled"]

PLACE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(\n?<!-- end -->)", re.DOTALL)


def filled(document: str, tables: Mapping[str, str]) -> str:
    r"""Return the document with these tables in their places; others stay as they are.

    Example:
        >>> print(filled("<!-- table: a -->\nold\n<!-- end -->", {"a": "new"}))
        <!-- table: a -->
        <BLANKLINE>
        new
        <BLANKLINE>
        <!-- end -->
    """

    def replaced(match: re.Match[str]) -> str:
        if match["name"] not in tables:
            return match[0]
        return f"<!-- table: {match['name']} -->\n\n{tables[match['name']].strip()}\n\n<!-- end -->"

    return PLACE.sub(replaced, document)
