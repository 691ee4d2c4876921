"""The configuration of a run folder, for a command that begins with one: the run's own, the command's keys, and what
was typed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner import compose, config, folder, hydra_app, options, own_code, program
from runner.anew import key_of, targets
from runner.checks import schema
from runner.command_line import read_for
from runner.errors import ConfigError, Problem
from runner.files import typed
from runner.grammar import parse
from runner.keys import from_yaml, is_below, texts
from runner.references import is_to_be_typed
from runner.trained.opened import Opened

GROUPS = ("dataset", "metric")
"""Groups of which another option may be taken: other data, other metrics."""

KEYS = (*GROUPS, "loader", "trainer", "device", "allow_targets")
"""What may be other than in training, beside the command's own keys."""

AS_BEFORE = (
    "header", "separator", "encoding", "decimal", "thousands", "missing", "units", "categories", "numbers",
)  # fmt: skip
"""Keys of a table that say how its cells are read, which another file has in common with that of the run."""


def opened(command: str, arguments: Sequence[str], several: bool = False) -> list[Opened]:
    """The runs that ``run=`` names, for a command.

    Args:
        several: whether there may be more than one; of a cross-validation, all its folds.

    Raises:
        InputError: a folder is none of a run, or what was typed is wrong.
    """
    own, overrides = read_for(command, arguments)
    places = _places(command, overrides, several)
    for place in places:
        hydra_app.remember(overrides, place)
    own_code.say_changes(places)
    trees = [config.load(place / "config.yaml", facts=True) for place in places]
    _check_keys(command, overrides, {key for tree in trees for key, text in texts(tree) if is_to_be_typed(text)})
    sources: dict[str, Any] = {}
    both = zip(places, trees, strict=True)
    return [_open(command, place, tree, overrides, own, sources) for place, tree in both]


def _places(command: str, overrides: Sequence[str], several: bool) -> list[Path]:
    given = [override.partition("=")[2] for override in overrides if override.partition("=")[0].lstrip("+") == "run"]
    if not given:
        words = [*program.start("runner"), command, "run=last", *(["input=FILE"] if command == "predict" else [])]
        raise ConfigError(Problem("run", "is not given", "a run folder, or last", " ".join(words)))
    parsed = parse(f"run={given[-1]}")
    named = _listed(given[-1]) if parsed is None or parsed.is_sweep_override() else parsed.value()
    names = [str(name) for name in named] if isinstance(named, list) else [str(named)]
    if (len(names) > 1 and not several) or (parsed is not None and parsed.is_sweep_override()):
        remedy = f"run=[{given[-1].strip('[]')}]" if several else f"run={names[0]}"
        raise ConfigError(Problem("run", f"{given[-1]!r} is several runs", "one run folder, or last", remedy))
    if not names:
        raise ConfigError(Problem("run", "[] names no run", "a run folder, or last"))
    found = [folder.find(name, "run") for name in names]
    return [place for each in found for place in (_folds(each) if several else [each])]


