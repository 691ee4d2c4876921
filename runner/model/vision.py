"""torchvision's classification models, fitted to the data: its channels, and what has to come out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from runner.errors import ConfigError, Problem, nearest

SMALL = 64
"""Pictures with fewer pixels on their shorter side are too small to be halved by the first layers."""


def torchvision_model(name: str, input_shape: Sequence[int], num_outputs: int, **options: Any) -> nn.Module:
    """Any of torchvision's classification models, by name, without trained weights.

    Args:
        name: such as ``efficientnet_b0``; see `torchvision.models.list_models`.
        input_shape: (C, H, W) of one sample.
        num_outputs: width of the last layer.
        options: other arguments of the model's builder.

    Raises:
        ConfigError: torchvision has no such model.
    """
    from torchvision import models  # which takes as long as torch itself, and not every run needs it

    names = models.list_models(module=models)
    if name not in names:
        remedy = nearest(name, names, "model.name=")
        raise ConfigError(Problem("model.name", f"torchvision has no classification model {name!r}", remedy=remedy))
    if name in ("googlenet", "inception_v3"):
        # Their auxiliary classifiers make a second output in training; and without weights they warn of a slow start.
        options = {"aux_logits": False, "init_weights": True, **options}
    model = models.get_model(name, weights=None, num_classes=num_outputs, **options)
    return _fit_channels(model, input_shape[0])


def resnet(
    input_shape: Sequence[int], num_outputs: int, depth: int = 18, stem: str = "auto", **options: Any
) -> nn.Module:
    """torchvision's ResNet (He et al., "Deep Residual Learning", 2016).

    Args:
        input_shape: (C, H, W) of one sample.
        num_outputs: width of the last layer.
        depth: 18, 34, 50, 101 or 152.
        stem: ``standard`` (a 7×7 convolution and a pooling, each of which halves the picture); ``small`` (one 3×3
            convolution, which leaves pictures of 28×28 or 32×32 as they are); ``auto``: small below 64 pixels.

    Raises:
        ConfigError: another depth or stem.
    """
    _check("model.depth", depth, (18, 34, 50, 101, 152))
    _check("model.stem", stem, ("auto", "small", "standard"))
    model = torchvision_model(f"resnet{depth}", input_shape, num_outputs, **options)
    if stem == "small" or (stem == "auto" and min(input_shape[1:]) < SMALL):
        model.conv1 = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
        model.maxpool = nn.Identity()
    return model


def vit_small(input_shape: Sequence[int], num_outputs: int, patch_size: int | None = None, **options: Any) -> nn.Module:
    """torchvision's vision transformer in the size ViT-S (Dosovitskiy et al., 2021; Touvron et al., 2021, table 1): 12
    layers, 384 wide, 6 heads.

    Args:
        input_shape: (C, H, W) of one sample; H and W are the same.
        num_outputs: width of the last layer.
        patch_size: side of a patch in pixels, a divisor of H; None for the one that makes about 8×8 patches of a small
            picture, and 16 from 128 pixels on.

    Raises:
        ConfigError: pictures that are not square, or a patch size that does not divide them.
    """
    from torchvision.models import VisionTransformer

    channels, height, width = input_shape
    if height != width:
        what = f"a vision transformer needs square images, and these are {height}×{width}"
        side = min(height, width)
        remedy = f'transform=resize, "dataset.size=[{side},{side}]" for an image folder, or model=resnet'
        raise ConfigError(Problem("model", what, "height = width", remedy))
    divisors = [side for side in range(1, height + 1) if height % side == 0]
    wanted = 16 if height >= 128 else height / 8
    side = min(divisors, key=lambda divisor: abs(divisor - wanted)) if patch_size is None else patch_size
    _check("model.patch_size", side, divisors)
    settings = {"num_layers": 12, "num_heads": 6, "hidden_dim": 384, "mlp_dim": 1536, **options}
    model = VisionTransformer(height, side, num_classes=num_outputs, **settings)
    return _fit_channels(model, channels)


def _fit_channels(model: nn.Module, channels: int) -> nn.Module:
    """Let the first convolution take `channels` instead of 3."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != channels:
                kept = {key: getattr(module, key) for key in inspect.signature(nn.Conv2d).parameters if key not in OWN}
                parent, _, attribute = name.rpartition(".")
                made = nn.Conv2d(channels, bias=module.bias is not None, **kept)
                with torch.no_grad():  # as wide as the one it replaces
                    made.weight.copy_(torch.randn_like(made.weight) * module.weight.std())
                setattr(model.get_submodule(parent), attribute, made)
                if hasattr(model, "transform_input"):  # Inception's, of the three channels of ImageNet
                    vars(model)["transform_input"] = False
            break
    return model


OWN = ("in_channels", "bias", "device", "dtype")


def _check(key: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise ConfigError(Problem(key, f"{value!r} is not allowed", ", ".join(map(str, allowed))))
