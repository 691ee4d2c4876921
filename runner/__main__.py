"""The command line: `python -m runner [COMMAND] [KEY=VALUE ...] [FLAGS]`.

The first argument, if it is a plain word, is the command; everything after it is Hydra's.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported by anybody: OpenMP threads that have nothing to do sleep instead of spinning, which beside a
# second process made a step up to 36 times as long; and cuBLAS takes a workspace with which it is deterministic.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Whether there is a card is asked of its driver, and CUDA is not started: the process may be about to fork.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

from runner import __version__, folder, signals, streams
from runner.command_line import check_typed, multirun, parse, quote, quoted, sort, value_of
from runner.errors import ConfigError, Interrupted, Problem, RunnerError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from runner.opening import Opened


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done; 2 the configuration or the data are wrong; 130 or 143 stopped by a signal, with the
        state saved; 1 anything else.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with signals.exiting(), streams.prepared():
            return _command(arguments)(arguments)
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except Interrupted as stopped:
        return stopped.exit_status
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        folder.leave()


def _command(arguments: list[str]) -> Callable[[list[str]], int]:
    """The command that `arguments` begin with, which is taken off them; without one it is `train`."""
    if "--version" in arguments:
        return _version
    if not arguments or not re.fullmatch(r"[A-Za-z][\w-]*", arguments[0]):
        return train
    word = arguments.pop(0)
    if word not in COMMANDS:
        from runner import config

        remedy = nearest(word, COMMANDS, "python -m runner ") or "python -m runner --help"
        if (config.folder() / word).is_dir():
            remedy = f"{word}=OPTION"
        raise ConfigError(Problem(word, "there is no such command", ", ".join(COMMANDS), remedy))
    return COMMANDS[word]


def train(arguments: list[str]) -> int:
    """Train what the configuration describes."""
    flags, overrides = sort(arguments)
    overrides = [quoted(override, multirun(flags)) for override in overrides]
    check_typed(flags, overrides)
    resume = [value for value in map(_resumed, overrides) if value]
    if resume and (sweep_dir := folder.find_sweep(resume[-1], multirun(flags))) is not None:
        flags, overrides = _resume_sweep(sweep_dir, flags, overrides)
    elif resume:
        return _hydra(flags, _resume(resume[-1], overrides), _train_task, "saved")
    return _hydra(flags, overrides, _train_task, "config")


def inspect(arguments: list[str]) -> int:
    """Show the layers of the model, the memory that a step needs, and how weights will be updated."""
    from runner.inspect import main as run

    return _look("inspect", arguments, run, "config")


def lr_find(arguments: list[str]) -> int:
    """Suggest a learning rate."""
    from runner.lr_find import main as run

    return _look("lr_find", arguments, run, "lr_find")


def evaluate(arguments: list[str]) -> int:
    """Measure a trained run on a part of its data, or on other data."""
    (opened,) = _opened("evaluate", arguments)
    from runner.evaluate import main as run

    run(opened)
    return 0


def predict(arguments: list[str]) -> int:
    """Say what trained runs say about samples; the exit status is 1 if some could not be read."""
    opened = _opened("predict", arguments, several=True)
    from runner.predict import main as run

    try:
        return int(run(opened) > 0)
    except BrokenPipeError:  # as with | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def export(arguments: list[str]) -> int:
    """Write a trained model to a file that needs nothing of this package."""
    (opened,) = _opened("export", arguments)
    from runner.export import main as run

    run(opened)
    return 0


def reproduce(arguments: list[str]) -> int:
    """Do a run again; the exit status is 1 if it comes to other figures."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig

    from runner import reproduce

    flags, overrides = sort(arguments)
    overrides = [quoted(override) for override in overrides]
    check_typed(flags, overrides)
    named = [value for value in (_value(override, "run") for override in overrides) if value]
    if not named or multirun(flags):
        problem = Problem("run", "is not given", "a run folder, or last", "python -m runner reproduce run=last")
        raise ConfigError(Problem("-m", "is no flag of reproduce", remedy="without it") if named else problem)
    before = folder.find(named[-1], "run")
    reproduce.check(overrides)
    ConfigStore.instance().store("saved", {"defaults": ["entry", "_self_"], **reproduce.tree(before)})
    same: list[bool] = []

    def task(cfg: DictConfig) -> None:
        _train_task(cfg)
        same.append(reproduce.tell(before, Path(os.path.relpath(HydraConfig.get().runtime.output_dir))))

    status = _hydra(flags, [o for o in overrides if _value(o, "run") is None], task, "saved")
    return status or int(not all(same))


