"""Parameter groups: every trainable parameter in exactly one, by rules of which the first that fits decides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from runner.errors import ConfigError, Problem, counted, few, nearest
from runner.table import Table

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""torch's normalisation layers: batch and instance, group, layer, root mean square."""

STACKS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True, eq=False)
class Rule:
    """Settings for some of the parameters.

    Args:
        number: its place among the rules, from 0; None for what no rule fits.
        match: a regular expression that is looked for in a parameter's name; None for any.
        type: the class of the layer that holds it, or one that it is derived from, by name; None for any.
        name: of the group; by default what it matches.
        lr_scale: by which the learning rate is multiplied.
        settings: arguments of the optimizer, ``lr`` among them.
    """

    number: int | None
    match: str | None = None
    type: str | None = None
    name: str | None = None
    lr_scale: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Where it stands in the configuration."""
        return f"optimizer.param_groups.{self.number}"

    @property
    def label(self) -> str:
        return self.name or " ".join(word for word in (self.type, self.match) if word) or "everything"

    @property
    def words(self) -> str:
        """What it fits, as it is written in the configuration."""
        pairs = {"match": self.match, "type": self.type}
        return ", ".join(f"{key}: {value}" for key, value in pairs.items() if value is not None)

    def fits(self, parameter: Parameter) -> bool:
        """Whether all that the rule asks for holds."""
        classes = [kind.__name__ for kind in type(parameter.layer).__mro__]
        right_name = self.match is None or re.search(self.match, parameter.name) is not None
        return right_name and (self.type is None or self.type in classes)


@dataclass(frozen=True, eq=False)
class Parameter:
    """A trainable tensor, and the layer that holds it."""

    name: str
    tensor: Tensor
    layer: nn.Module
    depth: int
    """Layers between it and the output: 0 for the last one."""

    @property
    def is_norm_or_bias(self) -> bool:
        own = self.name.rpartition(".")[2]
        return isinstance(self.layer, NORMS) or own.startswith("bias") or own.endswith("bias")  # in_proj_bias, too


REST = "rest"
"""Name of the group of all that no rule fits."""


def groups(
    modules: Mapping[str, nn.Module], rules: Sequence[Rule], defaults: Mapping[str, Any], *,
    decay_norms_and_biases: bool = True, layer_decay: float | None = None, scale: float = 1.0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Parameter groups as torch's optimizers take them, each with a ``name`` and its ``rule``; see `build`.

    Args:
        defaults: the optimizer's settings where no rule says otherwise.

    Raises:
        ConfigError: nothing to train; two groups of one name; a rule that fits nothing, or nothing that is left for it.
    """
    everything = list(_parameters(modules))
    if not everything:
        allowed, remedy = "at least one with requires_grad=True", "model.freeze=[], if they are frozen"
        raise ConfigError(Problem("model", "has no trainable parameters", allowed, remedy))
    labels = [rule.label for rule in rules]
    for rule in rules:
        if rule.label == REST or labels.count(rule.label) > 1:
            what = f"{rule.label!r} is already the name of another group"
            raise ConfigError(Problem(f"{rule.key}.name", what, "another name"))
    made = []
    for rule, members in _assign(everything, rules):
        # A rule that says how much its parameters decay means it.
        all_decay = decay_norms_and_biases or "weight_decay" in rule.settings
        for (depth, spared), some in _divided(members, all_decay, layer_decay is not None):
            settings = dict(rule.settings)
            if "lr" in defaults:
                factor = rule.lr_scale * scale * (1.0 if layer_decay is None else layer_decay**depth)
                settings["lr"] = settings["initial_lr"] = settings.get("lr", defaults["lr"]) * factor
            if spared and defaults.get("weight_decay"):
                settings["weight_decay"] = 0.0
            layer = "" if layer_decay is None else f", {depth} from the output"
            name = rule.label + (", no decay" if spared else "") + layer
            named = [(p.name, p.tensor) for p in some]
            # initial_lr is where torch's schedulers, too, keep the rate that they start from.
            made.append({"params": named, "name": name, "rule": rule.number, **settings})
    names = [group["name"] for group in made]
    if twice := [group for group in made if names.count(group["name"]) > 1]:
        what = f"{twice[0]['name']!r} is the name of two groups"
        remedy = "a name of its own in one of the rules"
        raise ConfigError(Problem("optimizer.param_groups", what, "a different name for each", remedy))
    return made


def _parameters(modules: Mapping[str, nn.Module]) -> Iterator[Parameter]:
    """Every trainable parameter, once: one that two layers share counts to the first."""
    seen: set[int] = set()
    for prefix, module in modules.items():
        depth = depths(module)
        for place, layer in module.named_modules():
            for own, tensor in layer.named_parameters(recurse=False):
                inside = f"{place}.{own}" if place else own
                if tensor.requires_grad and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield Parameter(f"{prefix}.{inside}" if prefix else inside, tensor, layer, depth[inside])


def _assign(everything: Sequence[Parameter], rules: Sequence[Rule]) -> Iterator[tuple[Rule, list[Parameter]]]:
    """Each rule with the parameters that it decides for, then the rest."""
    left = list(everything)
    for rule in rules:
        members = [p for p in left if rule.fits(p)]
        if not members:
            raise ConfigError(_idle(rule, everything, rules))
        yield rule, members
        left = [p for p in left if not rule.fits(p)]
    if left:
        yield Rule(None, name=REST if rules else "all"), left


