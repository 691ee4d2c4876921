"""Every key of ours as a page of the docs: `python docs/reference.py > docs/reference.md`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from runner import compose, hydra_internals, options
from runner.checks import schema
from runner.checks.values import words

HEAD = """\
# Every key

Generated from `runner/checks/schema.py` by `python docs/reference.py > docs/reference.md`.

Besides these, each option has the arguments of the class or function that its `_target_` names: `optimizer.momentum`
is one of `torch.optim.SGD`'s. `runner GROUP=OPTION --cfg job` shows them. `GROUP._target_=MODULE.NAME` puts
a class or function of your own in its place, with none of its arguments ([models.md](models.md)); in files the option
`custom` is the empty one. Keys marked `*` may be changed when a run is resumed. The defaults are those of
`runner` alone; – means that the default option does not have the key.
"""

OF_A_COMMAND = """\
In addition: dataset, metric, loader, trainer, device and allow_targets. All other keys are fixed by the run.
"""


def page() -> str:
    """The page, as Markdown: a table for each group."""
    cfg = compose.loader("lr_find", [], multirun=False)([])
    lines = [HEAD]
    hints = typing.get_type_hints(schema.Config)
    groups = [field for field in dataclasses.fields(schema.Config) if dataclasses.is_dataclass(hints[field.name])]
    single = [field for field in dataclasses.fields(schema.Config) if field not in groups]
    lines += ["## The experiment\n", *_table(cfg, ((f.name, f, hints[f.name]) for f in single if f.name != "facts"))]
    for group in groups:
        lines += [f"## {group.name}\n", f"{group.metadata['help'].capitalize()}.\n"]
        lines += _table(cfg, _keys(hints[group.name], f"{group.name}."))
    for command, kind in schema.COMMANDS.items():
        lines += [f"## runner {command}\n", OF_A_COMMAND]
        lines += _table(_of_command(command), _keys(kind, ""))
    return "\n".join(lines).rstrip() + "\n"


def _of_command(command: str) -> DictConfig:
    made = OmegaConf.load(options.home() / f"{command}.yaml")
    assert isinstance(made, DictConfig)
    return made


def _keys(kind: type, prefix: str) -> Iterator[tuple[str, dataclasses.Field[object], object]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _keys(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field, hints[field.name]


def _table(cfg: DictConfig, keys: Iterator[tuple[str, dataclasses.Field[object], object]]) -> list[str]:
    lines = ["| key | default | allowed | |", "| --- | --- | --- | --- |"]
    for name, field, hint in keys:
        rules = field.metadata
        allowed = "a dotted path" if rules.get("target") else words(hint, rules)
        star = "*" if rules.get("resume") else ""
        cells = [f"`{name}`{star}", _default(cfg, name), allowed, str(rules["help"])]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def _default(cfg: DictConfig, name: str) -> str:
    above, _, last = name.rpartition(".")
    node = OmegaConf.select(cfg, above) if above else cfg
    if not isinstance(node, DictConfig) or last not in node:
        return "–"
    value = hydra_internals.node(node, last)
    raw = OmegaConf.to_container(value) if OmegaConf.is_config(value) else hydra_internals.written(node, last)
    shown = "null" if raw is None else str(raw).lower() if isinstance(raw, bool) else str(raw)
    return f"`{shown}`" if len(shown) <= 60 else "…"


if __name__ == "__main__":
    print(page(), end="")
