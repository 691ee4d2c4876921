"""The batch: what one forward sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from runner.errors import DataError, Problem


@dataclass(slots=True)
class Batch:
    """Samples that go through the model together. B is their number."""

    input: Tensor
    """(B, ...), as the transform left it."""
    target: Tensor
    """(B,) int64 class indices, or (B, ...) float values."""
    index: Tensor
    """(B,) int64 on the CPU: each sample's index in its own data set, so that a prediction can be traced back to it."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """What else the samples held, by name: (B, ...) tensors such as ``mask`` or ``weight``."""

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, rows: slice) -> Batch:
        """Some of the samples."""
        return self.map(lambda tensor: tensor[rows])

    def cut(self, size: int) -> list[Batch]:
        """In parts of `size` samples; the last may have fewer."""
        return [self.rows(slice(start, start + size)) for start in range(0, len(self), size)]

    def pin_memory(self) -> Batch:
        """In page-locked memory, from which a copy to a CUDA device does not block. Called by torch's DataLoader."""
        return self.map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """On `device`, but for the indices."""
        extra = {name: sent(tensor, device) for name, tensor in self.extra.items()}
        return Batch(sent(self.input, device), sent(self.target, device), self.index, extra)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """With each of its tensors, the indices among them, as `function` makes it."""
        extra = {name: function(tensor) for name, tensor in self.extra.items()}
        return Batch(function(self.input), function(self.target), function(self.index), extra)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On `device`, as far as that can hold it: MPS has no float64."""
    held = tensor.float() if device.type == "mps" and tensor.dtype == torch.float64 else tensor
    return held.to(device, non_blocking=True)


Called = Callable[[int], str]
"""The name of a sample for a message, by its index."""


def stacked(
    tensors: Sequence[Tensor], name: str = "", index: Sequence[int] | None = None, called: Called = "sample {}".format
) -> Tensor:
    """(B, ...) of what samples hold.

    Args:
        name: what it is of a sample; without one, its input.
        index: of the samples; None to count them.
        called: the name of one in the message, by its index.

    Raises:
        DataError: they are not of one shape and type.
    """
    first = tensors[0]
    other = next((n for n, each in enumerate(tensors) if (each.shape, each.dtype) != (first.shape, first.dtype)), None)
    if other is not None:
        both = sorted([(n if index is None else index[n], tensors[n]) for n in (0, other)], key=lambda pair: pair[0])
        words = [
            f"{f'the {name} of ' if name else ''}{called(number)} is {by(tensor.shape)} "
            f"{str(tensor.dtype).removeprefix('torch.')}"
            for number, tensor in both
        ]
        what, remedy = f"samples differ: {', '.join(words)}", _to_one_size(first.shape, tensors[other].shape)
        raise DataError(Problem("dataset", what, "the same shape and dtype for all samples", remedy))
    return torch.stack(list(tensors))


def _to_one_size(first: Sequence[int], other: Sequence[int]) -> str:
    """What brings two pictures, (C, H, W), to the lower height and the smaller width; nothing if they are none."""
    if len(first) != 3 or len(other) != 3 or first[1:] == other[1:]:
        return ""
    height, width = map(min, first[1:], other[1:])
    return f'transform=resize, or "dataset.size=[{height},{width}]" for an image folder'


def by(shape: Sequence[int | None]) -> str:
    """A shape in words: ``1×8×8``."""
    return "×".join("any" if length is None else str(length) for length in shape) or "one number"
