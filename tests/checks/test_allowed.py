"""Nothing that a configuration may name of itself loads, downloads, opens or runs what it is given.

The source of everything that the default patterns reach is read, and of what that calls in the same package. What opens
a file nevertheless is listed in `HARMLESS`, with the reason.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from omegaconf import OmegaConf
from torchvision import models

from runner import config
from runner.checks import targets
from runner.checks.allowed import ALLOWED, matches, unasked
from runner.checks.values import UNKNOWN
from runner.errors import ConfigError

LOADERS = re.compile(
    r"(_?pickle|marshal|shelve|dill|cloudpickle|importlib|runpy|subprocess|urllib\.request|requests|http|socket|ftplib"
    r"|torch\.hub|torch\.package|scipy\.io|lmdb|h5py|tarfile|zipfile|gzip|bz2|lzma|shutil)(\..*)?"
    r"|joblib\.\w*load|torch\.serialization\.load|torch\.load|torch\.jit\.load"
    r"|numpy\.(load|fromfile|genfromtxt|loadtxt|memmap)|(os|posix)\.(system|popen|exec\w+|spawn\w+|startfile)"
    r"|builtins\.(eval|exec|compile|__import__)|torchvision\.datasets\.utils\.(download|extract|_extract)\w*"
    r"|.*\.(open|read_bytes|read_text|urlopen|loadmat|load_state_dict_from_url|get_state_dict)"
)
"""Names, written out, of what loads, downloads, opens or runs something."""

HARMLESS = {
    ("runner.dataset.*", r".*\.open|.*\.read_text|numpy\.load"): "text, arrays of numbers",
    ("runner.dataset.table_file.*", r"importlib\.import_module|zipfile\.\w+"): "what unpacks, of names written there",
    ("runner.loader.*", r"shutil\.disk_usage"): "asks how much room there is",
    ("runner.split.*", r".*\.open|.*\.read_text|numpy\.load"): "text, arrays of numbers",
    ("torchvision.datasets.*", r".*\.open|zipfile\.ZipFile|h5py|.*\.loadmat|numpy\.(fromfile|loadtxt|load)"): (
        "pictures, text and numbers, in forms that hold no code; np.load takes no pickles unless it is told to"
    ),
    ("torchvision.datasets.*", r"torchvision\.datasets\.utils\.\w+|shutil\.\w+"): (
        "fetches from addresses that torchvision has, only with download=true, and unpacks and moves what it fetched"
    ),
    ("torchvision.datasets.cifar.*", r"_pickle\.load"): "after the MD5 of each file was compared with the right one",
    ("torchvision.datasets.lsun.*", r"_pickle\.(load|dump)|lmdb"): (
        "its cache is in the folder in which one works, where Python looks for modules, too"
    ),
    ("torchvision.models.*", r"torch\.hub\.load_state_dict_from_url|\.get_state_dict"): (
        "only with weights, which are judged, see below; or in a method of an enumeration, which is no target"
    ),
    ("torchvision.models._api.get_weight", r"importlib\.import_module"): "of a module of torchvision's",
    ("timm.models._factory.create_model", r".*"): "only with arguments that are judged, see below",
    ("torch.nn.*", r"importlib\.import_module"): "of a module of torch's that is written there",
    ("optuna.samplers._qmc.QMCSampler", r"importlib\.import_module"): "of SciPy",
    ("sklearn.metrics.*", r"numpy\.memmap"): "a kind of array that is asked for, and not opened",
}  # fmt: skip
"""By patterns of targets and of loaders: why that is harmless."""


@cache
def _definitions(module: str) -> Mapping[str, ast.AST]:
    """What the file of a module defines at its top, by name."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    if not file.endswith(".py"):
        return {}
    body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    nested = [inner for node in body if isinstance(node, (ast.If, ast.Try, ast.With)) for inner in ast.walk(node)]
    return {node.name: node for node in (*nested, *body) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def _chains(node: ast.AST) -> Iterator[list[str]]:
    """Names in source, with their attributes: ``["np", "load"]``; of what has no name, ``["", "load"]``.

    A call that says ``weights_only=True`` runs nothing.
    """
    safe = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Call):
            says = {word.arg: word.value for word in each.keywords}.get("weights_only")
            safe |= {id(each.func)} if isinstance(says, ast.Constant) and says.value is True else set()
    for each in ast.walk(node):
        words: list[str] = []
        inner = each
        while isinstance(inner, ast.Attribute):
            words.insert(0, inner.attr)
            inner = inner.value
        if id(each) not in safe and (words or isinstance(inner, ast.Name)):
            yield [inner.id if isinstance(inner, ast.Name) else "", *words]


