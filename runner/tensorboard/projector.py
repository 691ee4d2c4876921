"""Points for TensorBoard's projector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor

from runner.files import png, write

CONFIG = "projector_config.pbtxt"


def place(
    folder: Path, name: str, points: NDArray[Any], columns: Mapping[str, Sequence[Any]], sprites: Tensor | None = None
) -> None:
    """Put points into the projector of a run.

    Args:
        folder: the run's ``tensorboard`` folder.
        name: of the embedding.
        points: (N, D)
        columns: what is known of each point, N values a column.
        sprites: (3, n · side, n · side) uint8, a picture of each point, with n of `sprite_columns`.
    """
    inside = folder / "projector"
    vectors = StringIO()
    np.savetxt(vectors, points, delimiter="\t", fmt="%.6g")
    write(inside / "vectors.tsv", vectors.getvalue().encode())
    rows = ["\t".join(columns), *("\t".join(map(_field, row)) for row in zip(*columns.values(), strict=True))]
    write(inside / "metadata.tsv", ("\n".join(rows) + "\n").encode())
    config = ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = name
    embedding.tensor_path, embedding.metadata_path = "projector/vectors.tsv", "projector/metadata.tsv"
    if sprites is not None:
        write(inside / "sprites.png", png(sprites))
        embedding.sprite.image_path = "projector/sprites.png"
        side = sprites.shape[2] // sprite_columns(len(points))
        embedding.sprite.single_image_dim.extend([side, side])
    write(folder / CONFIG, text_format.MessageToString(config).encode())


def sprite_columns(points: int) -> int:
    """Pictures in a row of a sprite, which has as many rows."""
    return int(np.ceil(np.sqrt(points)))


def _field(value: Any) -> str:
    return " ".join(str(value).split())  # a tab or a line break would begin another
