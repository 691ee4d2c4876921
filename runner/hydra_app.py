"""Running a task the way Hydra does, but with our own messages; and with what a run or a sweep goes on."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner import debugger, folder, hydra_internals, program, project
from runner.command_line import check_sizes, config_dirs, multirun, value_of
from runner.errors import ConfigError, NotWritten, Problem, RunFolderError, cut, for_shell, reason_of
from runner.grammar import parse, quote
from runner.keys import is_below, leaves
from runner.project import placed
from runner.result import guarded
from runner.visible import say

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(flags: Sequence[str], overrides: Sequence[str], task: Callable[[DictConfig], None], config_name: str) -> int:
    """Compose the configuration and run `task` on it, the way Hydra does."""
    from hydra.errors import HydraException

    from runner import compose, options
    from runner.checks.allowed import ALLOWED
    from runner.checks.overrides import FAILURES, explain

    own_name = value_of(flags, "--config-name", "-cn")
    if own_name is not None and config_name == compose.SAVED:
        what = "cannot be combined with a run folder, which has its own configuration"
        raise ConfigError(Problem("--config-name", what, remedy="leave out --config-name"))
    name, (own, flags) = own_name or config_name, config_dirs(flags)
    compose.check_names(own)
    compose.check_files()
    project.find_own_code()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors to us instead of printing them and exiting with 1
    statuses: list[int] = []

    def call(cfg: DictConfig) -> None:
        statuses.append(1)  # if it raises, too
        statuses[-1] = guarded(lambda: task(cfg))

    before, sys.argv = sys.argv, ["runner", *flags, *overrides]
    try:
        with _mode_of_flags(flags, overrides, own), hydra_internals.also_in(own):
            hydra_internals.main(str(options.home()), config_name, [*ALLOWED, *_allowed(overrides)])(call)()
    except FAILURES as error:
        if isinstance(error, BrokenPipeError) or (statuses and debugger.on):
            raise
        # What the task raises is said there: this is of Hydra's own files.
        if isinstance(error, OSError) and (place := folder.held()) is not None:
            at = error.filename or str(place / ".hydra")
            raise NotWritten(error.errno, error.strerror or str(error), at) from error
        if statuses:
            raise
        if foreign := hydra_internals.refused(error):
            if (place := folder.held()) is not None:  # and nothing was begun in it
                folder.disclaim(place)
            what = f"names {foreign}, which is not on the list of what Hydra may call"
            remedy = for_shell(f"allow_targets=[{foreign}]") + " on the command line, if you trust this code"
            raise ConfigError(Problem("hydra", what, remedy=remedy)) from error
        load = compose.loader(name, own, multirun(flags))
        problems = placed(explain(load, overrides, own, name), overrides)
        if not problems and value_of(flags, "--config-path", "-cp") is not None:
            what = f"takes the place of runner's own files: {reason_of(error)}"
            problems = [Problem("--config-path", what, remedy="--config-dir FOLDER, beside them")]
        if not problems and isinstance(error, HydraException):
            problems = [Problem("configuration", reason_of(error))]
        if not problems:
            raise
        raise ConfigError(*problems) from error
    finally:
        sys.argv = before
    return max(statuses, default=0)


def _mode_of_flags(
    flags: Sequence[str], overrides: Sequence[str], own: Sequence[Path]
) -> contextlib.AbstractContextManager[None]:
    """Have Hydra take from the flags whether it is a sweep, unless a file of the user's may say so (``hydra.mode``)."""
    own_files = value_of(flags, "--config-path", "-cp", "--config-name", "-cn") is not None
    if own or own_files or any("hydra.searchpath" in override for override in overrides):
        return contextlib.nullcontext()
    return hydra_internals.mode_of_flags()


def _allowed(overrides: Sequence[str]) -> list[str]:
    """Return what is typed as ``allow_targets``."""
    typed = [parse(override) for override in overrides if override.lstrip("+").startswith("allow_targets=")]
    values = [override.value() for override in typed if override is not None and not override.is_sweep_override()]
    return [str(pattern) for value in values if isinstance(value, list) for pattern in value]


def remember(overrides: Sequence[str], run_dir: Path) -> None:
    """Remember what is allowed to be called of what a run folder names, and find it."""
    from runner import config, consent

    project.find_own_code()
    if patterns := _allowed(overrides):
        consent.remember(consent.names(config.load(run_dir / "config.yaml")), patterns)


def resumed(override: str) -> str | None:
    """The run that an override ``resume=…`` names."""
    return value_given(override, "resume")


