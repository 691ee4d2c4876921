"""Transforms: what happens to inputs between storage and model.

The common ones take whole batches. What one learns, it learns from the train part alone, in `fit`, and keeps in
buffers, so that it moves to the device and into the checkpoint like any other weight. What one draws at random it is
handed: one row of uniform numbers per sample, read from a table by the sample's position in the epoch, so that
augmentation depends neither on the size of the batches nor on workers, nor on a stop in between.

torchvision's v2 transforms, and any callable of one sample, work too: those that draw at random are called sample by
sample, with their generators set for each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.draws import set_generators
from runner.errors import ConfigError, Problem

Batches = Callable[[], Iterable[Tensor]]
"""Gives the inputs of the train part, batch by batch, from the start each time it is called."""


class Batched(nn.Module):
    """A transform of whole batches.

    Attributes:
        draws: uniform numbers in [0, 1) that it takes for each sample. With 0 it is called as ``forward(x)``, else as
            ``forward(x, u)`` with u (B, draws).
        exact: whether numbers of more digits than a float32 has are scaled in float64; else all are scaled in float32,
            as in earlier versions. What comes out is float32.
    """

    draws = 0
    exact = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # What is learnt has a size that is learnt, too, and a type.
        for name, buffer in self._buffers.items():
            if prefix + name in state_dict and buffer is not None:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Normalize(Batched):
    """Subtract the mean and divide by the standard deviation, channel by channel (or column by column).

    Args:
        mean, std: one number per channel, in the units of the stored data; left out, they are those of the train part.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        super().__init__()
        self.given = mean, std
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("std", torch.zeros(0))

    def fit(self, batches: Batches) -> None:
        mean, std = (torch.tensor(() if each is None else each, dtype=torch.float64) for each in self.given)
        if None in self.given:
            learnt, spread, kind = _moments(batches())
            mean, std = (learnt if self.given[0] is None else mean), (spread if self.given[1] is None else std)
        else:  # without a look at the data: float32 is enough for the usual means of pictures
            kind = torch.float64 if bool((mean.abs() > FAR * std).any()) else torch.float32
        self.mean, self.std = _scale(mean, std, kind, self.exact)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, ...) of any dtype -> the same shape, float32
        numbers = max(self.mean.numel(), self.std.numel())
        if numbers not in (1, x.shape[1]):  # three means of a grayscale image would make three channels of it
            what = f"Normalize has mean and std for {numbers} channels, and samples have {x.shape[1]}"
            raise ConfigError(Problem("transform", what, f"one number for each of {x.shape[1]} channels, or for all"))
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x.to(self.mean.dtype) - self.mean.view(shape)).div_(self.std.view(shape)).float()