def _imported(node: ast.AST) -> dict[str, str]:
    """What is imported inside of a function: the names, written out."""
    found = {}
    for each in ast.walk(node):
        for name in each.names if isinstance(each, (ast.Import, ast.ImportFrom)) else ():
            above = "" if isinstance(each, ast.Import) else f"{each.module}."
            whole = name.name if above or name.asname else name.name.partition(".")[0]
            found[(name.asname or name.name).partition(".")[0]] = above + whole
    return found


def _name(found: Any) -> str:
    if inspect.ismodule(found):
        return found.__name__
    return f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"


def _followed(first: str, words: Sequence[str], names: Mapping[str, Any], local: Mapping[str, str]) -> tuple[str, Any]:
    """What a chain of names stands for, written out; and the object, as far as it is one of a module."""
    try:
        found = (
            targets.locate(local[first]) if first in local else names.get(first, getattr(builtins, first or " ", None))
        )
    except LookupError:  # of a module that is not installed
        return ".".join([local[first], *words]), None
    for number, word in enumerate(words):
        try:
            held = getattr(found, word) if inspect.ismodule(found) else None
        except (AttributeError, ImportError):  # of what is imported when it is asked for, and not installed
            held = None
        if held is None:
            return ".".join(["" if found is None else _name(found), *words[number:]]), None
        found = held
    return _name(found), found


@cache
def _read(module: str, name: str) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    """Loaders that a function or class names, and the others of its package that it names."""
    node = _definitions(module).get(name)
    if node is None:
        return frozenset(), frozenset()
    names, local = vars(sys.modules[module]), _imported(node)
    followed = [_followed(first, words, names, local) for first, *words in _chains(node)]
    calls = [
        found
        for name, found in followed
        if (inspect.isfunction(found) or inspect.isclass(found)) and not LOADERS.fullmatch(name)
    ]
    return (
        frozenset(name for name, found in followed if not inspect.ismodule(found) and LOADERS.fullmatch(name)),
        frozenset(
            (found.__module__, found.__qualname__.partition(".")[0])
            for found in calls
            if _package(found.__module__) == _package(module)
        ),
    )


def _package(module: str) -> str:
    words = module.split(".")
    return ".".join(words[:2]) if words[0] in ("torch", "sklearn") else words[0]


def _loaders(target: Any) -> set[str]:
    """Loaders that a target names, or what it names in its package, and so on."""
    found: set[str] = set()
    left, seen = [(target.__module__, target.__qualname__)], set()
    while left:
        each = left.pop()
        if each not in seen:
            seen.add(each)
            loaders, others = _read(*each)
            found |= loaders
            left += others
    return found


def _modules(pattern: str) -> Iterator[ModuleType]:
    """Public modules that a pattern reaches."""
    above = importlib.import_module(pattern.partition("*")[0].rpartition(".")[0])
    yield above
    for found in pkgutil.walk_packages(getattr(above, "__path__", []), above.__name__ + ".", onerror=lambda name: None):
        if not re.search(r"\._|\btests\b", found.name):
            with suppress(ImportError):  # needs what is not installed
                yield importlib.import_module(found.name)


def _is_allowed(path: str, own: Sequence[str] = (), given: Mapping[Any, Any] | None = None) -> bool:
    try:
        targets.check_allowed({"_target_": path, **(given or {})}, "x", own)
    except ConfigError:
        return False
    return True


