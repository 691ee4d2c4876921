from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from runner.batch import Batch
from runner.errors import ConfigError
from runner.loss import Focal, LabelSmoothing, Loss, Term

LOGITS = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
WEIGHTS = torch.tensor([0.2, 0.4, 1.0])
NAN = float("nan")


def batch(target: Tensor, **extra: Tensor) -> Batch:
    return Batch(torch.empty(len(target)), target, torch.arange(len(target)), extra)


def one(criterion: nn.Module, task: str = "classification", outputs: int = 3, **options: Any) -> Loss:
    term = {name: options.pop(name) for name in ("scale", "one_hot") if name in options}
    return Loss([Term(criterion, **term)], task, outputs, **options)


def mean(loss: Loss, output: Tensor, given: Batch | Tensor) -> float:
    given = batch(given) if isinstance(given, Tensor) else given
    return float((loss(output, given) / loss.weight(given)).sum().detach())


@pytest.mark.parametrize(("target", "expected"), [([0, 1, 2], 0.9076), ([0, 0, 1], 1.9076)])
@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_weighted_means_worked_by_hand(criterion: Any, target: list[int], expected: float) -> None:
    # -log softmax of these rows is 2.4076, 1.4076, 0.4076; with targets 0, 1, 2 and these weights:
    # (0.2 · 2.4076 + 0.4 · 1.4076 + 1 · 0.4076) / 1.6 = 0.9076.
    # With targets 0, 0, 1: (0.2 · 2.4076 · 2 + 0.4 · 1.4076) / 0.8 = 1.9076.
    assert mean(one(criterion(weight=WEIGHTS)), LOGITS, torch.tensor(target)) == pytest.approx(expected, abs=5e-5)


def test_the_unreduced_figures_worked_by_hand() -> None:
    loss = one(nn.CrossEntropyLoss(weight=WEIGHTS))
    rows = [float(loss(LOGITS[i : i + 1], batch(torch.tensor([i])))) for i in range(3)]
    assert rows == pytest.approx([0.4815, 0.5630, 0.4076], abs=5e-5)


INDICES = torch.randint(3, (50,), generator=torch.Generator().manual_seed(0))
OUTPUT = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
SOFT = torch.rand(50, 3, generator=torch.Generator().manual_seed(2)).softmax(1)
VALUES = torch.randn(50, 3, generator=torch.Generator().manual_seed(3))
FLAGS = (VALUES > 0).long()


@pytest.mark.parametrize(
    ("criterion", "task", "target", "torchs"),
    [
        (nn.CrossEntropyLoss(), "classification", INDICES, lambda: nn.CrossEntropyLoss()(OUTPUT, INDICES)),
        (
            nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1), "classification", INDICES,
            lambda: nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1)(OUTPUT, INDICES),
        ),
        (
            nn.NLLLoss(WEIGHTS), "classification", INDICES,
            lambda: nn.NLLLoss(WEIGHTS)(OUTPUT.log_softmax(1), INDICES),
        ),
        (Focal(0.0, WEIGHTS), "classification", INDICES, lambda: nn.CrossEntropyLoss(WEIGHTS)(OUTPUT, INDICES)),
        (nn.CrossEntropyLoss(), "soft", SOFT, lambda: nn.CrossEntropyLoss()(OUTPUT, SOFT)),
        (
            nn.KLDivLoss(), "soft", SOFT,
            lambda: nn.KLDivLoss(reduction="batchmean")(OUTPUT.log_softmax(1), SOFT),
        ),
        (nn.KLDivLoss(), "classification", INDICES, lambda: nn.CrossEntropyLoss()(OUTPUT, INDICES)),
        (nn.MSELoss(), "regression", VALUES, lambda: nn.MSELoss()(OUTPUT, VALUES)),
        (nn.L1Loss(), "regression", VALUES, lambda: nn.L1Loss()(OUTPUT, VALUES)),
        (nn.HuberLoss(delta=0.5), "regression", VALUES, lambda: nn.HuberLoss(delta=0.5)(OUTPUT, VALUES)),
        (nn.BCEWithLogitsLoss(), "multilabel", FLAGS, lambda: nn.BCEWithLogitsLoss()(OUTPUT, FLAGS.float())),
        (
            nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), "multilabel", FLAGS,
            lambda: nn.BCEWithLogitsLoss(pos_weight=WEIGHTS)(OUTPUT, FLAGS.float()),
        ),
        (nn.BCELoss(), "multilabel", FLAGS, lambda: nn.BCEWithLogitsLoss()(OUTPUT, FLAGS.float())),
    ],
)  # fmt: skip
def test_the_quotient_is_torchs_own_mean(criterion: nn.Module, task: str, target: Tensor, torchs: Any) -> None:
    assert mean(one(criterion, task), OUTPUT, target) == pytest.approx(float(torchs()), rel=1e-5)


