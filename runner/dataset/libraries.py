"""Data sets of libraries: scikit-learn's, which need no download; and torchvision's, each with its official parts, read
into memory as they are stored where that is possible."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from runner.dataset.tensors import ArrayDataset, Parts, as_input, as_targets
from runner.errors import ConfigError, DataError, Problem, nearest, reason_of
from runner.files import typed
from runner.visible import log

EXPECTED = {
    "MNIST": "MNIST/raw/train-images-idx3-ubyte[.gz]",
    "FashionMNIST": "FashionMNIST/raw/train-images-idx3-ubyte[.gz]",
    "KMNIST": "KMNIST/raw/train-images-idx3-ubyte[.gz]",
    "EMNIST": "EMNIST/raw/emnist-<split>-train-images-idx3-ubyte[.gz]",
    "QMNIST": "QMNIST/raw/qmnist-train-labels-idx2-int",
    "USPS": "usps.bz2 and usps.t.bz2",
    "CIFAR10": "cifar-10-batches-py/data_batch_1",
    "CIFAR100": "cifar-100-python/train",
    "SVHN": "train_32x32.mat and test_32x32.mat",
    "STL10": "stl10_binary/train_X.bin",
    "SEMEION": "semeion.data",
    "Omniglot": "omniglot-py/images_background/",
    "EuroSAT": "eurosat/2750/",
    "GTSRB": "gtsrb/GTSRB/Training/",
    "Flowers102": "flowers-102/jpg/",
    "OxfordIIITPet": "oxford-iiit-pet/images/",
    "Food101": "food-101/images/",
    "LSUN": "<class>_train_lmdb/",
    "ImageNet": "ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
}
"""Where under its root torchvision looks for a data set."""


def torchvision_dataset(
    name: str, root: str, download: bool = False,
    parts: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] | None = None, transform: Any = None,
    target_transform: Any = None, **options: Any,
) -> Parts:  # fmt: skip
    """A data set of torchvision's, by the name of its class.

    Args:
        name: such as ``CIFAR10``.
        root: folder that the files are in, or go to.
        download: fetch what is missing; else it is an error. Files that are there are used without a network.
        parts: for each of ``train``, ``val`` and ``test`` that the data set has, the arguments that choose it, such as
            ``{"train": {"train": true}, "test": {"train": false}}``; several sets of arguments are joined.
        transform, target_transform: applied to each sample; with a transform the pictures are not held as stored.
        options: other arguments of the class.

    Raises:
        ConfigError: torchvision has no such data set.
        DataError: files are missing or damaged; says which, where, and how to get them.
    """
    from torchvision import datasets  # which takes as long as torch itself, and not every run needs it

    kind = getattr(datasets, name, None)
    if kind is None:
        remedy = nearest(name, datasets.__all__, "dataset.name=")
        raise ConfigError(Problem("dataset.name", f"torchvision has no data set {name!r}", remedy=remedy))
    options |= {"transform": transform, "target_transform": target_transform}
    if download:  # which not every class knows; of those that do, none does it unasked
        options["download"] = True
    place = typed(root)
    made = {}
    for part, chosen in (parts or {"train": {}}).items():
        choices = [chosen] if isinstance(chosen, Mapping) else chosen
        sources = [_open(kind, name, place, {**options, **choice}) for choice in choices]
        made[part] = _in_memory(sources)
    return Parts(**made)


def _open(kind: Any, name: str, root: Path, options: Mapping[str, Any]) -> Any:
    from torchvision.datasets import MNIST

    accepted = {key: value for key, value in options.items() if value is not None}
    try:
        source = (_with_gz(kind) if issubclass(kind, MNIST) and name != "QMNIST" else kind)(str(root), **accepted)
        if name == "LSUN":  # it knows where each class ends, and else the class of a picture that it has decoded
            source.classes = [name.rpartition("_")[0] or name for name in source.classes]  # bedroom_train, bedroom_val
            source.targets = np.repeat(np.arange(len(source.indices)), np.diff([0, *source.indices]))
        return source
    except ModuleNotFoundError as error:
        what = f"{name} needs {error.name}, which is not installed"
        raise DataError(Problem("dataset", what, remedy=f"uv pip install {error.name}")) from error
    except Exception as error:  # whatever torchvision and the many libraries that it reads files with may raise
        log.debug("", exc_info=True)
        reason = reason_of(error).partition(" You can use download=True")[0]  # which cannot be typed here
        where = root / EXPECTED.get(name, "")
        what = f"{name} cannot be read: {reason.rstrip('.')} (looked for {where})"
        remedy = "dataset.download=true, or dataset.root=FOLDER, which has the files"
        if name in ("ImageNet", "LSUN"):
            remedy = "download the files from the website of the data set, and set dataset.root"
        raise DataError(Problem("dataset.root", what, remedy=remedy)) from error


def _with_gz(kind: Any) -> Any:
    """MNIST and its kin, reading the published .gz files where they were not extracted (a root may be read-only)."""

    class Reading(kind):  # type: ignore[misc]
        def _names(self) -> tuple[Path, Path]:
            if hasattr(self, "images_file"):  # EMNIST
                return Path(self.images_file), Path(self.labels_file)
            stem = Path(self.raw_folder) / ("train" if self.train else "t10k")
            return Path(f"{stem}-images-idx3-ubyte"), Path(f"{stem}-labels-idx1-ubyte")

        def _check_exists(self) -> bool:
            return all(path.is_file() or _gz(path).is_file() for path in self._names())

        def _load_data(self) -> tuple[Tensor, Tensor]:
            images, labels = (_read_idx(path) for path in self._names())
            return images, labels.long()

    Reading.__name__ = kind.__name__  # the folder under the root is named after the class
    return Reading


def _gz(path: Path) -> Path:
    return path.with_name(path.name + ".gz")


def _read_idx(path: Path) -> Tensor:
    """An uint8 IDX file: a magic number, the size of each dimension as big-endian int32, the bytes.

    Read into the tensor's own memory: a data set of 47 MB costs 47 MB.
    """
    with path.open("rb") if path.is_file() else gzip.open(_gz(path)) as file:
        head = file.read(4)
        if head[:3] != b"\0\0\x08":
            raise ValueError(f"{path} is not an IDX file of bytes")
        shape = np.frombuffer(file.read(4 * head[3]), ">i4").tolist()
        data = torch.empty(shape, dtype=torch.uint8)
        view = memoryview(data.view(-1).numpy())  # type: ignore[arg-type]
        done = 0
        while count := file.readinto(view[done : done + 2**20]):  # a whole .gz at once would be held twice
            done += count
    if done != data.numel():
        raise ValueError(f"{path} ends after {done:,} of {data.numel():,} bytes")
    return data


def _in_memory(sources: Sequence[Any]) -> Dataset[Any]:
    """The pictures as they are stored, where torchvision holds them as one array; else the data set itself."""
    held = [array for source in sources if (array := _arrays(source)) is not None]
    if len(held) < len(sources):
        return sources[0] if len(sources) == 1 else ConcatDataset(sources)
    if len(held) == 1:
        return held[0]
    inputs, targets = torch.cat([a.inputs for a in held]), torch.cat([a.targets for a in held])
    return ArrayDataset(inputs, targets, held[0].classes)


def _arrays(source: Any) -> ArrayDataset | None:
    pictures = getattr(source, "data", None)
    targets = getattr(source, "targets", getattr(source, "labels", None))
    if pictures is None or targets is None or (source.transform, source.target_transform) != (None, None):
        return None
    pictures = pictures if isinstance(pictures, Tensor) else torch.from_numpy(np.ascontiguousarray(pictures))
    if pictures.dim() == 3:
        pictures = pictures.unsqueeze(1)  # grey
    elif pictures.shape[3] == 3:
        pictures = pictures.permute(0, 3, 1, 2).contiguous()  # CIFAR's arrays are height × width × channel
    targets = torch.as_tensor(np.asarray(targets)).long()
    if targets.dim() == 2:
        targets = targets[:, 0].contiguous()  # QMNIST: the class, and seven columns about who wrote it
    classes = getattr(source, "classes", None) or [str(number) for number in range(int(targets.max()) + 1)]
    return ArrayDataset(pictures, targets, classes)


def digits() -> ArrayDataset:
    """scikit-learn's bundled scans of handwritten digits: 1,797 pictures of 1×8×8 with 17 grey levels, 10 classes.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)  # (N, 1, 8, 8), grey levels 0 … 16
    return ArrayDataset(inputs, torch.from_numpy(bunch.target).long(), bunch.target_names)


