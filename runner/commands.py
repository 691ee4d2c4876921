"""The commands. Each gets what was typed after its name, and returns the exit status.

What a command needs is imported when it is run: help, and a mistake in the command itself, need nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from runner import consent, folder, hydra_app, program, project, signals
from runner.command_line import multirun, read, read_for, with_project
from runner.errors import ConfigError, Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from runner.trained.opened import Opened


def train(arguments: list[str]) -> int:
    """Train what the configuration describes."""
    from runner import task
    from runner.compose import SAVED

    flags, overrides = read(arguments)
    consent.begin()
    resume = [value for value in map(hydra_app.resumed, overrides) if value]
    if resume and (sweep_dir := folder.find_sweep(resume[-1], multirun(flags))) is not None:
        flags, overrides = hydra_app.resume_sweep(sweep_dir, flags, overrides)
    elif resume:
        return hydra_app.run(flags, hydra_app.resume(resume[-1], overrides), task.main, SAVED)
    else:
        overrides = with_project(overrides)
        if not any(re.match(r"(check|debug|hydra\.(run|sweep)\.dir)=", override) for override in overrides):
            folder.starting("sweep" if multirun(flags) else "run")
    return hydra_app.run(flags, overrides, task.main, "config")


def inspect(arguments: list[str]) -> int:
    """Show the layers of the model, the memory that a step needs, and how weights will be updated."""
    from runner.inspect import main as run

    return _look("inspect", arguments, run, "config")


def lr_find(arguments: list[str]) -> int:
    """Suggest a learning rate."""
    from runner.lr_find import main as run

    return _look("lr_find", arguments, run, "lr_find")


def evaluate(arguments: list[str]) -> int:
    """Evaluate a trained run on a part of its data, or on other data."""
    (opened,) = _opened("evaluate", arguments)
    from runner.evaluate import main as run

    run(opened)
    return 0


def predict(arguments: list[str]) -> int:
    """Predict with one or several trained runs. The exit status is 1 if some inputs could not be read."""
    opened = _opened("predict", arguments, several=True)
    from runner import terminal
    from runner.predict import main as run

    try:
        return int(run(opened) > 0)
    except BrokenPipeError:  # as with | head
        terminal.console.on_broken_pipe()
        return 0


def export(arguments: list[str]) -> int:
    """Export a trained model to one file that works without runner."""
    (opened,) = _opened("export", arguments)
    from runner.export import main as run

    run(opened)
    return 0


def reproduce(arguments: list[str]) -> int:
    """Train a completed run again and compare. The exit status is 1 if any metric or weight differs."""
    from runner import compose, config, reproduce, task

    flags, overrides = read(arguments)
    if multirun(flags):
        raise ConfigError(Problem("-m", "reproduce takes one run", remedy="reproduce without -m"))
    named = [value for value in (hydra_app.value_given(override, "run") for override in overrides) if value]
    if not named:
        remedy = program.line("reproduce run=last")
        raise ConfigError(Problem("run", "is not given", "a run folder, or last", remedy))
    before = folder.find(named[-1], "run")
    hydra_app.remember(overrides, before)
    reproduce.check(overrides, config.load(before / "config.yaml"))
    compose.save_as_primary(reproduce.tree(before))
    same: list[bool] = []

    def again(cfg: DictConfig) -> None:
        task.main(cfg)
        same.append(reproduce.compare(before, config.run_dir()))

    rest = [override for override in overrides if hydra_app.value_given(override, "run") is None]
    status = hydra_app.run(flags, rest, again, compose.SAVED)
    return status or int(not all(same))


def compare(arguments: list[str]) -> int:
    """Rank runs and sweeps. Paths and flags, and nothing of Hydra's."""
    from runner.compare.command import main as run

    return run(arguments)


def diff(arguments: list[str]) -> int:
    """Show in what two runs differ."""
    from runner.diff import main as run

    return run(arguments)


def new(arguments: list[str]) -> int:
    """Write a small project that runs, to be changed."""
    from runner.new import main as run

    return run(arguments)


def _opened(command: str, arguments: list[str], several: bool = False) -> list[Opened]:
    """The runs that a command begins with. What is logged from here on is printed."""
    from runner.trained.opening import opened

    _log(arguments, stderr=command == "predict")
    project.find_own_code()
    return opened(command, [argument for argument in arguments if argument != "-v"], several)


def _log(arguments: list[str], stderr: bool = False) -> None:
    """Print what is logged; of other libraries, warnings alone."""
    import logging

    from runner import terminal

    logging.getLogger().addHandler(terminal.ConsoleHandler(stderr))
    logging.getLogger("runner").setLevel(logging.DEBUG if "-v" in arguments else logging.INFO)


def _look(command: str, arguments: list[str], run: Callable[[DictConfig], None], config_name: str) -> int:
    """Compose the configuration and `run` on it, in no folder."""
    from runner import compose, config
    from runner.checks import before_data

    own, overrides = read_for(command, arguments)
    consent.begin()
    project.find_own_code()
    cfg = compose.composed(config_name, own, with_project(overrides))
    idle = [key for key in ("resume", "check", "debug") if cfg[key] not in (None, "anomaly", "ide")]
    if idle:
        what = f"has no effect with {command}"
        raise ConfigError(*(Problem(key, what, remedy="remove it") for key in idle))
    ours = before_data.check(config.install(cfg))
    if config.has_folds(ours):
        config.take_fold(ours)
    _log(arguments)
    project.announce()
    if cfg.debug == "ide":
        signals.stay_alone()
    with signals.staying():
        run(ours)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train, "inspect": inspect, "lr_find": lr_find, "evaluate": evaluate, "predict": predict, "export": export,
    "compare": compare, "diff": diff, "reproduce": reproduce, "new": new,
}  # fmt: skip

USAGE = {
    "inspect": "[GROUP=OPTION ...] [KEY=VALUE ...]",
    "lr_find": "[GROUP=OPTION ...] [KEY=VALUE ...]",
    "evaluate": "run=RUN [KEY=VALUE ...]",
    "predict": "run=RUN input=INPUT [KEY=VALUE ...]",
    "export": "run=RUN [KEY=VALUE ...]",
    "reproduce": "run=RUN [KEY=VALUE ...]",
}
"""Of the commands whose help is not Hydra's or their own."""


def show_help(command: str) -> int:
    """Say how a command of `USAGE` is typed, and which keys it has."""
    from runner import options

    print(f"usage: {program.line(command)} {USAGE[command]} [--config-dir FOLDER ...] [-v]\n")
    print((COMMANDS[command].__doc__ or "").strip())
    keys = options.home() / f"{command}.yaml"
    if keys.is_file():
        own = re.sub(r"(?m)^(defaults:.*|  - .*|# @package.*)\n", "", keys.read_text(encoding="utf-8"))
        print(f"\n{own.strip()}")
    return 0
