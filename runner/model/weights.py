"""Weights from elsewhere: a state dict or a checkpoint, matched to a model by name and shape; and what of a model a
checkpoint does not hold."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import RE_SAVE, DataError, Problem, few, is_not_plain, reason_of
from runner.files import check_archive, typed
from runner.table import Table

WITHIN = (
    "ema", "state_dict_ema", "model_ema", "model", "state_dict", "model_state_dict", "model_state", "net",
)  # fmt: skip
"""Keys under which checkpoints hold the weights: ours (of a run that averages them the average, which its figures are
of), timm's, torchvision's, Lightning's, torch's tutorials'."""

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""


def load(model: nn.Module, source: str, strict: bool = True) -> Table:
    """Load weights into `model`.

    Args:
        source: a file (``.pt``, ``.safetensors``), a run folder (its best checkpoint), a URL, or the name of weights of
            torchvision's, such as ``ResNet18_Weights.IMAGENET1K_V1``.
        strict: whether names and shapes must be the model's. If not, what fits is loaded and the rest stays as it was
            initialised: a head for other classes.

    Returns:
        what was loaded, missing, unexpected or of another shape.

    Raises:
        DataError: the weights cannot be read, differ where they must not, or nothing of them fits.
    """
    own = model.state_dict()
    read, key = _read(source)
    given, prefix = _matched(read, own)
    fitting = _fitting(given, own)
    groups = {
        "loaded": list(fitting),
        "missing in the file, kept as initialised": [name for name in own if name not in given],
        "not in the model, ignored": [name for name in given if name not in own],
        "of a different shape, kept as initialised": [name for name in given if name in own and name not in fitting],
    }
    title = "Weights" + (f" of {key}" if key else "") + (f", without {prefix} before each name" if prefix else "")
    table = Table(title, ["", "tensors", "which"], [[what, len(n), _some(n, own, given)] for what, n in groups.items()])
    differing = [(what, names) for what, names in list(groups.items())[1:] if names]
    if not _fits(fitting):
        what = f"no tensor of {source!r} matches the model by name and shape: it has {_some(list(given), own, given)}"
        raise DataError(Problem("model.weights", what, f"names such as {next(iter(own), 'none')}"))
    if differing and strict:
        listed = "; ".join(f"{len(n)} {what.partition(',')[0]} ({_some(n, own, given)})" for what, n in differing)
        what = f"{source!r} does not match the model: {listed}"
        raise DataError(Problem("model.weights", what, "the same names and shapes", "model.strict=false"))
    model.load_state_dict(fitting, strict=False)
    return table


def _fitting(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in given.items() if name in own and tensor.shape == own[name].shape}


def _matched(read: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return what was read under the model's names, and what was taken from before them: where none fits as it is,
    what most names begin with, such as the ``model.`` of a Lightning module."""
    plain = given = {_own_name(name, own): tensor for name, tensor in read.items()}
    prefix = ""
    while not _fits(_fitting(given, own)):
        rest = [name.removeprefix(prefix) for name in read if name.startswith(prefix)]
        (head, count), *_ = Counter(name.partition(".")[0] for name in rest if "." in name).most_common(1) or [("", 0)]
        if count * 2 <= len(read):
            return plain, ""
        prefix += head + "."
        given = {name: tensor for name, tensor in read.items() if not name.startswith(prefix)}
        inside = [name for name in read if name.startswith(prefix)]
        given |= {_own_name(name.removeprefix(prefix), own): read[name] for name in inside}
    return given, prefix


def _fits(fitting: Mapping[str, Tensor]) -> bool:
    """Return whether there is more than counters of batches, which fit any other."""
    return any(tensor.dim() for tensor in fitting.values())


def _own_name(name: str, own: Mapping[str, Tensor]) -> str:
    """The name without what wrappers put before it, unless the model has it just so."""
    while name not in own and name.startswith(PREFIXES):
        name = name.removeprefix(next(prefix for prefix in PREFIXES if name.startswith(prefix)))
    return name


def _read(source: str) -> tuple[dict[str, Tensor], str]:
    """The state dict that a source holds, and under which key of a checkpoint it does; empty for none."""
    key = ""
    try:
        state = _fetch(source)
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes of torch, zipfile and urllib
        is_other = isinstance(error, (LookupError, EOFError))  # what text makes of an unpickler
        reason = "it is not a checkpoint" if is_other else reason_of(error)
        what, allowed = f"{source!r} cannot be read: {reason}", "a state dict, saved by torch or as safetensors"
        remedy = RE_SAVE if is_not_plain(error) else ""
        raise DataError(Problem("model.weights", what, allowed, remedy)) from error
    while isinstance(state, Mapping) and not _is_state_dict(state):
        found = next((name for name in WITHIN if isinstance(state.get(name), Mapping)), None)
        if found is None:
            break
        key, state = found, state[found]
    if not isinstance(state, Mapping) or not _is_state_dict(state):
        held = f" with {', '.join(map(str, state))[:80]}" if isinstance(state, Mapping) else ""
        what = f"{source!r} holds a {type(state).__name__}{held}"
        keys = f"{', '.join(WITHIN[:-1])} or {WITHIN[-1]}"
        raise DataError(Problem("model.weights", what, f"a state dict, or one under the key {keys}"))
    return {name: tensor for name, tensor in state.items() if name != "n_averaged"}, key  # torch's AveragedModel's


def _is_state_dict(state: Mapping[Any, Any]) -> bool:
    return bool(state) and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())


def _fetch(source: str) -> Any:
    if re.match(r"https?://", source):
        return torch.hub.load_state_dict_from_url(source, map_location="cpu", weights_only=True, progress=False)
    path = typed(source)
    if re.fullmatch(r"\w+_Weights\.\w+", source) and not path.exists():
        from torchvision.models import get_weight

        return get_weight(source).get_state_dict(progress=False, check_hash=True, weights_only=True)
    if path.is_dir():
        path = path / "checkpoints" / "best.pt"
    if not path.is_file():
        allowed = "a file, a run folder, a URL, or a name such as ResNet18_Weights.IMAGENET1K_V1"
        raise DataError(Problem("model.weights", f"there is no file '{path}'", allowed))
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            what = "reading .safetensors needs safetensors, which is not installed"
            raise DataError(Problem("model.weights", what, remedy="uv pip install safetensors")) from error
        return load_file(path)
    if zipfile.is_zipfile(path):
        try:
            check_archive(path)
        except zipfile.BadZipFile as error:
            raise DataError(Problem("model.weights", f"'{path}' is damaged: {error}")) from error
    return torch.load(path, map_location="cpu", weights_only=True)


def _some(names: list[str], own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    def one(name: str) -> str:
        if name in own and name in given and own[name].shape != given[name].shape:
            return f"{name}: {tuple(given[name].shape)} for {tuple(own[name].shape)}"
        return name

    return few(map(one, names), 3)


def unsaved(model: nn.Module) -> list[str]:
    """Names of plain tensor attributes and of buffers that are not persistent: ``state_dict`` has neither."""
    found = []
    for path, module in model.named_modules():
        plain = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        for name in [*plain, *sorted(module._non_persistent_buffers_set)]:
            found.append(f"{path}.{name}" if path else name)
    return found
