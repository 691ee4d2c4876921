"""The parts of a data set, and the words that people have for them."""

from __future__ import annotations

PARTS = ("train", "val", "test")
SYNONYMS = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}


def part_named(word: str) -> str | None:
    """The part that a word means, if it means one."""
    name = SYNONYMS.get(word.strip().lower(), word.strip().lower())
    return name if name in PARTS else None
