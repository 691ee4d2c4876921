"""TensorBoard: the curves, tables and pictures of a run."""

from runner.tensorboard.board import Board

__all__ = ["Board"]