def _reached(own: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that a configuration may name, by where it was defined."""
    patterns = (*ALLOWED, *own)
    paths = {}
    for pattern in patterns:
        for module in _modules(pattern) if "*" in pattern else ():
            for name, each in vars(module).items():
                if not name.startswith("_") and callable(each) and matches([_name(each)], [pattern]):
                    paths[_name(each)] = f"{module.__name__}.{name}"
    for path in [pattern for pattern in patterns if "*" not in pattern]:
        with suppress(LookupError):  # of what is not installed
            paths[_name(targets.locate(path))] = path
    names = {"name": "resnet18", "model_name": "resnet18"}  # which some cannot do without
    return {name: targets.locate(path) for name, path in paths.items() if _is_allowed(path, own, names)}


def _harmful(own: Sequence[str] = ()) -> dict[str, set[str]]:
    """What may be named and is not known to be harmless, with the loaders that it comes to."""
    found = {name: _loaders(each) for name, each in _reached(own).items()}
    for pattern, loader in HARMLESS:
        for name in found:
            if fnmatchcase(name, pattern):
                found[name] = {each for each in found[name] if not re.fullmatch(loader, each)}
    return {name: loaders for name, loaders in found.items() if loaders}


def test_nothing_that_may_be_named_loads_or_runs_anything() -> None:
    assert _harmful() == {}
    assert unasked(["sklearn.metrics.cluster.tests.test_unsupervised.f"], _harmful, {})  # which are not imported here


def _timm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package like timm: what builds a model, and next to it what loads a pickle."""
    for name, text in {
        "timm/__init__.py": "from .models import create_model, load_state_dict\n",
        "timm/models/__init__.py": "from ._factory import create_model\nfrom ._helpers import load_state_dict\n",
        "timm/models/_factory.py": (
            "from ._helpers import load_state_dict\n"
            "def create_model(model_name, pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None,\n"
            "                 checkpoint_path=None, cache_dir=None, **kwargs):\n"
            "    return (model_name, load_state_dict(checkpoint_path) if checkpoint_path else None)\n"
        ),
        "timm/models/_helpers.py": (
            "import torch\n"
            "def load_state_dict(checkpoint_path, weights_only=True):\n"
            "    return torch.load(checkpoint_path, weights_only=weights_only)\n"
        ),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    installed = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "timm"}
    for name in installed:
        del sys.modules[name]
    _timm(tmp_path, monkeypatch)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        del sys.modules[name]
    sys.modules.update(installed)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("timm.*", "timm.models._helpers.load_state_dict"), ("optuna.samplers.*", "optuna.samplers._cmaes.CmaEsSampler"),
     ("runner.model.*", "runner.model.weights.load")],
)  # fmt: skip
def test_a_loader_that_a_pattern_reaches_is_found(
    timm: None, monkeypatch: pytest.MonkeyPatch, pattern: str, name: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ALLOWED", ())
    assert name in _harmful([pattern])


def test_a_model_of_timm_is_built_from_its_name_alone(timm: None) -> None:
    for path in ("timm.create_model", "timm.models.create_model"):
        fine = {"model_name": "resnet50.a1_in1k", "in_chans": 3, "pretrained": False, "checkpoint_path": None}
        assert _is_allowed(path, given=fine)
        others: list[dict[Any, Any]] = [
            {"model_name": "local-dir:here"}, {"model_name": "hf-hub:a/b"}, {"model_name": "hf_hub:a/b"},
            {"model_name": UNKNOWN}, {}, {"_args_": ["local-dir:here"]}, {"_args_": UNKNOWN, "model_name": "a"},
            {"model_name": "a", "checkpoint_path": "x.pt"}, {"model_name": "a", "pretrained": True},
            {"model_name": "a", "pretrained_cfg": {"file": "x.pt"}}, {"model_name": "a", 3: 4, "cache_dir": "here"},
            {"model_name": "a", "pretrained_cfg_overlay": {"file": "x.pt"}},
        ]  # fmt: skip
        for given in others:
            assert not _is_allowed(path, given=given), given
            assert _is_allowed(path, ["timm.*"], given=given), given
    for path in ("timm.load_state_dict", "timm.models.load_state_dict"):
        assert not _is_allowed(path, given={"checkpoint_path": "x.pt", "weights_only": False})
        assert _is_allowed(path, ["timm.*"], {"checkpoint_path": "x.pt"})


def test_what_the_message_says_to_type_allows_it(timm: None) -> None:
    tree: dict[str, Any] = {"model": {"_target_": "timm.create_model", "model_name": "hf-hub:a/b"}}
    tree["loss"] = {"_target_": "torchvision.models.vgg11", "weights": "DEFAULT"}
    found = [each for each in targets.check({**tree, "allow_targets": ["mine.*"]}) if each.key.endswith("_target_")]
    assert len({each.remedy for each in found}) == 1  # one line allows all of it
    match = re.search(r"allow_targets=\[(.*)\]", found[0].remedy)
    assert match
    own = match[1].split(",")
    assert own == ["mine.*", "timm.*", "torchvision.models.*"]
    assert not [each for each in targets.check({**tree, "allow_targets": own}) if each.key.endswith("_target_")]


def test_what_a_folder_says_of_timm_is_not_built(timm: None, tmp_path: Path) -> None:
    for text in (
        "{_target_: timm.models.load_state_dict, checkpoint_path: evil.pt, weights_only: false}",
        "{_target_: torch.nn.Sequential, _args_: [{_target_: timm.create_model, model_name: a, checkpoint_path: b}]}",
        "{_target_: torch.nn.Sequential, _args_: [{_target_: torch.nn.ReLU, a: {_target_: timm.create_model}}]}",
        "{_target_: hydra.utils.instantiate, config: {_target_: timm.models.load_state_dict}}",
        "{_target_: timm.models.load_state_dict, _partial_: true}",
    ):
        cfg = OmegaConf.create(f"allow_targets: []\nmodel: {text}")
        with pytest.raises(ConfigError, match="allow_targets="):
            config.build(cfg.model)


def test_weights_of_torchvision_are_the_word_of_whoever_types() -> None:
    builders = [models.get_model_builder(name) for name in models.list_models()]
    for path in [f"{each.__module__.rpartition('.')[0]}.{each.__name__}" for each in builders]:
        arguments = [n for n in inspect.signature(targets.locate(path)).parameters if n.startswith("weights")]
        assert arguments
        assert _is_allowed(path, given=dict.fromkeys(arguments))
        for argument in arguments:
            assert not _is_allowed(path, given={argument: "DEFAULT"}), path


@pytest.mark.parametrize(
    ("path", "given", "allowed"),
    [
        ("torchvision.models.resnet18", {}, True),
        ("torchvision.models.resnet18", {"pretrained": True}, False),  # of which an earlier version made weights
        ("torchvision.models.resnet18", {"_args_": [True]}, False),
        ("torchvision.models.get_model", {"name": "resnet18"}, True),
        ("torchvision.models.get_model", {"name": "resnet18", "weights": "DEFAULT"}, False),
        ("torchvision.models.get_model", {"name": UNKNOWN}, False),
        # Which loads those of its backbone unless it is told not to.
        ("torchvision.models.get_model", {"name": "fcos_resnet50_fpn"}, False),
        ("torchvision.models.detection.fcos_resnet50_fpn", {}, False),
        ("torchvision.models.detection.fcos_resnet50_fpn", {"weights_backbone": None}, True),
        ("torchvision.models.ResNet18_Weights.DEFAULT.get_state_dict", {"weights_only": False}, False),
        ("torchvision.models.ResNet18_Weights.DEFAULT.transforms", {}, True),
        ("torchvision.models.feature_extraction.create_feature_extractor", {}, False),
        ("torchvision.datasets.CIFAR10.download", {}, False),
        ("torch.nn.Module.load_state_dict", {}, False),
        ("runner.split.Split.save", {}, False),
        ("runner.model.load", {"source": "https://example.org/a.pt"}, False),
        ("optuna.samplers.CmaEsSampler", {}, False),
        ("optuna.samplers.nsgaii.SBXCrossover", {}, True),
    ],
)
def test_what_is_judged_by_more_than_its_name(path: str, given: dict[str, Any], allowed: bool) -> None:
    assert _is_allowed(path, given=given) == allowed
    assert _is_allowed(path, ["*"], given)