def iris() -> ArrayDataset:
    """150 irises, 4 measures in cm, 3 species (Fisher, 1936)."""
    return _table("iris")


def wine() -> ArrayDataset:
    """178 wines, 13 chemical measures, 3 cultivars (Aeberhard and Forina, UCI, 1991)."""
    return _table("wine")


def breast_cancer() -> ArrayDataset:
    """569 breast masses, 30 measures of cell nuclei, malignant or benign (Wolberg et al., UCI, 1995)."""
    return _table("breast_cancer")


def diabetes() -> ArrayDataset:
    """442 patients, 10 standardised measures; the target is the disease's progression after a year, a value from 25 to
    346 (Efron et al., 2004)."""
    return _table("diabetes")


def synthetic(
    size: int = 1000, image_size: tuple[int, int, int] = (3, 32, 32), num_classes: int = 10, seed: int = 0
) -> ArrayDataset:
    """Random pictures with random classes, by torchvision's `FakeData`: nothing to learn, everything to try.

    Args:
        image_size: (C, H, W).
        seed: which pictures; `FakeData`'s ``random_offset``.
    """
    from torchvision.datasets import FakeData

    fake = FakeData(size, tuple(image_size), num_classes, random_offset=seed)
    pictures, targets = zip(*((as_input(picture), int(target)) for picture, target in fake), strict=True)
    return ArrayDataset(torch.stack(pictures), torch.tensor(targets), [str(n) for n in range(num_classes)])


def _table(name: str) -> ArrayDataset:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    made = ArrayDataset(torch.from_numpy(bunch.data), as_targets(bunch.target), bunch.get("target_names", ()))
    made.was_float32 = True
    return made
