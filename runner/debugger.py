"""`debug=ide`: everything in this process and this thread, and errors of the user's code uncaught, for a debugger."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

on = False
"""Whether a debugger looks on: then no thread is started, no process forked, and no error of others caught."""


def is_typed(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks for it: threads start before there is a configuration."""
    return any(re.fullmatch(r"\+{0,2}debug=['\"]?ide['\"]?", argument) for argument in arguments)


def begin(wanted: bool) -> None:
    """Switch it on, or off again."""
    global on
    on = wanted


def foreign(*kinds: type[Exception], also: tuple[type[BaseException], ...] = ()) -> tuple[type[BaseException], ...]:
    """Return what to catch where code of the user's is called, to explain what it raises; nothing for a debugger.

    Args:
        kinds: of exceptions; without any, `Exception`.
        also: what is caught for a debugger, too.
    """
    return also if on else (*also, *(kinds or (Exception,)))


def executor(count: int | None, name: str = "") -> Executor:
    """Return what works in `count` threads, or in this one for a debugger."""
    return _Here() if on else ThreadPoolExecutor(count, thread_name_prefix=name)


class _Here(Executor):
    """Does what it is given at once. What the system refuses is kept for whoever asks, as by a thread."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        made: Future[T] = Future()
        try:
            made.set_result(fn(*args, **kwargs))
        except OSError as error:
            made.set_exception(error)
        return made
