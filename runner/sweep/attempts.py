"""Trying the runs of a sweep before the first one starts, in processes that leave nothing behind.

What costs is done once for all jobs that have it in common: reading a data set, building a model.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from omegaconf import DictConfig

from runner import config
from runner.errors import ConfigError, Problem, RunnerError, reason_of
from runner.signals import staying

MODELS = {"dataset", "transform", "model"}
"""Keys that say what goes into a model, and which."""

TRAINED_WITH = {"seed", "optimizer", "scheduler", "tensorboard"}
"""Keys in which jobs may differ that are the same experiment up to how it is trained."""


def try_all(
    configs: Mapping[int, DictConfig], words: Sequence[str], total: int | None,
    declared: Callable[[DictConfig], object], read: Callable[[DictConfig], object],
    attempt: Callable[[DictConfig, str], object],
) -> None:  # fmt: skip
    """Try every run, in a child process, which a crash or what they leave behind ends with.

    Args:
        configs: with Hydra's part.
        words: what each is called in a message, ``job 3``.
        total: how many jobs there are, those that are not tried among them; None for folds.
        declared: tries the model of a job without data.
        read: reads the data set of a job, in this process, from which the jobs are going to have it.
        attempt: builds a job and tries it. It also gets a text that is the same for jobs that are the same experiment,
            trained in other ways; they come one after the other.

    Raises:
        ConfigError: with everything that was found, and in which jobs.
    """
    found = Found(words, total)

    def installed(number: int) -> DictConfig:
        return config.install(configs[number])

    trees = {number: config.plain(cfg)[0] for number, cfg in configs.items()}
    for numbers, problems in _in_child("model", _alike(trees, MODELS), lambda n: declared(installed(n))):
        found.add(numbers, problems)
    found.raise_if_any()
    keys = {key for tree in trees.values() for key in tree}
    once = _alike(trees, keys - {"seed"})
    for numbers in once:
        try:
            read(installed(numbers[0]))
        except RunnerError as error:
            found.add(numbers, _problems(error))
    experiments = {numbers[0]: _text(trees[numbers[0]], keys - TRAINED_WITH) for numbers in once}
    left = [numbers for numbers in once if not found.has(numbers[0])]
    left.sort(key=lambda numbers: (experiments[numbers[0]], numbers))
    for numbers, problems in _in_child("configuration", left, lambda n: attempt(installed(n), experiments[n])):
        found.add(numbers, problems)
    found.raise_if_any()


def _alike(trees: Mapping[int, dict[str, Any]], names: Collection[str]) -> list[list[int]]:
    """Jobs that have these keys in common, together."""
    found: dict[str, list[int]] = {}
    for number, tree in trees.items():
        found.setdefault(_text(tree, names), []).append(number)
    return list(found.values())


def _text(tree: dict[str, Any], names: Collection[str]) -> str:
    return repr({name: tree[name] for name in tree if name in names})


def _in_child(
    key: str, groups: Sequence[list[int]], attempt: Callable[[int], object]
) -> Iterator[tuple[list[int], Sequence[Problem]]]:
    """What is wrong with each of `groups`, found in a process of its own; another one goes on where one dies."""
    rest = list(groups)
    context = multiprocessing.get_context("fork")
    while rest:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_attempt_each, args=(key, rest, attempt, theirs))
        child.start()
        theirs.close()
        try:
            while rest:
                problems = ours.recv()
                yield rest.pop(0), problems
        except EOFError:
            child.join()
            status = child.exitcode or 0
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            yield rest.pop(0), [Problem(key, f"the trial crashed ({how})")]
        finally:
            child.kill()
            child.join()
            ours.close()


def _attempt_each(key: str, groups: Iterable[list[int]], attempt: Callable[[int], object], pipe: Connection) -> None:
    import torch

    torch.set_num_threads(1)  # with more it hangs, if the parent has ever computed with more
    logging.disable()  # each says it again when it is run
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    here, environment = os.getcwd(), dict(os.environ)
    for numbers in groups:
        problems: Sequence[Problem] = ()
        os.chdir(here)  # what code of the user's does to one must not make a difference to the next
        os.environ.clear()
        os.environ.update(environment)
        try:
            with staying():
                attempt(numbers[0])
        except RunnerError as error:
            problems = _problems(error)
        except KeyboardInterrupt:  # which the parent has, too
            return
        except Exception as error:  # whatever code of the user's may raise
            problems = [Problem(key, f"cannot be built: {type(error).__name__}: {reason_of(error)}")]
        pipe.send(problems)


def _problems(error: RunnerError) -> Sequence[Problem]:
    return getattr(error, "problems", None) or [Problem("configuration", str(error))]


class Found:
    """What is wrong, and with which jobs."""

    def __init__(self, words: Sequence[str], total: int | None) -> None:
        self._jobs: dict[Problem, list[int]] = {}
        self._words, self._of = words, "" if total is None else f" of {total}"

    def add(self, jobs: Iterable[int], problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._jobs.setdefault(problem, []).extend(jobs)

    def has(self, job: int) -> bool:
        return any(job in jobs for jobs in self._jobs.values())

    def raise_if_any(self) -> None:
        if self._jobs:
            raise ConfigError(*(replace(p, key=f"{p.key} ({self._said(jobs)})") for p, jobs in self._jobs.items()))

    def _said(self, jobs: Iterable[int]) -> str:
        """``jobs 5 and 6 of 8``; folds count from 0, as their folders do, and by their numbers alone."""
        kind = self._words[0].partition(" ")[0]
        numbers = list(dict.fromkeys(self._words[job].partition(" ")[2] for job in sorted(set(jobs))))
        if len(numbers) == 1:
            return f"{kind} {numbers[0]}{self._of}"
        shown = f"{', '.join(numbers[:5])}, …" if len(numbers) > 5 else f"{', '.join(numbers[:-1])} and {numbers[-1]}"
        return f"{kind}s {shown}{self._of}"
