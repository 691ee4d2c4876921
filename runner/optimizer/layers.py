"""The layers of a model from input to output, for learning rates that grow along them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

STACKS = (nn.Sequential, nn.ModuleList)


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