def test_mse_of_classes_is_that_of_their_one_hot_form() -> None:
    expected = nn.MSELoss()(OUTPUT, torch.eye(3)[INDICES])
    loss = one(nn.MSELoss(), one_hot=True)
    assert mean(loss, OUTPUT, INDICES) == pytest.approx(float(expected), rel=1e-5)
    assert not loss.readout.gives_probabilities


def test_distributions_count_with_the_mean_weight_of_their_classes() -> None:
    log_p = OUTPUT.log_softmax(1)
    expected = -(SOFT * WEIGHTS * log_p).sum() / (SOFT * WEIGHTS).sum()
    soft = one(nn.CrossEntropyLoss(WEIGHTS), "soft")
    assert mean(soft, OUTPUT, SOFT) == pytest.approx(float(expected), rel=1e-5)
    hard = mean(one(nn.CrossEntropyLoss(WEIGHTS)), OUTPUT, INDICES)
    assert mean(soft, OUTPUT, torch.eye(3)[INDICES]) == pytest.approx(hard, rel=1e-5)


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
@pytest.mark.parametrize("criterion", [nn.MSELoss, nn.L1Loss, nn.HuberLoss])
def test_one_value_per_sample_is_never_broadcast(criterion: Any, shape: tuple[int, ...]) -> None:
    target = VALUES[:, 0].reshape(shape)
    for output in (target.reshape(50), target.reshape(50, 1)):
        assert mean(one(criterion(), "regression", 1), output, target) == 0  # a perfect prediction


def test_values_are_measured_in_standard_deviations() -> None:
    target = torch.tensor([100.0, 300.0])
    loss = one(nn.MSELoss(), "regression", 1, scaling=(torch.tensor(200.0), torch.tensor(50.0)))
    # (100 − 200) / 50 = −2 and (300 − 200) / 50 = 2.
    assert mean(loss, torch.tensor([[-2.0], [2.0]]), target) == 0
    assert mean(loss, torch.tensor([[0.0], [0.0]]), target) == 4
    assert loss.readout(torch.tensor([-2.0, 2.0])).tolist() == [100, 300]


ALL = [
    (nn.CrossEntropyLoss, "classification", {}), (Focal, "classification", {}), (LabelSmoothing, "classification", {}),
    (nn.NLLLoss, "classification", {}), (nn.KLDivLoss, "classification", {}),
    (nn.MSELoss, "classification", {"one_hot": True}), (nn.MSELoss, "regression", {}), (nn.L1Loss, "regression", {}),
    (nn.HuberLoss, "regression", {}), (nn.BCEWithLogitsLoss, "multilabel", {}), (nn.KLDivLoss, "soft", {}),
    (nn.CrossEntropyLoss, "soft", {}),
]  # fmt: skip
every = pytest.mark.parametrize(("criterion", "task", "options"), ALL)
TARGETS = {"classification": INDICES, "soft": SOFT, "regression": VALUES, "multilabel": FLAGS}


@every
def test_a_mask_leaves_samples_out(criterion: Any, task: str, options: dict[str, Any]) -> None:
    mask = torch.arange(50) % 3 > 0
    loss, target = one(criterion(), task, **options), TARGETS[task]
    broken = target.clone()
    broken[~mask] = NAN if broken.is_floating_point() else -7
    expected = mean(loss, OUTPUT[mask], target[mask])
    assert mean(loss, OUTPUT, batch(broken, mask=mask)) == pytest.approx(expected, rel=1e-5)
    assert loss.kept(batch(broken, mask=mask)).tolist() == mask.tolist()


