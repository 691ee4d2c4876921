"""The grammar of overrides, which is Hydra's: reading what was typed, and writing what can be typed."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser


def quoted(override: str, sweep: bool = False) -> str:
    """`override`, with its value in quotes if Hydra's grammar cannot read it as it is: ``input=my (1).png``.

    Args:
        sweep: whether commas stand between values.
    """
    key, equals, value = override.partition("=")
    if sweep and parse(override) is None and equals and "," in value and not value.startswith(("[", "{")):
        alternatives = re.split(r",(?![^{]*\})", value)  # a comma in a reference is part of it
        parts = [part if parse(f"{key}={part}") is not None else quote(part) for part in alternatives]
        return f"{key}={','.join(parts)}"
    if parse(override) is None and equals and not value.startswith(("[", "{", "'", '"')):
        return f"{key}={quote(value)}"
    return override


def quote(text: str) -> str:
    """`text` in quotes, as Hydra's grammar reads it: a backslash counts for itself but before a quote."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return "'" + escaped + "\\" * trailing + "'"


def parse(override: str) -> Any:
    """What Hydra's grammar makes of an override; None if it cannot read it."""
    from hydra.errors import HydraException

    try:
        return _parser().parse_override(override)
    except (HydraException, ValueError):  # a number of too many digits
        return None


@functools.cache
def _parser() -> OverridesParser:
    """Made once: it looks at the signatures of all functions that Hydra's grammar has."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()
