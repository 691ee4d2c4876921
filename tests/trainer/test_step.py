from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import QUICK, Run
from torch import nn
from torch.nn.functional import cross_entropy

from runner.batch import Batch
from runner.loss import Loss, Term
from runner.trainer import step

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
BATCH = Batch(torch.randn(8, 3, 4, 4), torch.arange(8) % 5, torch.arange(8))


def criterion(weight: torch.Tensor | None = None) -> Loss:
    return Loss([Term(nn.CrossEntropyLoss(weight))], "classification", 5)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])])
def test_mixup_is_the_loss_of_mixed_inputs_and_soft_targets(weight: torch.Tensor | None) -> None:
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(0.5, 0.5).sample())
    torch.manual_seed(3)
    loss = criterion(weight)
    found = step.mixup(MODEL, loss, BATCH, alpha=0.5) / loss.weight(BATCH)
    partner = torch.arange(8).roll(1)
    mixed = share * BATCH.input + (1 - share) * BATCH.input[partner]
    # A mixture of one-hot targets, weighted by class and divided by the batch's weight.
    hot = torch.eye(5)[BATCH.target]
    soft = share * hot + (1 - share) * hot[partner]
    if weight is None:
        assert found.item() == pytest.approx(cross_entropy(MODEL(mixed), soft).item(), rel=1e-6)
    else:
        each = -(soft * weight * MODEL(mixed).log_softmax(1)).sum(1)
        assert found.item() == pytest.approx((each.sum() / weight[BATCH.target].sum()).item(), rel=1e-6)


def test_cutmix_pastes_a_rectangle_and_shares_the_loss_by_its_area() -> None:
    seen: list[torch.Tensor] = []

    def looking(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return MODEL(x)

    loss = criterion()
    partner, pasted = torch.arange(8).roll(1), 0
    for seed in range(20):
        torch.manual_seed(seed)
        found = step.cutmix(looking, loss, BATCH)
        own = (seen[-1] == BATCH.input).all(1)  # (B, H, W)
        assert torch.equal(torch.where(own.unsqueeze(1), BATCH.input, BATCH.input[partner]), seen[-1])
        assert (own == own[0]).all()  # one rectangle for the batch
        pasted += int((~own).any())
        kept = own[0].float().mean()
        rows, columns = (~own[0]).any(1), (~own[0]).any(0)
        assert (~own[0]).sum() == rows.sum() * columns.sum()
        output = MODEL(seen[-1])
        expected = kept * cross_entropy(output, BATCH.target, reduction="sum")
        expected += (1 - kept) * cross_entropy(output, BATCH.target[partner], reduction="sum")
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert pasted > 10


def test_two_losses_on_one_graph_have_the_gradient_of_two_backward_passes() -> None:
    loss, model = criterion(), nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    torch.manual_seed(0)
    step.noisy(model, loss, BATCH, std=0.3, scale=0.5).sum().backward()
    together = model[1].weight.grad.clone()
    model.zero_grad()
    torch.manual_seed(0)
    disturbed = BATCH.input + 0.3 * torch.randn_like(BATCH.input)
    loss(model(BATCH.input), BATCH).sum().backward()
    (0.5 * loss(model(disturbed), BATCH)).sum().backward()
    torch.testing.assert_close(model[1].weight.grad, together)


OWN = """
import torch
from torch.nn.functional import cross_entropy

class Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(-3, 3)
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 3)

def mean_loss(model, loss, batch, scale=1.0):
    return scale * cross_entropy(Clamp.apply(model(batch.input)), batch.target)

def plain_clamped(model, loss, batch):
    return loss(Clamp.apply(model(batch.input)), batch)
"""


def test_a_step_of_ones_own_with_an_autograd_function_of_ones_own(run: Run) -> None:
    """A scalar is the mean of its micro-batch: the same as sums that the trainer divides, also by accumulation."""
    Path("my_steps.py").write_text(OWN)
    for name in ("mean_loss", "plain_clamped"):
        options = (f"trainer.step={{_target_:my_steps.{name}}}", "allow_targets=[my_steps.*]", "trainer.accumulate=3")
        assert run(*QUICK, *options, "trainer.max_epochs=1", f"hydra.run.dir={name}") == 0
    states = [
        torch.load(f"{n}/checkpoints/last.pt", weights_only=True)["model"] for n in ("mean_loss", "plain_clamped")
    ]
    for one, other in zip(*(state.values() for state in states), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    import my_steps

    x = torch.randn(6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(my_steps.Clamp.apply, (x,))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "trainer.step={_target_:runner.trainer.step.mixupp}",
            "trainer.step._target_: 'runner.trainer.step.mixupp' cannot be found",
        ),
        (
            "trainer.step={_target_:runner.trainer.step.mixup,beta:1}",
            "trainer.step.beta: runner.trainer.step.mixup has no argument",
        ),
        ("trainer.step={_target_:builtins.eval}", "trainer.step._target_: 'builtins.eval' is blocked for safety"),
        ("trainer.step=mixup", "trainer.step: 'mixup' is not allowed"),
    ],
)
def test_what_is_no_step(run: Run, capsys: pytest.CaptureFixture[str], override: str, message: str) -> None:
    assert run(override) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not Path("outputs").exists()


def test_cutmix_is_for_pictures(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("dataset=iris", "model=mlp", "transform=normalize", "trainer.step={_target_:runner.trainer.step.cutmix}")
        == 2
    )
    assert capsys.readouterr().err.startswith("error: trainer.step: cutmix needs images, but the inputs have shape 4\n")
    assert not Path("outputs").exists()
