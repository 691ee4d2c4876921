"""Consent: which code a run folder may have called, and by whose word.

What is typed, what stands in a file of the user's own and what a project file allows is called. What only the folder
of a run or a sweep names is called if its user trained it here, which its mark shows, or has once allowed that code.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import json
import os
import re
import secrets
import site
import sysconfig
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from runner import project
from runner.checks.allowed import ALLOWED, JUDGED, is_forbidden, matches
from runner.checks.targets import nodes
from runner.files import read, write
from runner.keys import parse_json
from runner.visible import log, say

MARK = ".mark"
"""In the folder of a run or a sweep: an HMAC that only the secret of its user can have made."""

NAMED = re.compile(r"""_target_\\?["']?\s*[:=]\s*\\?["']?([A-Za-z_][\w.]*)""")
"""A target in the text of a file, whatever that is."""


def home() -> Path:
    """Return the folder with the user's secret and consents, such as ``~/.config/runner``."""
    from platformdirs import user_config_path

    return user_config_path("runner")


def secret() -> bytes | None:
    """Return the user's secret, which is made where there is none; None if it can neither be read nor made."""
    path = home() / "secret"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        held = path.stat()
        if held.st_uid != os.getuid() or held.st_mode & 0o077:
            log.warning("%s can be read or replaced by others: runs are not marked as yours; chmod 600 it", path)
            return None
        if held.st_size != 32:
            log.warning("%s is damaged: runs are not marked as yours; remove it, and a new one is made", path)
            return None
        return path.read_bytes()
    except (OSError, RuntimeError):  # there may be no home at all
        return None


def _make(path: Path) -> None:
    """Write a new secret, whole; of two processes that make one, both have that of the first."""
    part = path.with_name(f"secret.{secrets.token_hex(8)}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        os.replace(part, path)
    part.unlink(missing_ok=True)


def mark(path: Path, content: bytes) -> None:
    """Mark the folder of a file that was just written, ``config.yaml`` or ``sweep.json``, as this user's.

    A copy of the folder, another content of the file, or code of the same names elsewhere does not fit the mark.
    """
    if code := _code(path, content):
        write(path.parent / MARK, code.encode() + b"\n")


def is_marked(path: Path, content: bytes) -> bool:
    """Return whether this user wrote a file, here and with this content, for the code that its names lead to now."""
    try:
        held = read(path.parent / MARK).strip()
    except (OSError, ValueError):
        return False
    code = _code(path, content)
    return code is not None and hmac.compare_digest(held.encode(), code.encode())


def _code(path: Path, content: bytes) -> str | None:
    if (key := secret()) is None:
        return None
    tops = {name.partition(".")[0] for name in NAMED.findall(content.decode(errors="replace")) if is_own(name)}
    held = [path.name, os.path.realpath(path.parent), hashlib.sha256(content).hexdigest()]
    text = json.dumps([*held, sorted((top, place_of(top)) for top in tops)])
    return hmac.new(key, text.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()


def is_own(name: str) -> bool:
    """Return whether a target is none of those that may always be named."""
    return not matches([name], ALLOWED)


def place_of(name: str) -> str:
    """Return the folder in which the first word of a target is a module or a package; nothing if it is none."""
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError, AttributeError):
        return ""
    found = [*(getattr(spec, "submodule_search_locations", None) or []), getattr(spec, "origin", None)]
    # Of a namespace package every folder that it is in counts; of a module in an archive, the archive.
    files = [each for each in found[: max(1, len(found) - 1)] if each not in (None, "built-in", "frozen")]
    return os.pathsep.join(os.path.realpath(os.path.dirname(each)) for each in files)


def is_installed(place: str) -> bool:
    """Return whether a folder of code is one of libraries, and not of somebody's own modules."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    libraries = [os.path.realpath(each) for each in (*paths, *site.getsitepackages(), site.getusersitepackages())]
    return any(place == each or place.startswith(each + os.sep) for each in libraries)


def names(tree: Any) -> list[str]:
    """Return every target in plain containers, at any depth."""
    return [str(node["_target_"]) for _, node in nodes(tree)]


def _file() -> Path:
    return home() / "consents.json"


def _consents() -> list[tuple[str, str]]:
    """Return the pairs of a folder of code and a pattern that the user has allowed."""
    try:
        return [(str(each["folder"]), str(each["pattern"])) for each in parse_json(read(_file()))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s is not read: %s", _file(), error)
        return []


def allowed(named: Iterable[str], is_mine: bool) -> list[str]:
    """Return the patterns of what a run folder may have called without a word.

    Args:
        named: the targets in it.
        is_mine: whether it is marked: then all of them, by their names. Else what the user has allowed before, as long
            as it is the code of the same folder.
    """
    if is_mine:
        return _asked(named)
    places = {name: place_of(name) for name in named if is_own(name)}
    held = _consents() if places else []
    before = [p for place, p in held if any(places[name] == place and matches([name], [p]) for name in places)]
    return [*project.current().allow, *before]


def _asked(named: Iterable[str]) -> list[str]:
    """Return those of some targets that need somebody's word, perhaps for their arguments."""
    asked = [name for name in named if is_own(name) or matches([name], list(JUDGED))]
    return list(dict.fromkeys(name for name in asked if not is_forbidden(name)))


def remember(named: Iterable[str], patterns: Sequence[str]) -> None:
    """Remember that the user has allowed the code that a folder names; of a library each target by itself, for it has
    many that read files.

    Args:
        patterns: what was typed as ``allow_targets``.
    """
    before = _consents()
    found = list(before)
    for name in sorted({name for name in named if is_own(name) and not is_forbidden(name)}):
        for pattern in [pattern for pattern in patterns if matches([name], [pattern])]:
            wide = is_installed(place := place_of(name)) or not pattern.partition(".")[0].isidentifier()
            found.append((place, name if wide else pattern))
    found = list(dict.fromkeys(pair for pair in found if pair[0]))
    if found == before or secret() is None:
        return
    rows = [json.dumps({"folder": place, "pattern": pattern}) for place, pattern in found]
    try:
        write(_file(), ("[\n" + ",\n".join(rows) + "\n]\n").encode())
    except OSError as error:
        log.warning("the consent is not remembered: %s", error)
        return
    for place, pattern in found[len(before) :]:
        say(f"remembered: run folders may name {pattern} of {place} ({_file()})")


_foreign: Collection[str] | None = None
"""Targets that a folder alone names, and nobody has allowed; None if everything may come from one."""

_patterns: Sequence[str] = ()
"""What is allowed beside what was typed."""


def begin(tree: Any = None, patterns: Sequence[str] = ()) -> None:
    """Note what a command begins with.

    Args:
        tree: the configuration of a run folder, as plain containers; None if all is the user's own word.
        patterns: what that may have called; see `runner.config.load`.
    """
    global _foreign, _patterns
    _foreign, _patterns = {name for name in names(tree) if name not in patterns}, list(patterns)


def is_of_folder() -> bool:
    """Return whether what is composed has, beside what is typed, what a folder says."""
    return _foreign is None or bool(_foreign)


def begin_with_nothing() -> None:
    """Note that all may come from a stranger, as in the sweep of one: nothing is granted."""
    global _foreign, _patterns
    _foreign, _patterns = None, ()


def wanted(named: Iterable[str]) -> list[str]:
    """Return what is to be among ``allow_targets``, beside what was typed there, for the user's own word to count.

    Args:
        named: the targets of a configuration.
    """
    return [*_patterns, *([] if _foreign is None else [name for name in _asked(named) if name not in _foreign])]