@every
def test_a_sample_weight_is_as_many_samples(criterion: Any, task: str, options: dict[str, Any]) -> None:
    times = torch.arange(50) % 4
    loss, target = one(criterion(), task, **options), TARGETS[task]
    expected = mean(loss, OUTPUT.repeat_interleave(times, 0), target.repeat_interleave(times, 0))
    assert mean(loss, OUTPUT, batch(target, weight=times.float())) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("criterion", "task", "options"), [row for row in ALL if row[1] != "soft"])
def test_ignored_targets_do_not_count(criterion: Any, task: str, options: dict[str, Any]) -> None:
    left_out = torch.arange(50) % 3 == 0
    target = TARGETS[task].clone()
    expected = mean(one(criterion(), task, **options), OUTPUT[~left_out], target[~left_out])
    target[left_out] = -100
    loss = one(criterion(), task, ignore_index=-100, **options)
    assert mean(loss, OUTPUT, target) == pytest.approx(expected, rel=1e-5)


def test_a_mask_of_single_values() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    target = torch.tensor([[1.0, 2.0, NAN], [3.0, NAN, NAN]])
    loss = one(nn.L1Loss(), "regression")
    output = torch.zeros(2, 3, requires_grad=True)
    given = batch(target, mask=mask)
    total = (loss(output, given) / loss.weight(given)).sum()
    total.backward()
    assert float(total.detach()) == 2  # (1 + 2 + 3) / 3
    assert output.grad is not None
    assert output.grad.isfinite().all()


@every
def test_a_batch_of_nothing_adds_nothing(criterion: Any, task: str, options: dict[str, Any]) -> None:
    loss, given = one(criterion(), task, **options), batch(TARGETS[task], mask=torch.zeros(50))
    output = OUTPUT.clone().requires_grad_()
    total = loss(output, given)
    total.sum().backward()
    assert (total.item(), loss.weight(given).item()) == (0, 0)
    assert output.grad is not None
    assert output.grad.abs().sum() == 0


def test_log_probabilities_pass_as_logits_and_probabilities_are_taken_for_what_they_are() -> None:
    expected = mean(one(nn.CrossEntropyLoss()), OUTPUT, INDICES)
    for criterion in (nn.CrossEntropyLoss, nn.NLLLoss):
        for emits, made in (("log_probabilities", OUTPUT.log_softmax(1)), ("probabilities", OUTPUT.softmax(1))):
            assert mean(one(criterion(), emits=emits), made, INDICES) == pytest.approx(expected, rel=1e-5)
    for emits, made in (("logits", OUTPUT), ("log_probabilities", OUTPUT.log_softmax(1))):
        torch.testing.assert_close(one(nn.NLLLoss(), emits=emits).readout(made).float(), OUTPUT.softmax(1))
    flags = one(nn.BCEWithLogitsLoss(), "multilabel", emits="probabilities")
    assert mean(flags, OUTPUT.sigmoid(), FLAGS) == pytest.approx(
        mean(one(nn.BCEWithLogitsLoss(), "multilabel"), OUTPUT, FLAGS), rel=1e-4
    )


def test_several_losses_are_the_sum_of_their_means() -> None:
    terms = [Term(nn.CrossEntropyLoss(WEIGHTS), 0.5), Term(Focal(2.0), 3.0), Term(nn.KLDivLoss())]
    both = Loss(terms, "classification", 3)
    each = [mean(one(term.criterion), OUTPUT, INDICES) for term in terms]
    assert mean(both, OUTPUT, INDICES) == pytest.approx(0.5 * each[0] + 3.0 * each[1] + each[2], rel=1e-5)


