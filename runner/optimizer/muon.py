"""Muon for matrices with AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """torch's Muon for parameters that are matrices, torch's AdamW for all others: vectors, convolutions.

    Muon orthogonalises the update of a matrix (Jordan et al., "Muon: An optimizer for hidden layers in neural
    networks", 2024) and takes nothing else. Its authors leave embeddings and the last layer to AdamW, too: a group of
    parameters may say so with ``muon: false``. With ``adjust_lr_fn="match_rms_adamw"`` (Liu et al., "Muon is Scalable
    for LLM Training", 2025, eq. 4) one learning rate serves both.

    Args:
        params: parameters or groups. A group in which there are both kinds is made two.
        lr, weight_decay, eps: of both.
        momentum, nesterov, ns_coefficients, ns_steps, adjust_lr_fn: Muon's.
        betas, fused: AdamW's.
        muon: whether matrices go to Muon.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: bool = True,
        ns_coefficients: Sequence[float] = (3.4445, -4.7750, 2.0315), ns_steps: int = 5,
        adjust_lr_fn: str | None = "match_rms_adamw", betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8,
        fused: bool | None = None, muon: bool = True,
    ) -> None:  # fmt: skip
        if not isinstance(muon, bool):
            raise ValueError(f"muon is {muon!r}, but must be true or false")
        if not 0 < ns_steps < 100:
            raise ValueError(f"ns_steps is {ns_steps}, but must be from 1 to 99")
        a, b, c = ns_coefficients
        # Each begins with a tensor of no use, for neither may be built empty. Their groups are given to them in `step`.
        self._muon = Muon(
            [torch.zeros(1, 1)], lr, weight_decay, momentum, nesterov, (a, b, c), eps, ns_steps, adjust_lr_fn
        )
        self._adamw = AdamW([torch.zeros(1)], lr, (betas[0], betas[1]), eps, weight_decay, fused=fused)
        super().__init__(params, {**self._adamw.defaults, **self._muon.defaults, "muon": muon})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as two if it has matrices and others."""
        params = param_group["params"]
        listed = [params] if isinstance(params, Tensor) else list(params)
        wanted, name = param_group.get("muon", self.defaults["muon"]), param_group.get("name")
        for kind in (True, False):
            some = [p for p in listed if (wanted and _tensor(p).dim() == 2) is kind]
            if some:
                named = {} if name is None else {"name": f"{name}, {'Muon' if kind else 'AdamW'}"}
                super().add_param_group({**param_group, **named, "params": some, "muon": kind})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all groups."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kind, part in ((True, self._muon), (False, self._adamw)):
            # Anew each time: loading a state dict replaces both.
            part.param_groups = [group for group in self.param_groups if group["muon"] is kind]
            part.state = self.state
            part.step()  # type: ignore[no-untyped-call]
        return loss


def _tensor(param: Any) -> Tensor:
    tensor: Tensor = param[1] if isinstance(param, tuple) else param
    return tensor
