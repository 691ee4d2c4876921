from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from runner.errors import ConfigError
from runner.model import resnet, vit_small
from runner.model import torchvision as torchvision_model


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name",
    ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t",
     "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5",
     "squeezenet1_1", "swin_t", "vit_b_32"],
)  # fmt: skip
def test_torchvisions_models_have_its_parameters_and_ours_ends(name: str) -> None:
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    # Shapes only, for drawing weights takes the time; a RegNet computes its widths with tensors.
    device = "cpu" if name.startswith("regnet") else "meta"
    with torch.device(device):
        ours = torchvision_model(name, (3, 224, 224), 1000, **options)
        grey = torchvision_model(name, (1, 224, 224), 7, **options)
        second = torchvision.models.inception.InceptionAux(768, 1000) if name == "inception_v3" else nn.Identity()
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    assert count(ours) + count(second) == published
    first = next(m for m in grey.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == 1
    side = 299 if name == "inception_v3" else 224
    assert grey.eval()(torch.empty(2, 1, side, side, device=device)).shape == (2, 7)


def test_a_replaced_first_layer_is_as_wide_as_it_was() -> None:
    torch.manual_seed(0)
    theirs, ours = torchvision.models.resnet18(), torchvision_model("resnet18", (1, 64, 64), 1000)
    convolution = ours.get_submodule("conv1")
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.std().item() == pytest.approx(theirs.conv1.weight.std().item(), rel=0.05)


@pytest.mark.parametrize(
    ("shape", "stem", "side"),
    [((3, 32, 32), "auto", 4), ((1, 28, 28), "auto", 4), ((3, 224, 224), "auto", 7), ((3, 32, 32), "standard", 1),
     ((3, 64, 64), "small", 8)],
)  # fmt: skip
def test_the_small_stem_leaves_small_pictures_room(shape: tuple[int, int, int], stem: str, side: int) -> None:
    with torch.device("meta"):
        model = resnet(shape, 10, stem=stem)
        seen: list[torch.Size] = []
        handle = model.get_submodule("layer4").register_forward_hook(lambda m, i, o: seen.append(o.shape))
        assert model.eval()(torch.empty(2, *shape)).shape == (2, 10)
        handle.remove()
    assert seen == [(2, 512, side, side)]


def test_the_parameters_of_resnets() -> None:
    with torch.device("meta"):
        for depth in (18, 34, 50):
            theirs = torchvision.models.get_model(f"resnet{depth}", weights=None)
            assert count(resnet((3, 224, 224), 1000, depth)) == count(theirs)
        # The 7×7 convolution of 3 channels becomes 3×3: 64 · 3 · (49 − 9) parameters fewer.
        assert count(resnet((3, 32, 32), 1000)) == count(torchvision.models.resnet18()) - 64 * 3 * 40


def test_a_small_vision_transformer_has_22_million_parameters() -> None:
    with torch.device("meta"):
        assert count(vit_small((3, 224, 224), 1000)) / 1e6 == pytest.approx(22.05, abs=0.02)  # Touvron et al., table 1


@pytest.mark.parametrize(("shape", "patch"), [((1, 28, 28), 4), ((3, 32, 32), 4), ((1, 8, 8), 1), ((3, 224, 224), 16)])
def test_patches_fit_the_picture(shape: tuple[int, int, int], patch: int) -> None:
    with torch.device("meta"):
        model = vit_small(shape, 10, num_layers=1)
        assert model.get_submodule("conv_proj").stride == (patch, patch)  # type: ignore[comparison-overlap]
        assert model(torch.empty(2, *shape)).shape == (2, 10)


def test_wrong_names_and_shapes() -> None:
    with pytest.raises(ConfigError, match=r"no classification model 'resnet19'\n  try: model.name=resnet1"):
        torchvision_model("resnet19", (3, 32, 32), 10)
    with pytest.raises(ConfigError, match=r"model.depth: 20 is not allowed\n  allowed: 18, 34, 50"):
        resnet((3, 32, 32), 10, depth=20)
    with pytest.raises(ConfigError, match="needs square images, and these are 28×32"):
        vit_small((1, 28, 32), 10)
    with pytest.raises(ConfigError, match=r"patch_size: 5 is not allowed\n  allowed: 1, 2, 4, 7, 14, 28"):
        vit_small((1, 28, 28), 10, patch_size=5)