class Asymmetric(nn.Module):
    """A loss of the user's, with a parameter, that returns its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (self.slope * (output - target)).square().mean()


def test_a_loss_of_ones_own_that_returns_a_mean() -> None:
    loss = one(Asymmetric(), "regression")
    assert mean(loss, OUTPUT, VALUES) == pytest.approx(float(4 * (OUTPUT - VALUES).square().mean()), rel=1e-5)
    assert [name for name, _ in loss.named_parameters()] == ["terms.0.criterion.slope"]


class PerSample(nn.Module):
    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        each = (output - target).square().flatten(1).sum(1)
        return {"one": each, "column": each[:, None], "mean": each.mean(), "wrapped": each.mean().reshape(1)}[
            self.shape
        ]


@pytest.mark.parametrize("shape", ["one", "column", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_of_ones_own_of_whole_samples(shape: str, weighted: bool) -> None:
    # Samples of 3 values each: the mean is over the 50 samples, not over the 150 values.
    each = (OUTPUT - VALUES).square().sum(1)
    weight = (torch.arange(50) % 3 > 0).float()
    expected = (each * weight).sum() / weight.sum() if weighted else each.mean()
    loss, given = one(PerSample(shape), "regression"), batch(VALUES, weight=weight) if weighted else batch(VALUES)
    assert mean(loss, OUTPUT, given) == pytest.approx(float(expected), rel=1e-5)


def test_torchs_loss_of_whole_samples() -> None:
    expected = nn.functional.multilabel_soft_margin_loss(OUTPUT, FLAGS)
    assert mean(one(nn.MultiLabelSoftMarginLoss(), "multilabel"), OUTPUT, FLAGS) == pytest.approx(
        float(expected), rel=1e-5
    )


@pytest.mark.parametrize(
    ("shape", "extra", "message"),
    [
        ("mean", {"weight": torch.rand(50)}, "PerSample returns a mean, so samples cannot be weighted"),
        ("one", {"mask": VALUES > 0}, "some values of a sample are masked or weighted differently"),
    ],
)
def test_losses_of_ones_own_that_cannot_be_summed(shape: str, extra: dict[str, Tensor], message: str) -> None:
    loss = one(PerSample(shape), "regression")
    with pytest.raises(ValueError, match=message):
        mean(loss, OUTPUT, batch(VALUES, **extra))


class Made(nn.Module):
    """A loss of the user's that returns what a function makes of output and target."""

    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, output: Tensor, target: Tensor) -> Any:
        return self.make(output, target)


@pytest.mark.parametrize(
    ("task", "target", "make", "shape", "allowed"),
    [
        ("classification", INDICES, lambda o, t: o.softmax(1), "shape (50, 3)", "(50,) or ()"),
        ("classification", INDICES, lambda o, t: o.T, "shape (3, 50)", "(50,) or ()"),
        ("classification", INDICES, lambda o, t: o[:, :1] - t, "shape (50, 50)", "(50,) or ()"),
        ("classification", INDICES, lambda o, t: o.mean().reshape(1), "shape (1,)", "(50,) or ()"),
        ("classification", INDICES, lambda o, t: float(o.mean()), "a float", "(50,) or ()"),
        ("soft", SOFT, lambda o, t: o[:, :2], "shape (50, 2)", "(50, 3), (50,) or ()"),
        ("multilabel", FLAGS, lambda o, t: o[:, :2], "shape (50, 2)", "(50, 3), (50,) or ()"),
        ("regression", VALUES, lambda o, t: o.sum(0), "shape (3,)", "(50, 3), (50,) or ()"),
        ("regression", VALUES[:, 0], lambda o, t: o[:, None] - t, "shape (50, 50)", "(50,) or ()"),
    ],
)
def test_what_no_mean_can_be_taken_of_is_refused(
    task: str, target: Tensor, make: Callable[..., Any], shape: str, allowed: str
) -> None:
    output = OUTPUT[:, 0] if task == "regression" and target.dim() == 1 else OUTPUT
    with pytest.raises(ConfigError) as caught:
        mean(one(Made(make), task), output, target)
    assert str(caught.value) == (
        f"loss: Made returns {shape} for targets of shape {tuple(target.shape)}\n"
        f"  allowed: one value per target, one per sample, or their mean: {allowed}"
    )


