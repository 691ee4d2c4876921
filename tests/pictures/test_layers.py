from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from runner.errors import ConfigError
from runner.pictures import layers

INPUTS = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    parts = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(*parts)


def scaled(maps: torch.Tensor) -> torch.Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not module._forward_hooks and module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_feature_map_is_the_mean_over_channels() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = layers.feature_map(model, INPUTS, "0")
    unchanged(model, before)
    torch.testing.assert_close(found, scaled(model[0](INPUTS).mean(1)).detach())


def test_grad_cam_of_pooled_features_is_the_class_activation_map() -> None:
    # Where pooling and one linear layer follow, Grad-CAM is CAM (Selvaraju et al., section 3.1): the features weighted
    # by the class's row of the last layer.
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = layers.class_map(model, INPUTS, "2")
    unchanged(model, before)
    features = model.eval()[:3](INPUTS)
    classes = model(INPUTS).argmax(1)
    activation = functional.relu(torch.einsum("bc,bchw->bhw", model[5].weight[classes], features))
    torch.testing.assert_close(found, scaled(activation).nan_to_num(0).detach(), rtol=1e-4, atol=1e-5)


def test_the_colours_of_jet() -> None:
    colours = layers.jet(torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]]))  # dark blue, cyan-blue, green, orange, dark red
    assert colours.shape == (3, 1, 5)
    assert colours[:, 0].T.tolist() == [[0, 0, 0.5], [0, 0.5, 1], [0.5, 1, 0.5], [1, 0.5, 0], [0.5, 0, 0]]


def test_pictures_stand_beside_their_maps() -> None:
    image = layers.beside(torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4))
    assert image.shape == (3, 8 + 2, 4 * 8 + 5)
    assert 0 <= image.min() < image.max() <= 1


def test_the_norms_of_gradients_are_their_means_over_steps() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU())
    norms = layers.GradientNorms(model)
    for factor in (1.0, 3.0):
        model[0].weight.grad = factor * torch.tensor([[3.0, 4.0]])
        norms.observe()
    assert norms.read() == {"0": 10.0}  # (5 + 15) / 2
    assert norms.read() == {"0": 0.0}


def loader(inputs: torch.Tensor) -> Any:
    batches = [SimpleNamespace(input=rows, __len__=None) for rows in inputs.split(2)]

    class Rows:
        def __init__(self, rows: torch.Tensor) -> None:
            self.input = rows

        def __len__(self) -> int:
            return len(self.input)

    return SimpleNamespace(epoch=lambda: iter([Rows(batch.input) for batch in batches]))


def test_figures_are_drawn_of_the_samples_that_were_chosen() -> None:
    drawn = layers.draw(network(), loader(INPUTS), ["0", "2"], "2", [2, 0])
    assert list(drawn) == ["feature_maps/0", "feature_maps/2", "grad_cam/2"]
    expected = layers.beside(INPUTS[[2, 0]], layers.feature_map(network(), INPUTS[[2, 0]], "0"))
    torch.testing.assert_close(drawn["feature_maps/0"], expected)
    assert layers.draw(network(), loader(INPUTS), [], None, 8) == {}
    assert list(layers.draw(network(), loader(INPUTS), ["0"], None, 99)) == ["feature_maps/0"]


@pytest.mark.parametrize(
    ("inputs", "maps", "cam", "samples", "message"),
    [
        (INPUTS, ["9"], None, 2, r"tensorboard.feature_maps: the model has no layer '9'\n  allowed: 0, 1, 2"),
        (INPUTS, [], "4", 2, r"tensorboard.grad_cam: layer '4' returns shape \(2, 4\)\n  allowed: a layer that"),
        (INPUTS, ["0"], None, [3], r"tensorboard.samples: \[3\] does not select samples of val\n  allowed: 0 … 2"),
        (torch.zeros(3, 7), ["0"], None, 1, "tensorboard: inputs of shape 7 are not images"),
    ],
)
def test_what_cannot_be_drawn(inputs: Any, maps: Any, cam: Any, samples: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        layers.draw(network(), loader(inputs), maps, cam, samples)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class Odd(nn.Module):
    """Has a layer that it does not use, and one that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.pair, self.last = nn.Linear(1, 1), Pair(), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.pair(x)[0].flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("layer", "message"),
    [("unused", "layer 'unused' is not used by the model"), ("pair", "layer 'pair' returns a tuple")],
)
def test_layers_that_make_nothing_to_look_at(layer: str, message: str) -> None:
    model = Odd()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = SimpleNamespace(epoch=lambda: iter([SimpleNamespace(input=INPUTS)]))
    for key, show in (
        ("feature_maps", lambda: layers.feature_map(model, INPUTS, layer)),
        ("grad_cam", lambda: layers.class_map(model, INPUTS, layer)),
        ("embeddings", lambda: layers.embed(model, rows, layer, 3)),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=rf"tensorboard\.{key}: {message}\n  allowed: a layer that"):
            show()
    unchanged(model, before)


def test_the_remedy_for_a_layer_that_is_not_there_can_be_typed() -> None:
    with pytest.raises(ConfigError, match=r"""try: 'tensorboard\.grad_cam="pair"'"""):
        layers.class_map(Odd(), INPUTS, "pairs")
    with pytest.raises(ConfigError, match=r"""try: 'tensorboard\.feature_maps=\["pair"\]'"""):
        layers.feature_map(Odd(), INPUTS, "pairs")
