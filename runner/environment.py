"""What a run is computed with: packages, device, threads, commit."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import torch

from runner.device import describe
from runner.table import Table


def table(device: torch.device, record: Mapping[str, Any]) -> Table:
    """The environment of a run.

    Args:
        record: of the run, with ``versions``, ``git`` and ``threads``; see `runner.result`.
    """
    rows = [[name, version] for name, version in record["versions"].items()]
    rows += [["device", describe(device)], *_card(device)]
    rows += [["threads", f"{record['threads']} of {os.cpu_count()} cores"], ["system", platform.platform()]]
    git = record["git"]
    commit = "none" if git is None else git["commit"] + ("" if git["clean"] else ", with changes")
    return Table("Environment", ["what", "value"], [*rows, ["git commit", commit]])


def _card(device: torch.device) -> list[list[str]]:
    """Of a CUDA card, what this torch has kernels for beside what it can do."""
    if device.type != "cuda":
        return []
    major, minor = torch.cuda.get_device_capability(device)
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return [
        ["compute capability", f"{major}.{minor}, and torch is built for {', '.join(torch.cuda.get_arch_list())}"],
        ["memory of the card", f"{memory:.1f} GiB"],
        ["CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}"],
    ]
