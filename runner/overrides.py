"""Overrides, ``KEY=VALUE``, as Hydra's grammar reads them and as people type them."""

from __future__ import annotations

import re
from typing import Any


def quoted(override: str) -> str:
    """`override`, with its value in quotes if Hydra's grammar cannot read it as it is: ``input=my (1).png``."""
    key, equals, value = override.partition("=")
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
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None
