"""The King James Bible, which is bundled: its books, and the language model's task on it."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from samples import Task
from text import END, language_model_task

__all__ = ["TEST_BOOKS", "VERSES", "load", "read_books", "tokens"]

FILE = Path(__file__).parent / "data" / "kjv.txt.gz"
WORD = re.compile(r"[a-z']+|[.,:;?!()]")
"""A hyphen separates words, and is no token itself."""

TEST_BOOKS = ("Ruth", "Esther", "Ecclesiastes", "Daniel", "Jonah", "Mark", "Galatians", "James")

VERSES = {
    "Genesis": 1_533,
    "Exodus": 1_213,
    "Leviticus": 859,
    "Numbers": 1_288,
    "Deuteronomy": 959,
    "Joshua": 658,
    "Judges": 618,
    "Ruth": 85,
    "1 Samuel": 810,
    "2 Samuel": 695,
    "1 Kings": 816,
    "2 Kings": 719,
    "1 Chronicles": 942,
    "2 Chronicles": 822,
    "Ezra": 280,
    "Nehemiah": 406,
    "Esther": 167,
    "Job": 1_070,
    "Psalms": 2_461,
    "Proverbs": 915,
    "Ecclesiastes": 222,
    "Song of Solomon": 117,
    "Isaiah": 1_292,
    "Jeremiah": 1_364,
    "Lamentations": 154,
    "Ezekiel": 1_273,
    "Daniel": 357,
    "Hosea": 197,
    "Joel": 73,
    "Amos": 146,
    "Obadiah": 21,
    "Jonah": 48,
    "Micah": 105,
    "Nahum": 47,
    "Habakkuk": 56,
    "Zephaniah": 53,
    "Haggai": 38,
    "Zechariah": 211,
    "Malachi": 55,
    "Matthew": 1_071,
    "Mark": 678,
    "Luke": 1_151,
    "John": 879,
    "Acts": 1_007,
    "Romans": 433,
    "1 Corinthians": 437,
    "2 Corinthians": 257,
    "Galatians": 149,
    "Ephesians": 155,
    "Philippians": 104,
    "Colossians": 95,
    "1 Thessalonians": 89,
    "2 Thessalonians": 47,
    "1 Timothy": 113,
    "2 Timothy": 83,
    "Titus": 46,
    "Philemon": 25,
    "Hebrews": 303,
    "James": 108,
    "1 Peter": 105,
    "2 Peter": 61,
    "1 John": 105,
    "2 John": 13,
    "3 John": 14,
    "Jude": 25,
    "Revelation": 404,
}
"""Verses of each book, in their order: the file has a verse a line, and no other mark of where a book begins."""


def load() -> Task:
    """Return the language model's task on the King James Bible, split by book.

    Tested on are Ruth, Esther, Ecclesiastes, Daniel and Jonah of the Old Testament and Mark, Galatians and James of the
    New one, 6 % of all verses: histories, wisdom, prophets, a gospel and letters. Trained on are the other 58 books.
    """
    books = read_books()
    train, test = (
        [token for book, verses in books.items() if (book in TEST_BOOKS) == is_test for token in tokens(verses)]
        for is_test in (False, True)
    )
    return language_model_task("kjv", "King James Bible", train, test)


def read_books() -> dict[str, list[str]]:
    """Return the verses of each book, as they are written."""
    with gzip.open(FILE, "rt", encoding="utf-8") as file:
        lines = iter(file.read().splitlines())
    return {book: [next(lines) for _ in range(count)] for book, count in VERSES.items()}


def tokens(verses: list[str]) -> list[str]:
    """Return the words and the punctuation of verses, in lower case, and an `<eos>` behind each verse."""
    return [token for verse in verses for token in (*WORD.findall(verse.lower()), END)]
