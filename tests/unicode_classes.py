"""The letters, numbers and spaces of the tokenizers library, as rust/core/src/bpe/classes.rs.

Run it to write that file anew: python tests/unicode_classes.py > rust/core/src/bpe/classes.rs
"""

from __future__ import annotations

import re
from importlib.metadata import version

WIDTH = 116


def members(pattern: str) -> list[int]:
    """Every code point that the library's own regular expressions count to a class."""
    from tokenizers import Regex, pre_tokenizers

    drop = pre_tokenizers.Split(Regex(pattern), "removed")
    found = []
    for start in range(0, 0x110000, 1 << 16):
        points = [point for point in range(start, start + (1 << 16)) if not 0xD800 <= point <= 0xDFFF]
        left = {ord(char) for piece, _ in drop.pre_tokenize_str("".join(map(chr, points))) for char in piece}
        found += [point for point in points if point not in left]
    return found


def table(name: str, about: str, pattern: str) -> str:
    ranges: list[list[int]] = []
    for point in members(pattern):
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    lines, line = [], "   "
    for first, last in ranges:
        item = f" ({first:#x}, {last:#x}),"
        if len(line) + len(item) > WIDTH:
            lines.append(line)
            line = "   "
        line += item
    body = "\n".join([*lines, line])
    return f"/// {about}\n#[rustfmt::skip]\npub const {name}: [(u32, u32); {len(ranges)}] = [\n{body}\n];\n"


def text() -> str:
    head = (
        f"//! Which code points are letters, numbers and spaces to tokenizers {version('tokenizers')}: the regular\n"
        "//! expressions of another release may follow another Unicode. Written by tests/unicode_classes.py.\n"
    )
    tables = [
        table("LETTERS", "First and last code point of each range of `\\p{L}`.", r"\p{L}"),
        table("NUMBERS", "Of `\\p{N}`.", r"\p{N}"),
        table("SPACES", "Of `\\s`.", r"\s"),
    ]
    return "\n".join([head, *tables])


def without_version(text: str) -> str:
    return re.sub(r"to tokenizers \S+:", "", text)


if __name__ == "__main__":
    print(text(), end="")