class Float(Batched):
    """Inputs as float32, times `scale`; 1/255 brings uint8 pictures to 0 … 1."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.exact and x.dtype == torch.float64 else x.float()).mul(self.scale).float()


class Flip(Batched):
    """Mirror each picture left to right with probability `p`."""

    draws = 1

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, u: Tensor) -> Tensor:  # (B, C, H, W), (B, 1)
        return torch.where((u < self.p).view(-1, 1, 1, 1), x.flip(3), x)


class Crop(Batched):
    """Shift each picture at random: pad it on all sides and cut out its own size again.

    Args:
        padding: pixels on each side.
        fill: value of the padding, in the units of the stored data.
        padding_mode: ``constant``, `fill`; or of the picture itself ``reflect``, ``replicate`` or ``circular``, as of
            `torch.nn.functional.pad`.
    """

    draws = 2

    def __init__(
        self, padding: int = 4, fill: float = 0,
        padding_mode: Literal["constant", "reflect", "replicate", "circular"] = "constant",
    ) -> None:  # fmt: skip
        super().__init__()
        self.padding = padding
        self.fill = fill
        self.padding_mode = padding_mode
        if padding_mode != "constant" and fill != 0:
            what = f"fill={fill} has no effect with padding_mode={padding_mode}"
            raise ConfigError(Problem("transform", what, "fill=0, or padding_mode=constant"))

    def _pad(self, x: Tensor) -> Tensor:
        if self.padding_mode == "constant":
            return functional.pad(x, [self.padding] * 4, value=self.fill)
        longest = min(x.shape[2:]) - (self.padding_mode == "reflect")
        if self.padding > longest and self.padding_mode != "replicate":
            what = f"padding={self.padding} is too much to {self.padding_mode} images of {x.shape[2]}×{x.shape[3]}"
            raise ConfigError(Problem("transform", what, f"at most {longest}, or padding_mode=replicate"))
        for axis in (2, 3):  # the places, and not the values: of bytes torch pads some kinds in some versions only
            places = torch.arange(x.shape[axis], device=x.device, dtype=torch.float32).view(1, 1, -1)
            places = functional.pad(places, [self.padding] * 2, mode=self.padding_mode)
            x = x.index_select(axis, places.flatten().long())
        return x

    def forward(self, x: Tensor, u: Tensor) -> Tensor:  # (B, C, H, W), (B, 2)
        height, width = x.shape[2:]
        padded = self._pad(x)
        shift = (u * (2 * self.padding + 1)).long()  # (B, 2), each 0 … 2 · padding
        # Every possible crop as a view, of which the ones that were drawn are copied: (B, C, rows, columns, H, W).
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        return windows[torch.arange(len(x), device=x.device), :, shift[:, 0], shift[:, 1]]


class Cutout(Batched):
    """Set a square at a random place to `fill` (DeVries and Taylor, "Improved Regularization … with Cutout", 2017).

    Args:
        size: side of the square in pixels; what lies outside the picture is cut off, as in the paper.
    """

    draws = 2

    def __init__(self, size: int = 8, fill: float = 0) -> None:
        super().__init__()
        self.size = size
        self.fill = fill

    def forward(self, x: Tensor, u: Tensor) -> Tensor:  # (B, C, H, W), (B, 2)
        inside = []
        for axis, length in enumerate(x.shape[2:]):
            start = (u[:, axis] * length).long().view(-1, 1) - self.size // 2  # (B, 1)
            place = torch.arange(length, device=x.device)
            inside.append((place >= start) & (place < start + self.size))  # (B, H) or (B, W)
        return x.masked_fill((inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1), self.fill)


class Table(Batched):
    """A table's columns as a network wants them: numbers scaled, their gaps filled, categories one-hot.

    All that is learnt is learnt from the train part: a gap is filled with the column's mean, which scaling makes 0; a
    category that the train part does not have, or a gap in a column of categories, is all zeros.

    Args:
        categories: for each column, the names of its categories, or None if it is a number.
    """

    mean: Tensor
    std: Tensor
    codes: Tensor

    def __init__(self, categories: Sequence[Sequence[str] | None] | None) -> None:
        super().__init__()
        if categories is None:
            what = "'table' needs the columns of dataset=table, which this data set does not have"
            raise ConfigError(Problem("transform", what, remedy="transform=normalize"))
        self.numbers = [i for i, names in enumerate(categories) if names is None]
        self.named = [i for i, names in enumerate(categories) if names is not None]
        for name in ("mean", "std", "codes"):
            self.register_buffer(name, torch.zeros(0))

    def fit(self, batches: Batches) -> None:
        mean, std, kind = _moments(batch[:, self.numbers] for batch in batches())
        found = ((c, code) for batch in batches() for c in self.named for code in batch[:, c].unique().tolist())
        seen = {(column, code) for column, code in found if code == code}
        self.mean, self.std = _scale(mean, std, kind, self.exact)
        self.codes = torch.tensor(sorted(seen)).view(-1, 2)  # (K, 2): column and code of each one-hot output

    def forward(self, x: Tensor) -> Tensor:  # (B, F) with NaN for gaps -> (B, numbers + K) float32
        scaled = ((x[:, self.numbers] - self.mean) / self.std).float().nan_to_num(0.0, torch.inf, -torch.inf)
        one_hot = x[:, self.codes[:, 0].long()] == self.codes[:, 1]
        return torch.cat([scaled, one_hot.float()], 1)


class Pipeline(nn.Module):
    """Transforms one after the other.

    The leading ones that take single samples are the sample stage: a loader with workers applies it there, to whatever
    the data set gives (a PIL picture). Everything else, and in a resident loader everything, is applied to batches.

    Args:
        transforms: `Batched` ones, torchvision's v2 transforms, or callables of one sample.
        exact: see `Batched`.
    """

    def __init__(self, transforms: Iterable[Callable[..., Any]] = (), exact: bool = True) -> None:
        super().__init__()
        self.steps = list(transforms)
        for step in self.steps:
            if isinstance(step, Batched) and not exact:
                step.exact = False
        self.modules_ = nn.ModuleList(step for step in self.steps if isinstance(step, nn.Module))
        self.draws = sum(_draws(step) for step in self.steps)
        self.needs_seeds = any(is_random(step) and not isinstance(step, Batched) for step in self.steps)

    def fit(self, batches: Batches) -> Pipeline:
        """Fit each transform on what those before it make of the train part, the random ones among them left out.

        A callable of which nothing is known may draw, but it may also scale, and is not left out.
        """
        for number, step in enumerate(self.steps):
            if hasattr(step, "fit"):
                before = Pipeline(s for s in self.steps[:number] if not is_random(s) or is_unknown(s))
                step.fit(lambda before=before: (before(batch, seeds=range(len(batch))) for batch in batches()))
        return self

    def place(self, device: torch.device) -> torch.device:
        """Say where to apply it for a model on `device`. MPS has no float64 (and was never measured): then the CPU."""
        is_wide = any(buffer.dtype == torch.float64 for buffer in self.buffers())
        return torch.device("cpu") if device.type == "mps" and is_wide else device

    def stages(self) -> tuple[list[Callable[..., Any]], Pipeline]:
        """The sample stage, and the rest, to which all that is fitted belongs."""
        batched = (i for i, step in enumerate(self.steps) if isinstance(step, Batched) or hasattr(step, "fit"))
        number = next(batched, len(self.steps))
        return self.steps[:number], Pipeline(self.steps[number:])

    def forward(self, x: Tensor, u: Tensor | None = None, seeds: Sequence[int] | None = None) -> Tensor:
        """Apply all to a batch.

        Args:
            x: (B, ...) inputs.
            u: (B, `draws`) uniform numbers, where any transform draws.
            seeds: B of them, one for each sample, where a transform of single samples draws.
        """
        taken = 0
        for step in self.steps:
            count = _draws(step)
            if isinstance(step, Batched):
                x = step(x, u[:, taken : taken + count]) if count and u is not None else step(x)
                taken += count
            elif is_random(step):
                x = torch.stack([seeded(step, sample, seed) for sample, seed in zip(x, seeds or (), strict=True)])
            else:
                x = step(x)
        return x


def _draws(step: Any) -> int:
    return step.draws if isinstance(step, Batched) else 0


def is_random(step: Any) -> bool:
    """Whether a transform may draw at random: ours that say so, v2's that make parameters, hold others or draw without
    saying so, and unknown callables."""
    if isinstance(step, Batched):
        return step.draws > 0
    if is_unknown(step):
        return True
    kind, plain = type(step), sys.modules["torchvision.transforms.v2"]
    makes = kind.make_params is not plain.Transform.make_params or kind.forward is not plain.Transform.forward
    return makes or isinstance(step, plain.GaussianNoise)


def is_unknown(step: Any) -> bool:
    """Whether a transform is neither ours nor one of v2's, or calls whatever it was given."""
    # Not imported, which takes as long as torch itself: if nobody else has, the step is none of them.
    v2 = sys.modules.get("torchvision.transforms.v2")
    known = isinstance(step, Batched) or (v2 is not None and isinstance(step, v2.Transform))
    return not known or (v2 is not None and isinstance(step, v2.Lambda))