def compare(arguments: list[str]) -> int:
    """Rank runs and sweeps. Paths and flags, and nothing of Hydra's."""
    from runner.compare import main as run

    return run(arguments)


def diff(arguments: list[str]) -> int:
    """Show in what two runs differ."""
    from runner.diff import main as run

    return run(arguments)


def _opened(command: str, arguments: list[str], several: bool = False) -> list[Opened]:
    """The runs that a command begins with. What is logged from here on is printed."""
    from runner.opening import opened

    _log(arguments, stderr=command == "predict")
    _find_own_code()
    return opened(command, [argument for argument in arguments if argument != "-v"], several)


def _log(arguments: list[str], stderr: bool = False) -> None:
    """Print what is logged; of other libraries, warnings alone."""
    import logging

    from runner import terminal

    logging.getLogger().addHandler(terminal.ConsoleHandler(stderr))
    logging.getLogger("runner").setLevel(logging.DEBUG if "-v" in arguments else logging.INFO)


def _look(command: str, arguments: list[str], run: Callable[[DictConfig], None], config_name: str) -> int:
    """Compose the configuration and `run` on it, in no folder."""
    from runner import compose, config, preflight

    flags, overrides = sort(arguments)
    config_dir = value_of(flags, "--config-dir", "-cd")
    others = [flag for flag in flags if flag.startswith("-") and flag.partition("=")[0] not in ("--config-dir", "-cd")]
    if others:
        raise ConfigError(Problem(others[0], f"is no flag of {command}", "--config-dir FOLDER", "the same without it"))
    _check_names(config_dir)
    _find_own_code()
    overrides = [quoted(override) for override in overrides]
    load = compose.loader(config_name, config_dir, multirun=False)
    try:
        cfg = load(overrides)
    except compose.FAILURES as error:
        raise ConfigError(
            *compose.explain(load, overrides, [Path(config_dir)] if config_dir else [], config_name)
        ) from error
    if cfg.resume is not None:
        raise ConfigError(Problem("resume", f"means nothing to {command}", remedy="the same without it"))
    preflight.check(config.enter(cfg))
    if cfg.split.get("fold") == "all":
        from runner.sweep import folds

        folds.take_first(cfg)
    _log(arguments)
    with signals.staying():
        run(config.job(cfg))
    return 0


def _version(arguments: list[str]) -> int:
    from importlib.metadata import version

    print(f"runner {__version__} (torch {version('torch')}, hydra-core {version('hydra-core')})")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train, "inspect": inspect, "lr_find": lr_find, "evaluate": evaluate, "predict": predict, "export": export,
    "compare": compare, "diff": diff, "reproduce": reproduce,
}  # fmt: skip