PIXELS = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(4))
PIXEL_CLASSES = torch.randint(3, (4, 5, 6), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("shape", ["each", "with a channel", "samples", "mean"])
def test_a_loss_of_ones_own_of_pixels(shape: str) -> None:
    def make(output: Tensor, target: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(output, target, reduction="none")
        by_sample = each.flatten(1).mean(1)
        return {"each": each, "with a channel": each[:, None], "samples": by_sample, "mean": each.mean()}[shape]

    expected = nn.functional.cross_entropy(PIXELS, PIXEL_CLASSES)
    assert mean(one(Made(make)), PIXELS, PIXEL_CLASSES) == pytest.approx(float(expected), rel=1e-5)


def test_values_of_each_class_are_one_per_target_where_the_targets_are_distributions() -> None:
    loss = one(Made(lambda output, target: (output - target).abs()), "soft")
    assert mean(loss, OUTPUT, SOFT) == pytest.approx(float((OUTPUT - SOFT).abs().mean()), rel=1e-5)


@pytest.mark.parametrize("criterion", [nn.MSELoss, nn.L1Loss, nn.HuberLoss])
def test_values_of_distributions_are_averaged_over_all_of_them(criterion: Any) -> None:
    loss = one(criterion(), "soft")
    assert mean(loss, OUTPUT, SOFT) == pytest.approx(float(criterion()(OUTPUT, SOFT)), rel=1e-5)
    weight = torch.arange(50) % 4
    repeated = float(criterion()(OUTPUT.repeat_interleave(weight, 0), SOFT.repeat_interleave(weight, 0)))
    assert mean(loss, OUTPUT, batch(SOFT, weight=weight.float())) == pytest.approx(repeated, rel=1e-5)


@pytest.mark.parametrize(("task", "target"), [("soft", SOFT), ("classification", INDICES)])
def test_kl_div_of_logarithms_gets_logarithms(task: str, target: Tensor) -> None:
    plain, logs = (mean(one(nn.KLDivLoss(log_target=flag), task), OUTPUT, target) for flag in (False, True))
    assert logs == pytest.approx(plain, rel=1e-4)


def test_weights_do_not_decide_what_is_measured() -> None:
    loss = one(nn.CrossEntropyLoss(), ignore_index=2)
    given = batch(torch.tensor([0, 2, 1]), weight=torch.tensor([0.0, 1.0, 1.0]))
    assert loss.kept(given).tolist() == [True, False, True]


def test_weights_move_with_the_module_and_are_saved() -> None:
    loss = one(nn.CrossEntropyLoss(weight=WEIGHTS))
    assert set(loss.state_dict()) == {"mean", "std", "terms.0.criterion.weight"}
    assert loss.class_weights is not None
    assert loss.double().class_weights.dtype == torch.float64


@pytest.mark.parametrize(
    ("criterion", "task", "message"),
    [
        (
            nn.CrossEntropyLoss,
            "regression",
            "takes class indices or class probabilities, but the targets are continuous values",
        ),
        (
            nn.CrossEntropyLoss,
            "multilabel",
            r"are 0/1 per class \(multi-label\)\n  try: loss=bce metric=multilabel",
        ),
        (nn.MSELoss, "classification", r"MSELoss takes .*\n  try: loss=cross_entropy, or loss.one_hot=true"),
        (nn.L1Loss, "multilabel", "L1Loss takes continuous values"),
        (nn.BCEWithLogitsLoss, "classification", r"try: loss=cross_entropy"),
        (nn.BCEWithLogitsLoss, "regression", r"try: loss=mse metric=regression"),
        (nn.NLLLoss, "soft", "try: loss=kl_div"),
        (nn.KLDivLoss, "regression", "KLDivLoss takes class probabilities"),
    ],
)
def test_targets_that_a_loss_does_not_take(criterion: Any, task: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        one(criterion(), task)


def test_what_cannot_be_converted_or_one_hot() -> None:
    said = r"model\.output: 'values', but CrossEntropyLoss takes logits\n  allowed: logits, .*\n  try: model.output=nu"
    with pytest.raises(ConfigError, match=said):
        one(nn.CrossEntropyLoss(), emits="values")
    said = r"model\.output: 'logits', but MSELoss takes values\n  allowed: values\n  try: model.output=values"
    with pytest.raises(ConfigError, match=said):
        one(nn.MSELoss(), one_hot=True, emits="logits")
    said = r"'logits' \(the default here\), but MSELoss takes values\n  .*\n  try: loss.terms that all take values"
    with pytest.raises(ConfigError, match=said):
        Loss([Term(nn.CrossEntropyLoss()), Term(nn.MSELoss(), one_hot=True)], num_outputs=3)
    with pytest.raises(ConfigError, match=r"loss\.one_hot: true needs class indices as targets and a regression loss"):
        one(nn.CrossEntropyLoss(), one_hot=True)


@pytest.mark.parametrize(
    ("task", "target", "output", "message"),
    [
        (
            "classification",
            INDICES,
            OUTPUT[:, :2],
            r"returns shape \(50, 2\) for targets of .*\n  allowed: \(50, 3\)\n  try: .*num_o",
        ),
        ("classification", INDICES, OUTPUT[:, 0], r"returns shape \(50,\) for targets of"),
        ("multilabel", FLAGS, OUTPUT[:, :2], r"allowed: \(50, 3\)"),
        ("regression", VALUES[:, 0], OUTPUT, r"allowed: \(50,\) or \(50, 1\)"),
        ("classification", INDICES, (OUTPUT, OUTPUT), "returns a tuple"),
        (
            "classification",
            INDICES,
            OUTPUT.softmax(1),
            r"are already probabilities, .* softmax again\n.*\n  try: model.output=probab",
        ),
    ],
)
def test_outputs_that_do_not_fit(task: str, target: Tensor, output: Any, message: str) -> None:
    loss = one({"multilabel": nn.BCEWithLogitsLoss, "regression": nn.MSELoss}.get(task, nn.CrossEntropyLoss)(), task)
    with pytest.raises(ConfigError, match=message):
        loss.check(output, batch(target))


@settings(deadline=None)
@given(
    cuts=st.lists(st.integers(1, 49), max_size=8),
    row=st.sampled_from(ALL),
    weighted=st.booleans(),
    masked=st.booleans(),
)
def test_any_partition_of_the_samples_has_the_same_mean(
    cuts: list[int], row: tuple[Any, str, dict[str, Any]], weighted: bool, masked: bool
) -> None:
    criterion, task, options = row
    has_weight = criterion in (nn.CrossEntropyLoss, nn.NLLLoss, Focal, LabelSmoothing)
    loss = one(criterion(weight=WEIGHTS) if weighted and has_weight else criterion(), task, **options).double()
    target = TARGETS[task].double() if TARGETS[task].is_floating_point() else TARGETS[task]
    mask = torch.arange(50) % 5 > 0
    edges = sorted({0, 50, *cuts})
    totals, weights = [], []
    for first, last in pairwise(edges):
        rows = slice(first, last)
        part = batch(target[rows], mask=mask[rows]) if masked else batch(target[rows])
        totals.append(loss(OUTPUT.double()[rows], part))
        weights.append(loss.weight(part).double())
    whole = mean(loss, OUTPUT.double(), batch(target, mask=mask) if masked else batch(target))
    assert float(sum(totals) / sum(weights)) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(
    ("task", "emits", "output", "message"),
    [
        (
            "classification",
            "probabilities",
            OUTPUT,
            "'probabilities', but the outputs of the first batch are not probabilities",
        ),
        ("classification", "log_probabilities", OUTPUT.softmax(1), r"try: model.output=probabilities"),
        ("multilabel", None, OUTPUT.sigmoid(), "the loss would apply sigmoid again"),
        ("multilabel", "probabilities", OUTPUT, r"try: model.output=logits"),
    ],
)
def test_what_the_configuration_says_of_outputs_is_compared(
    task: str, emits: str | None, output: Tensor, message: str
) -> None:
    criterion = nn.BCEWithLogitsLoss() if task == "multilabel" else nn.CrossEntropyLoss()
    with pytest.raises(ConfigError, match=message):
        one(criterion, task, emits=emits).check(output, batch(TARGETS[task]))


def test_who_says_that_they_are_logits_is_believed() -> None:
    one(nn.CrossEntropyLoss(), emits="logits").check(OUTPUT.softmax(1), batch(INDICES))


def test_one_value_for_each_sample_may_come_without_a_dimension_of_its_own() -> None:
    loss = one(nn.MSELoss(), "regression", 1)
    for output in (VALUES[:, 0], VALUES[:, :1]):
        loss.check(output, batch(VALUES[:, 1]))
        assert mean(loss, output, VALUES[:, 1]) == pytest.approx(float((VALUES[:, 0] - VALUES[:, 1]).square().mean()))
