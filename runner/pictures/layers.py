"""What goes on in a model: feature maps and Grad-CAM of chosen samples, and the size of each layer's gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.batch import by
from runner.errors import ConfigError, Problem, nearest
from runner.eval_mode import eval_mode

if TYPE_CHECKING:
    from runner.loader import Loader


class GradientNorms:
    """The 2-norm of each layer's gradient, averaged over the steps since it was last read."""

    def __init__(self, model: nn.Module) -> None:
        own = {
            name or type(module).__name__: [p for p in module.parameters(recurse=False) if p.requires_grad]
            for name, module in model.named_modules()
        }
        self.layers = {name: parameters for name, parameters in own.items() if parameters}
        self._sums: list[Tensor | float] = [0.0] * len(self.layers)
        self._steps = 0

    def observe(self) -> None:
        """Take in the gradients of a step, before they are cleared. Stays on the device."""
        for number, parameters in enumerate(self.layers.values()):
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                self._sums[number] = self._sums[number] + nn.utils.get_total_norm(gradients)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what has been counted, for a resumed run to go on from."""
        return {"sums": dict(zip(self.layers, self._sums, strict=True)), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums, self._steps = [state["sums"].get(name, 0.0) for name in self.layers], state["steps"]

    def read(self) -> dict[str, float]:
        """The means by layer; counting starts again."""
        steps = max(self._steps, 1)
        means = {name: float(total) / steps for name, total in zip(self.layers, self._sums, strict=True)}
        self._sums, self._steps = [0.0] * len(self.layers), 0
        return means


class Histograms:
    """The weights of a model, and the gradients of the last step."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._gradients: dict[str, Tensor] = {}

    def observe(self) -> None:
        """Keep hold of the gradients of a step, which the step itself lets go of."""
        self._gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}

    def read(self) -> dict[str, Tensor]:
        """Values by tag."""
        weights = {f"weights/{name}": p for name, p in self._parameters.items()}
        return weights | {f"gradients/{name}": gradient for name, gradient in self._gradients.items()}


def draw(
    model: nn.Module, loader: Loader, feature_maps: Sequence[str], grad_cam: str | None, samples: int | Sequence[int]
) -> dict[str, Tensor]:
    """Figures of some samples, by tag: (3, height, width), 0 … 1.

    Args:
        loader: the part that the samples are of.
        feature_maps: layers; one figure for each.
        grad_cam: a layer, or None.
        samples: how many, the first ones, or which, by their position in the part.

    Raises:
        ConfigError: there is no such layer or sample, or they are no pictures.
    """
    if not feature_maps and grad_cam is None:
        return {}
    inputs = _chosen(loader, samples)
    if inputs.dim() != 4:
        what = f"inputs of shape {by(inputs.shape[1:])} are not images"
        raise ConfigError(Problem("tensorboard", what, remedy="tensorboard.feature_maps=[] tensorboard.grad_cam=null"))
    maps = {f"feature_maps/{layer}": feature_map(model, inputs, layer) for layer in feature_maps}
    if grad_cam is not None:
        maps[f"grad_cam/{grad_cam}"] = class_map(model, inputs, grad_cam)
    return {tag: beside(inputs, each) for tag, each in maps.items()}


def _chosen(loader: Loader, samples: int | Sequence[int]) -> Tensor:
    """(n, ...) the inputs of some samples, as the model gets them."""
    positions = range(samples) if isinstance(samples, int) else samples
    found: dict[int, Tensor] = {}
    first = 0
    for batch in loader.epoch():
        inside = [position for position in positions if first <= position < first + len(batch)]
        found |= {position: batch.input[position - first] for position in inside}
        first += len(batch)
        if len(found) == len(set(positions)):
            break
    beyond = [position for position in positions if position not in found]
    if not found or (beyond and not isinstance(samples, int)):
        what = f"{samples} does not select samples of val"
        raise ConfigError(Problem("tensorboard.samples", what, f"0 … {first - 1}"))
    return torch.stack([found[position] for position in positions if position in found])


def feature_map(model: nn.Module, inputs: Tensor, layer: str) -> Tensor:
    """The mean over the channels of what a layer makes of each picture.

    Args:
        inputs: (B, C, H, W)
        layer: its name in the model.

    Returns:
        (B, h, w), each scaled to 0 … 1.

    Raises:
        ConfigError: there is no such layer, or it makes no pictures.
    """
    with torch.no_grad():
        return _scaled(_through(model, inputs, layer, "tensorboard.feature_maps")[1].mean(1))


