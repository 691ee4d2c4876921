"""Splits: which samples are for training, for choosing (val) and for the one look at the end (test).

An option of the `split` group names a function of a `Subject` that returns a `Split`. A part that the data set comes
with stays what it is; only the others are carved out of its train part.
"""

from runner.split.methods import (
    group_kfold,
    kfold,
    predefined,
    random,
    stratified,
    stratified_group_kfold,
    stratified_kfold,
    time_ordered,
)
from runner.split.split import Split, Subject, check, check_classes, load

__all__ = [
    "Split", "Subject", "check", "check_classes", "group_kfold", "kfold", "load", "predefined", "random", "stratified",
    "stratified_group_kfold", "stratified_kfold", "time_ordered",
]  # fmt: skip
