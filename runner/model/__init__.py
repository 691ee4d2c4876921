"""Models: networks for small inputs, torchvision's fitted to the data, and what is done to a model before training.

Any `torch.nn.Module` can be named by ``_target_``; the input's shape and the number of outputs come from `facts`.
"""

from runner.model.nets import CNN, MLP, LeNet, Linear, Networks, WideResNet
from runner.model.parameters import Frozen, initialise
from runner.model.vision import resnet, vit_small
from runner.model.vision import torchvision_model as torchvision
from runner.model.weights import load, unsaved

__all__ = [
    "CNN", "MLP", "Frozen", "LeNet", "Linear", "Networks", "WideResNet", "initialise", "load", "resnet", "torchvision",
    "unsaved", "vit_small",
]  # fmt: skip