def class_map(model: nn.Module, inputs: Tensor, layer: str) -> Tensor:
    """Where a layer saw what speaks for the class that is predicted (Selvaraju et al., "Grad-CAM", 2017, eq. 1 and 2).

    Args:
        inputs: (B, C, H, W)
        layer: its name in the model, as a rule the last one that makes pictures.

    Returns:
        (B, h, w), each scaled to 0 … 1.

    Raises:
        ConfigError: there is no such layer, or it makes no pictures.
    """
    with torch.enable_grad():
        scores, made = _through(model, inputs.detach().requires_grad_(), layer, "tensorboard.grad_cam")
        (gradient,) = torch.autograd.grad(scores.max(1).values.sum(), made)
    weights = gradient.mean((2, 3), keepdim=True)  # (B, channels, 1, 1), eq. 1
    return _scaled((weights * made).sum(1).relu().detach())  # eq. 2


def beside(inputs: Tensor, maps: Tensor) -> Tensor:
    """Each picture beside its map, in the colours of jet: one image, (3, height, width), 0 … 1.

    Args:
        inputs: (B, C, H, W)
        maps: (B, h, w), 0 … 1.
    """
    from torchvision.utils import make_grid

    flat = inputs.float().flatten(1)
    low, high = flat.min(1).values.view(-1, 1, 1, 1), flat.max(1).values.view(-1, 1, 1, 1)
    pictures = rgb(inputs, low, high - low)
    coloured = jet(functional.interpolate(maps.unsqueeze(1), inputs.shape[2:], mode="bilinear").squeeze(1))
    pairs = torch.stack([pictures, coloured], 1).flatten(0, 1)  # (2 B, 3, H, W)
    grid: Tensor = make_grid(pairs.cpu(), nrow=8, padding=1)
    return grid


def rgb(pictures: Tensor, black: Tensor | float, span: Tensor | float) -> Tensor:
    """(B, C, H, W) as colours, (B, 3, H, W) of 0 … 1: the first three channels, or the first alone as grey.

    Args:
        black: what is 0, and `span` above it 1.
    """
    shown = pictures if pictures.shape[1] >= 3 else pictures[:, :1].expand(-1, 3, -1, -1)
    return ((shown[:, :3].float() - black) / torch.as_tensor(span).clamp(min=1e-12)).clamp(0, 1)


def jet(values: Tensor) -> Tensor:
    """(..., H, W) of 0 … 1 as colours from blue over green to red: (..., 3, H, W)."""
    return torch.stack([(1.5 - (4 * values - centre).abs()).clamp(0, 1) for centre in (3, 2, 1)], -3)


def embed(model: nn.Module, loader: Loader, layer: str, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a layer makes of the first samples of a part, on the CPU.

    Returns:
        (n, D) the outputs, flattened, (n, ...) the targets, (n,) the samples' indices, (n, ...) the inputs.

    Raises:
        ConfigError: there is no such layer, or it makes no tensor.
    """
    rows, count = [], 0
    for batch in loader.epoch():
        with torch.no_grad():
            _, made = _through(model, batch.input, layer, "tensorboard.embeddings", pictures=False)
        rows.append(tuple(each.cpu() for each in (made.flatten(1).float(), batch.target, batch.index, batch.input)))
        count += len(batch)
        if count >= most:
            break
    found = [torch.cat(part)[:most] for part in zip(*rows, strict=True)]
    return found[0], found[1], found[2], found[3]


def _through(model: nn.Module, inputs: Tensor, layer: str, key: str, pictures: bool = True) -> tuple[Tensor, Tensor]:
    """What a model makes of inputs in eval mode, and what `layer` makes on the way: where it is used several times, the
    last time.

    Args:
        key: of the configuration, where the layer was named.
        pictures: whether the layer has to make (B, C, H, W).
    """
    modules = dict(model.named_modules())
    if layer not in modules or not layer:
        names = [name for name in modules if name]
        near = nearest(layer, names)
        value = f'["{near}"]' if key.endswith("feature_maps") else f'"{near}"'  # a name may look like a number
        remedy = f"'{key}={value}'" if near else ""
        raise ConfigError(Problem(key, f"the model has no layer {layer!r}", ", ".join(names[:20]), remedy))
    seen: list[object] = []
    hook = modules[layer].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with hook, eval_mode(model):
        output: Tensor = model(inputs)
    made = seen[-1] if seen else None
    if isinstance(made, Tensor) and (made.dim() == 4 or not pictures):
        return output, made
    what = f"returns shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"returns a {type(made).__name__}"
    what = f"layer {layer!r} {what}" if seen else f"layer {layer!r} is not used by the model"
    allowed = "a layer that returns (batch, channels, height, width)" if pictures else "a layer that returns a tensor"
    raise ConfigError(Problem(key, what, allowed))


def _scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)