def _divided(
    members: Sequence[Parameter], decay_norms_and_biases: bool, by_depth: bool
) -> Iterator[tuple[tuple[int, bool], list[Parameter]]]:
    """The members by depth, from the input on, and by whether they are spared weight decay."""
    parts: dict[tuple[int, bool], list[Parameter]] = {}
    for p in members:
        spared = p.is_norm_or_bias and not decay_norms_and_biases
        parts.setdefault((p.depth if by_depth else 0, spared), []).append(p)
    yield from sorted(parts.items(), key=lambda part: (-part[0][0], part[0][1]))


def _idle(rule: Rule, everything: Sequence[Parameter], rules: Sequence[Rule]) -> Problem:
    """What is wrong with a rule that decides for no parameter."""
    fitting = [p for p in everything if rule.fits(p)]
    if fitting:
        takers = dict.fromkeys(next(r for r in rules if r.fits(p)) for p in fitting)
        earlier = ", ".join(f"{taker.key} ({taker.words})" for taker in takers)
        all_of_it = counted(len(fitting), "parameter")
        what = f"({rule.words}) has no effect: all that it matches ({all_of_it}) already belongs to {earlier}"
        return Problem(rule.key, what, remedy="put this rule first (the first matching rule wins)")
    near = None
    if rule.match is not None:
        words = [p.name.split(".") for p in everything]
        names = [".".join(parts[: n + 1]) for parts in words for n in range(len(parts))]
        near = nearest(re.sub(r"\\(.)|[\^$]", r"\1", rule.match), list(dict.fromkeys(names)), "match: ")
    elif rule.type is not None:
        near = nearest(rule.type, sorted({type(p.layer).__name__ for p in everything}), "type: ")
    kinds = ", ".join(sorted({type(p.layer).__name__ for p in everything}))
    some = few((p.name for p in everything), 8)
    what = f"({rule.words}) matches no trainable parameter"
    return Problem(rule.key, what, f"names: {some}; types: {kinds}", near or "")


def table(optimizer: torch.optim.Optimizer) -> Table:
    """The groups as the optimizer has them: how much is in each, and the settings on which they may differ."""
    found = optimizer.param_groups
    usual = ("lr", "weight_decay")
    hidden = ("params", "param_names", "name", "rule", "initial_lr", *usual)
    differing = [key for key in found[0] if key not in hidden and len({repr(group.get(key)) for group in found}) > 1]
    keys = [*(key for key in usual if key in found[0]), *differing]
    rows = [
        [g["name"], g["rule"], len(g["params"]), sum(p.numel() for p in g["params"]), *(_shown(g, k) for k in keys)]
        for g in found
    ]
    columns = ["group", "rule", "tensors", "parameters", *(key.replace("_", " ") for key in keys)]
    return Table("Parameter groups", columns, rows, exact=columns)


def _shown(group: Mapping[str, Any], key: str) -> Any:
    return group["initial_lr"] if key == "lr" else group.get(key)


def depths(model: nn.Module) -> dict[str, int]:
    """For each parameter of `model`, by name: the layers between it and the output, 0 for those of the last one.

    A layer is a block of a stack (`nn.Sequential`, `nn.ModuleList`), or what stands beside stacks; one that has only
    vectors (BatchNorm) belongs to the one before it. Parameters that no layer holds, such as class tokens and position
    embeddings, belong to the first, as in the layer-wise decay of BEiT (Bao et al., 2022, section 3.2).
    """
    layers: list[list[str]] = [[]]
    for name, layer in _layers("", model, whole=True):
        own = [f"{name}.{inside}" if name else inside for inside, _ in layer.named_parameters()]
        joins = all(p.dim() < 2 for p in layer.parameters())
        if own and (joins or not layers[-1]):
            layers[-1] += own
        elif own:
            layers.append(own)
    place = {name: number for number, names in enumerate(layers) for name in names}
    return {name: len(layers) - 1 - place.get(name, 0) for name, _ in model.named_parameters(remove_duplicate=False)}


def _layers(
    name: str, module: nn.Module, whole: bool = False, in_stack: bool = False
) -> Iterator[tuple[str, nn.Module]]:
    """The layers inside `module`, in the order in which it was built.

    Args:
        whole: whether it is the model, or nearly all of it in a frame.

    Inside a stack only a plain stack is looked into (torchvision's ``features`` is one of several); above, whatever is
    a stack or little more than a frame.
    """
    plain = type(module) in STACKS
    children = list(module.named_children())
    # A module nearly all of which is one of its children is a frame around it; one of several parts is a block.
    most = 0.9 * _size(module)
    holds = isinstance(module, (*STACKS, nn.ModuleDict)) or any(_size(child) >= most for _, child in children)
    if children and (plain or whole or (holds and not in_stack)):
        for own, child in children:
            inside, within = f"{name}.{own}" if name else own, in_stack or isinstance(module, STACKS)
            yield from _layers(inside, child, whole and _size(child) >= most, within)
    else:
        yield name, module


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