def seeded(step: Callable[[Any], Any], sample: Any, seed: int) -> Any:
    """Call a transform of one sample with every generator that it may use set from `seed`."""
    set_generators(seed)
    return step(sample)


FAR = 16
"""Standard deviations from 0 up to which a float32 has digits enough for what is scaled, with an error of 1e-6."""

WIDE = (torch.float64, torch.int64, torch.uint64, torch.int32, torch.uint32)
"""Types that hold more digits than a float32."""


def _scale(mean: Tensor, std: Tensor, kind: torch.dtype, exact: bool) -> tuple[Tensor, Tensor]:
    """Return by what numbers are scaled, and in which type; a constant channel stays what it is: 0 after the mean.

    Its deviation need not come out as 0: the mean of many times 0.1 is not quite 0.1.
    """
    least = 8 * torch.finfo(torch.float64).eps * mean.abs() if exact else torch.zeros(())
    kind = kind if exact else torch.float32
    return mean.to(kind), torch.where(std > least, std, 1.0).to(kind)


def _moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor, torch.dtype]:
    """Mean and (population) standard deviation of each channel or column, in float64; a NaN is a gap, and left out.
    And the type in which nothing of the numbers is lost.

    Chan, Golub and LeVeque's update of the sum of squared differences ("Updating Formulae … for Computing Sample
    Variances", 1979, eq. 2.1): the plain sum of squares loses the deviation of values that are far from 0.
    """
    count = mean = squares = torch.zeros((), dtype=torch.float64)
    kind = torch.float32
    for batch in batches:
        kind = torch.float64 if batch.dtype in WIDE else kind
        values = batch.double().flatten(2).transpose(0, 1).flatten(1) if batch.dim() > 2 else batch.double().T  # (C, n)
        known = (~values.isnan()).sum(1)
        here = values.nansum(1) / known.clamp(min=1)
        spread = (values - here.unsqueeze(1)).square().nansum(1)
        difference, together = here - mean, (count + known).clamp(min=1)
        squares = squares + spread + difference.square() * count * known / together
        mean = mean + difference * known / together
        count = count + known
    return mean, (squares / count.clamp(min=1)).sqrt(), kind