def _listed(text: str) -> str | list[str]:
    """``[A,B]`` as folders that are there, whose names may have commas, as those of a sweep's jobs do."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    found: list[str] = []
    rest = ""
    for piece in text[1:-1].split(","):
        rest = f"{rest},{piece}" if rest else piece.strip()
        if rest == "last" or typed(rest).is_dir():
            found.append(rest)
            rest = ""
    return [*found, rest] if rest else found


def _folds(run_dir: Path) -> list[Path]:
    """The folds of a cross-validation; of any other run, itself."""
    folds = [place for _, place in folder.folds(run_dir) if (place / "config.yaml").is_file()]
    return folds or [run_dir]


def _check_keys(command: str, overrides: Iterable[str], again: Collection[str]) -> None:
    """Check that nothing is typed that would make the model another one."""
    own = list(_own(command))
    found = []
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key in again:
            continue
        known = set(schema.Config.__dataclass_fields__) - set(own)
        if key.partition(".")[0] in known - set(KEYS):
            of_a_start = is_below(key, *schema.resumable())
            trained = "cannot be changed, because the run was trained with it"
            what = "has no effect on a trained run" if of_a_start else trained
            found.append(Problem(key, what, ", ".join([*own, *KEYS]), f"remove {override}"))
        elif key in known - set(GROUPS) and (options.home() / key).is_dir():
            what = f"another option cannot be chosen, but single keys can be set ({key}.KEY=VALUE)"
            found.append(Problem(key, what, remedy=f"remove {override}"))
    if found:
        raise ConfigError(*found)


def _own(command: str) -> dict[str, Any]:
    tree: dict[str, Any] = from_yaml((options.home() / f"{command}.yaml").read_text(encoding="utf-8"))
    return tree


def _open(
    command: str, run_dir: Path, tree: dict[str, Any], overrides: Sequence[str], dirs: Sequence[Path],
    sources: dict[str, Any],
) -> Opened:  # fmt: skip
    own = _own(command)
    typed = [override.partition("=")[0].lstrip("+~") for override in overrides]
    if "device" not in typed:
        tree["device"] = _device(str(tree.get("device")))
    chosen = [o for o, key in zip(overrides, typed, strict=True) if key in GROUPS and key not in targets([o])]
    swapped = {key_of(override): override.partition("=")[2] for override in chosen}
    before = OmegaConf.create({"dataset": tree.get("dataset")})
    tree = {key: node for key, node in tree.items() if key not in swapped}
    compose.save_as_primary({**tree, **own}, *({key: option} for key, option in swapped.items()))
    # What stands for the run in each of several is its own folder.
    rest = [o for o, key in zip(overrides, typed, strict=True) if key != "run" and o not in chosen]
    beside = own.keys() - schema.Config.__dataclass_fields__.keys()
    cfg = config.job(compose.composed(compose.SAVED, dirs, rest, beside))
    given = cfg.allow_targets if "allow_targets" in typed else []
    allowed = [*tree["allow_targets"], *map(str, given if OmegaConf.is_list(given) else [])]
    config.grant(cfg)
    with read_write(cfg), open_dict(cfg):
        cfg.run = str(run_dir)
        options = OmegaConf.create(config.value(OmegaConf.masked_copy(cfg, list(own))))
        for key in beside:
            del cfg[key]
        if "dataset" in swapped or cfg.dataset.get("_target_") != before.dataset.get("_target_"):
            _inherit(cfg, before.dataset, typed)
    tree_of_options: Any = OmegaConf.to_container(options)
    if found := schema.problems(tree_of_options, schema.COMMANDS[command]):
        raise ConfigError(*found)
    return Opened(run_dir, cfg, options, typed, before.dataset, allowed, sources)


def _device(name: str) -> str:
    """That of the run, if it is here."""
    from runner import device

    try:
        device.resolve(name)
    except (ConfigError, RuntimeError):  # which is what torch makes of a name that is none
        return "auto"
    return name


def _inherit(cfg: DictConfig, before: DictConfig, typed: Sequence[str]) -> None:
    """Have other data as the run had its own: pictures with its channels, brought to its size in its way; the cells of
    a table read as they were."""
    if before.get("_target_") == cfg.dataset.get("_target_") == "runner.dataset.table":
        for key in AS_BEFORE:
            if f"dataset.{key}" not in typed and key in before:
                cfg.dataset[key] = before[key]
    if cfg.dataset.get("_target_") != "runner.dataset.image_folder":
        return
    shape = cfg.facts.get("sample_shape") or []
    if "dataset.channels" not in typed and len(shape) == 3:
        cfg.dataset.channels = shape[0]
    if before.get("_target_") == cfg.dataset._target_:
        for key, usual in (("size", None), ("fit", "cut"), ("value_range", None), ("reading", 1)):
            if f"dataset.{key}" not in typed:
                cfg.dataset[key] = before.get(key, usual)
