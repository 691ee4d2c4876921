"""The rules that keep the house easy to live in."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import runner

ROOT = Path(runner.__file__).parent
PARTS = (
    "dataset", "split", "transform", "loader", "model", "loss", "optimizer", "scheduler", "metric", "trainer",
    "checkpoint", "tensorboard",
)  # fmt: skip
LEAVES = {"errors", "draws", "batch", "table", "files", "eval_mode", "direction", "part_names", "visible", "debugger"}


def imports(path: Path) -> set[str]:
    """What a module imports when it is run; imports for the type checker alone are not counted."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if node.module == "runner" else node.module for alias in node.names}
    return found


@pytest.mark.parametrize("part", PARTS)
def test_a_part_knows_neither_the_configuration_nor_other_parts(part: str) -> None:
    package = ROOT / part
    for path in package.rglob("*.py") if package.is_dir() else [ROOT / f"{part}.py"]:
        found = imports(path)
        assert not {name for name in found if name.split(".")[0] in ("hydra", "omegaconf")}
        ours = {name.split(".")[1] for name in found if name.startswith("runner.")}
        assert ours <= {*LEAVES, part}, path


LIGHT = (
    "__init__", "__main__", "commands", "hydra_app", "errors", "checks/__init__", "checks/schema", "checks/values",
    "folder", "project", "terminal", "table", "ranking", "runs", "trained/__init__", "trained/opening",
    "compare/__init__", "compare/command",
)  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_what_runs_before_the_configuration_stands_is_free_of_torch(module: str) -> None:
    assert not {
        name
        for name in imports(ROOT / f"{module}.py")
        if name.split(".")[0] in ("torch", "torchvision", "sklearn", "numpy")
    }


def test_there_is_one_place_that_instantiates() -> None:
    calls = [path.name for path in ROOT.rglob("*.py") if re.search(r"\binstantiate\(", path.read_text())]
    assert calls == ["config.py"]


PRIVATE = r"hydra\._internal|hydra\.core\.(config_store|global_hydra|plugins|singleton)|omegaconf\._"
"""Of Hydra and OmegaConf: modules that are no interface."""

NODES = r"\._(get_\w+|set_\w+|key|value|metadata|content|is_\w+)\("
"""Methods of OmegaConf's nodes that are none either; runner's own begin with other words."""


def test_one_module_alone_reaches_into_hydra_and_omegaconf() -> None:
    found = [path.name for path in ROOT.rglob("*.py") if re.search(f"{PRIVATE}|{NODES}", path.read_text())]
    assert found == ["hydra_internals.py"]


def test_the_architecture_page_has_every_module_and_names_none_that_is_not_there() -> None:
    page = (ROOT.parent / "docs/architecture.md").read_text()
    modules = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    modules |= {
        path.stem for name in ("checks", "trained", "compare", "pictures") for path in (ROOT / name).glob("*.py")
    }
    missing = {name for name in modules - {"__init__", "__pycache__"} if not re.search(rf"\b{name}\b", page)}
    assert not missing
    named = re.findall(r"`([\w/]+\.py)`", page)
    assert named
    assert not [name for name in named if not (ROOT / name).is_file() and not name.startswith("tests/")]
