"""The command line: `runner [COMMAND] [KEY=VALUE ...] [FLAGS]`.

The first argument, if it is a plain word, is the command; everything after it is Hydra's.
"""

from __future__ import annotations

from runner import hidden

hidden.refuse()  # before anything is imported that a file may hide

import atexit
import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

# Before torch is imported by anybody: OpenMP threads that have nothing to do sleep instead of spinning, which beside a
# second process made a step up to 36 times as long; and cuBLAS takes a workspace with which it is deterministic.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Whether there is a card is asked of its driver, and CUDA is not started: the process may be about to fork.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

from runner import __version__, debugger, folder, options, program, project, ranks, signals
from runner.commands import COMMANDS, USAGE, show_help, train
from runner.errors import ConfigError, Interrupted, Problem, RunnerError, nearest, of_memory
from runner.visible import prepared, say, say_traceback


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done; 2 the configuration or the data are wrong; 130 or 143 stopped by a signal, with the
        state saved; 1 anything else.
    """
    status, arguments = 1, list(sys.argv[1:] if argv is None else argv)
    debugger.begin(debugger.is_typed(arguments))
    try:
        status = _done(arguments)
    finally:
        folder.leave(stopped=status > 128)
        debugger.begin(False)
    return status


def _done(arguments: list[str]) -> int:
    """Run the command that `arguments` begin with, and return the exit status."""
    project.read.cache_clear()
    try:
        ranks.check(arguments)
        with signals.exiting(), prepared():
            return _command(arguments)(arguments)
    except RunnerError as error:
        say(f"error: {error}")
        return error.exit_status
    except Interrupted as stopped:
        return stopped.exit_status
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        foreign = stop.__cause__  # of which Hydra lets no other exception out of a callback
        if not debugger.on or not isinstance(foreign, Exception) or isinstance(foreign, RunnerError):
            return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except debugger.foreign(BrokenPipeError):  # nobody reads what is printed any more
        return 1
    except debugger.foreign() as error:
        if said := of_memory(error):
            say(f"error: {said}")
        else:
            say_traceback()
        return 1
    raise foreign  # here, where it is no consequence of the other


def _command(arguments: list[str]) -> Callable[[list[str]], int]:
    """The command that `arguments` begin with, which is taken off them; without one it is `train`."""
    if "--version" in arguments:
        return _version
    if not arguments or not re.fullmatch(r"[A-Za-z][\w-]*", arguments[0]):
        return train
    word = arguments.pop(0)
    if word not in COMMANDS:
        remedy = program.line(nearest(word, COMMANDS) or "--help")
        if (options.home() / word).is_dir() or word in ("resume", "check", "debug", "device", "seed"):
            remedy = f"{word}=VALUE"
        raise ConfigError(Problem(word, "there is no such command", ", ".join(COMMANDS), remedy))
    if word in USAGE and {"--help", "-h"} & set(arguments):
        return lambda _: show_help(word)
    return COMMANDS[word]


def _version(arguments: list[str]) -> int:
    from importlib.metadata import version
    from platform import python_version

    others = f"torch {version('torch')}, hydra-core {version('hydra-core')}"
    print(f"runner {__version__} (Python {python_version()}, {others})")
    return 0


def command() -> NoReturn:
    """Run what was typed, and end the process without taking apart all that torch has built, which takes seconds."""
    program.started_by(sys.argv[0])
    debugged = debugger.is_typed(sys.argv)
    status = main()
    if debugged:  # which may have something to do at the end
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody is reading any more, or it is closed
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    command()