def _train_task(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from runner import preflight, train
    from runner.sweep import folds

    run_dir = Path(os.path.relpath(HydraConfig.get().runtime.output_dir))
    if folds.wanted(cfg):
        preflight.begin_log()
        folds.main(*preflight.whole(cfg), run_dir)
        return
    prepared = preflight.ready(cfg, run_dir)
    if cfg.debug == "overfit":
        from runner import overfit

        overfit.main(prepared.cfg, prepared.experiment)
    else:
        train.main(prepared, run_dir)


def _resumed(override: str) -> str | None:
    """The run that an override ``resume=…`` names."""
    return _value(override, "resume")


def _value(override: str, key: str) -> str | None:
    """The one value that an override gives a key; None if it is of another key."""
    parsed = parse(override)
    if parsed is None or parsed.key_or_group != key or parsed.is_delete() or parsed.is_sweep_override():
        return None
    value = parsed.value()
    return None if value is None else str(value)


def _resume(name: str, overrides: Sequence[str]) -> list[str]:
    """Take the configuration of a run folder as the one to run, and return the overrides that go on in that folder.

    The saved tree is composed anew under our own Hydra settings, so that overrides are checked like any others and
    nothing of the run folder's is called.
    """
    from hydra.core.config_store import ConfigStore

    from runner import config

    run_dir = folder.find(name, "resume")
    swapped = [o for o in overrides if (config.folder() / o.partition("=")[0].lstrip("+~")).is_dir()]
    if swapped:
        what, remedy = f"a run that goes on keeps its own ({run_dir})", "the same without resume=, for a run of its own"
        raise ConfigError(*(Problem(override, what, remedy=remedy) for override in swapped))
    tree = config.load(run_dir / "config.yaml")
    tree["allow_targets"] = []  # what may be called is the word of whoever types, not of the folder
    ConfigStore.instance().store("saved", {"defaults": ["entry", "_self_"], **tree})
    rest = [override for override in overrides if not _resumed(override)]
    place = quote(str(run_dir))
    return [*rest, f"resume={place}", f"hydra.run.dir={place}", "hydra.output_subdir=null"]


def _resume_sweep(sweep_dir: Path, flags: list[str], overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags and overrides with which a sweep is gone on with: what it was started with, and what was typed now.

    Of what its folder says nothing is taken that may name code, or where it is: that is the word of whoever types.
    """
    from runner.sweep.record import Record

    before = [
        override
        for override in Record.read(sweep_dir).typed
        if override.lstrip("+~").partition("=")[0] not in ("allow_targets", "resume", "check")
        and not override.lstrip("+~").startswith("hydra")
    ]
    rest = [override for override in overrides if not _resumed(override)]
    if any(override.startswith("sweep=") for override in rest):  # another search has other keys
        before = [
            override for override in before if not re.match(r"[+~]*sweep(=|\.(points|seed|sampler|pruner))", override)
        ]
    # Of two for one key the last counts: more values of a key are more jobs.
    both = {override.partition("=")[0].lstrip("+"): override for override in [*before, *rest]}
    place = quote(str(sweep_dir))
    return [*flags, *([] if multirun(flags) else ["-m"])], [*both.values(), f"hydra.sweep.dir={place}"]


def _hydra(flags: Sequence[str], overrides: Sequence[str], task: Callable[[DictConfig], None], config_name: str) -> int:
    """Compose the configuration and run `task` on it, the way Hydra does."""
    import hydra

    from runner import compose, config
    from runner.task import guarded

    _check_names(value_of(flags, "--config-dir", "-cd"))
    _find_own_code()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors to us instead of printing them and exiting with 1
    statuses: list[int] = []
    before, sys.argv = sys.argv, ["runner", *flags, *overrides]
    try:
        hydra.main(config_path=str(config.folder()), config_name=config_name, version_base="1.3")(
            lambda cfg: statuses.append(guarded(lambda: task(cfg)))
        )()
    except compose.FAILURES as error:
        if statuses:
            raise
        name = value_of(flags, "--config-name", "-cn") or config_name
        config_dir = value_of(flags, "--config-dir", "-cd")
        load = compose.loader(name, config_dir, multirun(flags))
        problems = compose.explain(load, overrides, [Path(config_dir)] if config_dir else [], name)
        if not problems:
            raise
        raise ConfigError(*problems) from error
    finally:
        sys.argv = before
    return max(statuses, default=0)


def _find_own_code() -> None:
    if os.getcwd() not in sys.path:  # as `python -m` has it, for code of the user's own
        sys.path.insert(0, os.getcwd())


def _check_names(config_dir: str | None) -> None:
    """That no file of the user's has the name of one of ours, which Hydra would take instead without a word."""
    from runner import config

    place = Path(config_dir or os.devnull)
    ours = config.folder()
    same = [
        path.relative_to(place) for path in sorted(place.rglob("*.yaml")) if (ours / path.relative_to(place)).is_file()
    ]
    if same:
        what = "has the name of one of runner's own files, which would be taken instead"
        raise ConfigError(*(Problem(f"{place / name}", what, remedy="another name") for name in same))


if __name__ == "__main__":
    sys.exit(main())
