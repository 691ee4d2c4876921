"""Data sets: what an option of the `dataset` group returns, and how the rest of the run reads it.

An option names a map-style `torch.utils.data.Dataset`, or `Parts` where a data set comes with parts of its own. What
can be held in memory is an `ArrayDataset`, kept as it is stored. A sample is ``(input, target)``, ``(input, target,
anything)`` or a dict; `Samples` reads them all in one way.
"""

from runner.dataset.arrays import ArrayDataset, Parts
from runner.dataset.bundled import breast_cancer, diabetes, digits, iris, synthetic, wine
from runner.dataset.pictures import image_folder
from runner.dataset.samples import Samples, facts, read
from runner.dataset.table import table
from runner.dataset.vision import torchvision_dataset as torchvision

__all__ = [
    "ArrayDataset",
    "Parts",
    "Samples",
    "breast_cancer",
    "diabetes",
    "digits",
    "facts",
    "image_folder",
    "iris",
    "read",
    "synthetic",
    "table",
    "torchvision",
    "wine",
]