def value_given(override: str, key: str) -> str | None:
    """The one value that an override gives a key; None if it is of another key."""
    parsed = parse(override) if key in override else None  # parsing takes longer than looking
    if parsed is None or parsed.key_or_group != key or parsed.is_delete() or parsed.is_sweep_override():
        return None
    value = parsed.value()
    return None if value is None else str(value)


def resume(name: str, overrides: Sequence[str]) -> list[str]:
    """Take the configuration of a run folder as the one to run, and return the overrides that go on in that folder.

    The saved tree is composed anew under our own Hydra settings, so that overrides are checked like any others and
    nothing of the run folder's is called.
    """
    from runner import anew, compose, config, options

    run_dir = folder.find(name, "resume")
    folder.refuse_links(run_dir, "resume")
    if name == "last":
        _mention_sweep(run_dir)
    swapped = [o for o in overrides if (options.home() / o.partition("=")[0].lstrip("+~")).is_dir()]
    typed = anew.targets(overrides)
    before = dict(leaves(config.load(run_dir / "config.yaml"))) if typed else {}
    others = [place for place, target in typed.items() if target != before.get(f"{place}._target_")]
    swapped += [o for o in overrides if o not in swapped and is_below(anew.key_of(o), *others)]
    if swapped:
        what, remedy = f"cannot be changed when resuming {run_dir}", "leave out resume= to start a new run"
        raise ConfigError(*(Problem(override, what, remedy=remedy) for override in swapped))
    remember(overrides, run_dir)
    compose.save_as_primary(config.load(run_dir / "config.yaml"))
    rest = [override for override in overrides if not resumed(override)]
    place = quote(str(run_dir))
    return [*rest, f"resume={place}", f"hydra.run.dir={place}", "hydra.output_subdir=null"]


def _mention_sweep(run_dir: Path) -> None:
    """Say so if ``resume=last`` may have meant a sweep: one that is newer than the newest run, and not complete."""
    from runner.sweep.record import Record

    with contextlib.suppress(OSError, RunFolderError):  # what is wrong with it is no matter of this run
        sweep = folder.newest_sweep()
        if sweep is not None and folder.is_newer(sweep, run_dir) and not Record.read(sweep).is_complete:
            what = f"the sweep {sweep} is newer and not complete; to resume it: {program.line('-m', 'resume=last')}"
            say(what)


def resume_sweep(sweep_dir: Path, flags: list[str], overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags and overrides with which a sweep is gone on with: what it was started with, and what was typed now.

    Of what the folder of somebody else says nothing is taken that may name code, or where it is: that is the word of
    whoever types. Nor is a reference to anything but keys of the run.

    Raises:
        ConfigError: with every key that is to be typed again.
    """
    from runner import consent
    from runner.references import again, must_be_typed
    from runner.sweep.record import Record

    project.find_own_code()
    record = Record.read(sweep_dir)
    before = [override for override in record.typed if not _is_for_whoever_types(override, record.is_mine)]
    check_sizes(before)
    if unread := [override for override in before if parse(override) is None]:
        what = f"has {cut(unread[0], 80)!r} among what was typed, which is not KEY=VALUE"
        raise RunFolderError(Problem(str(sweep_dir / folder.SWEEP), what))
    rest = [override for override in overrides if not resumed(override)]
    if any(override.startswith("sweep=") for override in rest):  # another search has other keys
        of_search = re.compile(r"[+~]*sweep(=|\.(points|seed|sampler|pruner))")
        before = [override for override in before if not of_search.match(override)]
    # Of two for one key the last counts: more values of a key are more jobs.
    both = {override.partition("=")[0].lstrip("+"): override for override in [*before, *rest]}
    now = {override.partition("=")[0].lstrip("+") for override in rest}
    lost = [key for key, override in both.items() if key not in now and must_be_typed(override)]
    if not record.is_mine:
        consent.begin_with_nothing()
        if placed_ := [override for override in before if "@" in override.partition("=")[0] and override not in rest]:
            what = f"has {cut(placed_[0], 80)!r} among what was typed, which puts an option at another place"
            remedy = f"{for_shell(placed_[0])}, typed again, if you trust it"
            raise RunFolderError(Problem(str(sweep_dir / folder.SWEEP), what, remedy=remedy))
    if lost and not record.is_mine:  # they would be resolved here, whoever wrote them
        raise ConfigError(*(again(key, both[key].partition("=")[2], str(sweep_dir)) for key in lost))
    place = quote(str(sweep_dir))
    return [*flags, *([] if multirun(flags) else ["-m"])], [*both.values(), f"hydra.sweep.dir={place}"]


def _is_for_whoever_types(override: str, is_mine: bool) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return is_below(key, "resume", "check", *([] if is_mine else ["allow_targets"])) or key.startswith("hydra")
