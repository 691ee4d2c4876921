"""What users switch on in the loop, in whole runs and against closed forms."""

from __future__ import annotations

import copy
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    QUICK,
    Run,
    composed,
    only_run,
    own_model,
    records_of,
    result_of,
    same_tensors,
    stopping,
    weights_of,
)
from torch import nn
from torch.nn.functional import cross_entropy

from runner import config, overfit
from runner import trainer as trainers
from runner.batch import Batch
from runner.loss import Loss, Term
from runner.scheduler import Schedule
from runner.trainer import Trainer
from runner.trainer.nonfinite import Latch, NonFinite, describe
from runner.trainer.precision import Precision, wants_channels_last
from runner.trainer.progress import Limits
from runner.updates import limits_of

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
INPUTS, TARGETS = torch.randn(40, 6, generator=GENERATOR), torch.randint(3, (40,), generator=GENERATOR)
BATCHES = [Batch(INPUTS[r], TARGETS[r], r) for r in torch.arange(40).split(8)]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def made(model: nn.Module, **options: Any) -> Trainer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss = Loss([Term(nn.CrossEntropyLoss())], "classification", 3)
    schedule = Schedule(optimizer, None, 0.1)
    return Trainer(model, loss, optimizer, schedule, None, lambda m: {}, lambda a, b: False, Limits(), device=CPU,  # type: ignore[arg-type]
                   seed=0, **options)  # fmt: skip


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 0.3}, {"clip_value": 0.02}, {"clip_norm": 0.1, "clip_value": 0.05}])
def test_steps_are_those_of_a_loop_by_hand_bit_for_bit(clip: dict[str, float]) -> None:
    model, by_hand = network(), network()
    trainer, optimizer = made(model, **clip), torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        trainer.step([batch])
        # The mean as the trainer takes it: a sum, of which the slope is divided.
        total = cross_entropy(by_hand(batch.input), batch.target, reduction="none").sum()
        total.backward(torch.tensor(8.0).reciprocal())
        if "clip_value" in clip:
            nn.utils.clip_grad_value_(by_hand.parameters(), clip["clip_value"])
        if "clip_norm" in clip:
            nn.utils.clip_grad_norm_(by_hand.parameters(), clip["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True))


class TestAverage:
    def test_against_the_closed_form(self) -> None:
        """After n updates: decay^(n-1) of the first weights, and (1 - decay) decay^(n-k) of the k-th."""
        model, decay = network(), 0.7
        trainer = made(model, ema=decay)
        seen = []
        for batch in BATCHES:
            trainer.step([batch])
            seen.append(copy.deepcopy(model.state_dict()))
        shares = [decay**4, *((1 - decay) * decay ** (4 - k) for k in range(1, 5))]
        assert sum(shares) == pytest.approx(1)
        for name, value in trainer.weights.state_dict().items():
            if value.is_floating_point():  # the statistics of BatchNorm among them
                expected = sum(share * state[name] for share, state in zip(shares, seen, strict=True))
                torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)

    def test_it_is_what_is_evaluated_kept_and_tested(self, run: Run, digits: Path) -> None:
        assert run(*QUICK, "trainer.ema=0.9") == 0
        state = torch.load(only_run() / "checkpoints/best.pt", weights_only=True)
        plain = torch.load(digits / "checkpoints/best.pt", weights_only=True)
        assert plain["ema"] is None
        assert all(torch.equal(a, b) for a, b in zip(state["model"].values(), plain["model"].values(), strict=True))
        assert not torch.equal(state["ema"]["1.weight"], state["model"]["1.weight"])
        assert [r["train/loss"] for r in records_of(only_run())] == [r["train/loss"] for r in records_of(digits)]
        assert records_of(only_run())[-1]["val/loss"] != records_of(digits)[-1]["val/loss"]
        assert result_of(only_run())["metrics"]["val/loss"] == pytest.approx(records_of(only_run())[-1]["val/loss"])


class TestNonFinite:
    def test_a_planted_nan_stops_before_the_update_and_names_layer_and_samples(self) -> None:
        model = network()
        trainer = made(model)
        trainer.step([BATCHES[0]])
        before = copy.deepcopy(model.state_dict())
        planted = BATCHES[1].rows(slice(None))
        planted.input = planted.input.clone()
        planted.input[[2, 5], 1] = float("nan")
        with pytest.raises(NonFinite, match=r"at step 1 of epoch 1: first in the input; samples 10, 13\n  try: "):
            trainer.step([planted])
        assert all(torch.equal(model.state_dict()[n], before[n]) for n, p in model.named_parameters())

    def test_the_first_layer_is_named_where_the_inputs_are_right(self) -> None:
        class Root(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.sqrt()

        model = nn.Sequential(nn.Identity(), Root(), nn.Linear(6, 3))
        loss = Loss([Term(nn.CrossEntropyLoss())], "classification", 3)
        batch = Batch(INPUTS[:4].abs(), TARGETS[:4], torch.tensor([7, 1, 4, 3]))
        batch.input[1, 0] = -1
        assert describe(model, loss, [batch], model) == "first in layer 1 (Root); samples 1"
        assert not any(m._forward_hooks for m in model.modules())

    def test_a_gradient_alone(self) -> None:
        """The root of 0 is finite, and its slope is not."""
        model = nn.Linear(6, 3)
        trainer = made(model, compute=lambda m, loss, b: loss(m(b.input), b) + (m(b.input) * 0).sum().sqrt())
        with pytest.raises(NonFinite, match="the forward pass is finite, and the gradient of bias is not"):
            trainer.step([BATCHES[0]])

    def test_a_step_may_be_left_out(self) -> None:
        model = network()
        trainer = made(model, skip_nonfinite=True, ema=0.5)
        trainer.step([BATCHES[0]])
        before, average = copy.deepcopy(model.state_dict()), copy.deepcopy(trainer.weights.state_dict())
        sums = trainer.sums.clone()
        planted = Batch(BATCHES[1].input * float("inf"), BATCHES[1].target, BATCHES[1].index)
        trainer.step([planted])
        assert (trainer.progress.step, trainer.progress.skipped, trainer.progress.batch) == (2, 1, 2)
        for state, held in ((model.state_dict(), before), (trainer.weights.state_dict(), average)):
            assert all(torch.equal(a, b) for a, b in zip(state.values(), held.values(), strict=True))
        assert torch.equal(trainer.sums, sums)
        trainer.step([BATCHES[2]])
        assert all(value.isfinite().all() for value in model.state_dict().values())

    @pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_without_waiting_for_the_device(self, kind: type[torch.optim.Optimizer], accumulate: int) -> None:
        """As on CUDA: no step is taken from the first bad one on, and that one is explained when it is looked at."""
        model = network()
        optimizer = kind(model.parameters(), lr=0.1, fused=True)  # type: ignore[call-arg]
        trainer = made(model, accumulate=accumulate)
        trainer.optimizer = trainer.gradient.optimizer = optimizer
        trainer.latch = Latch.of(optimizer, CPU)
        batches = copy.deepcopy(BATCHES)
        batches[2].input[[1, 6], 3] = float("inf")
        # As if the loader had an epoch of 5 batches, of which the last step takes what is left.
        held = {"epoch": lambda self, e, start=0: iter(batches[start:]), "__len__": lambda self: 5}
        trainer.loader = type("Held", (), held)()
        weights = [[p.detach().clone() for p in model.parameters()] for _ in trainer.epoch()]
        number = 2 // accumulate
        with pytest.raises(NonFinite, match=f"at step {number} of epoch 1: first in the input; samples 17, 22"):
            trainer.check()
        assert (trainer.progress.step, trainer.progress.batch) == (number, 2)
        for later in weights[number:]:
            assert all(torch.equal(a, b) for a, b in zip(later, weights[number - 1], strict=True))
        assert all(torch.equal(p.detach(), w) for p, w in zip(model.parameters(), weights[number - 1], strict=True))

    def test_looking_without_waiting_changes_no_step(self) -> None:
        model, other = network(), network()
        trainer, plain = made(model), made(other)
        for each, net in ((trainer, model), (plain, other)):
            each.optimizer = each.gradient.optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
        trainer.latch = Latch.of(trainer.optimizer, CPU)
        for batch in BATCHES:
            trainer.step([batch])
            plain.step([batch])
        trainer.check()
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
        assert Latch.of(torch.optim.RMSprop(model.parameters()), CPU) is None

    def test_samples_are_told_apart_behind_a_batch_norm(self) -> None:
        """Whose statistics a bad batch has spoilt, for every sample."""

        class Root(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.sqrt()

        model = nn.Sequential(Root(), nn.BatchNorm1d(6), nn.Linear(6, 3))
        trainer = made(model)
        batch = Batch(INPUTS[:4].abs(), TARGETS[:4], torch.tensor([7, 1, 4, 3]))
        batch.input[1, 0] = -1
        with pytest.raises(NonFinite, match=r"first in layer 0 \(Root\); samples 1\n"):
            trainer.step([batch])

    def test_in_a_run(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        step = trainers.Trainer.step

        def planting(self: Trainer, batches: list[Batch]) -> None:
            if self.progress.step == 20:
                batches[0].input[3] = float("nan")
            step(self, batches)

        monkeypatch.setattr(trainers.Trainer, "step", planting)
        assert run(*QUICK, "hydra.run.dir=stopped") == 1
        kept = torch.load("stopped/checkpoints/last.pt", weights_only=True)
        assert kept["progress"]["step"] == 17  # the last good one
        assert result_of(Path("stopped"))["state"] == "failed"
        assert run(*QUICK, "hydra.run.dir=skipped", "trainer.on_nonfinite=skip") == 0
        assert result_of(Path("skipped"))["skipped_steps"] == 1


class TestLength:
    def test_early_stopping(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        """With a rate of 0 nothing gets better: the first evaluation is the best, and the third ends the run."""
        options = ("optimizer.lr=0", "trainer.early_stopping.patience=2", "trainer.max_epochs=9")
        assert run(*QUICK, *options) == 0
        assert [r["epoch"] for r in records_of(only_run())] == [1, 2, 3]
        assert result_of(only_run())["ended_by"] == "early_stopping"
        said = capsys.readouterr().out
        assert "stopped early, in epoch 3 of 9, after 51 steps: no improvement in val/loss for 2 evaluations" in said
        assert "trainer.early_stopping.patience=4" in said
        # It is complete; with more patience it goes on.
        before = (only_run() / "result.json").read_bytes()
        assert run("resume=last") == 0
        assert (only_run() / "result.json").read_bytes() == before
        assert run("resume=last", "trainer.max_epochs=20") == 0
        assert len(records_of(only_run())) == 3
        assert run("resume=last", "trainer.early_stopping.patience=4") == 0
        assert len(records_of(only_run())) == 5

    def test_time(self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        clock = iter(range(10_000))
        monkeypatch.setattr(trainers.trainer.time, "perf_counter", lambda: next(clock) / 3)
        assert run(*QUICK, "trainer.max_epochs=1000", "trainer.max_time=1 minute") == 0
        found = result_of(only_run())
        assert found["ended_by"] == "max_time"
        assert 10 < found["steps"] < 60
        assert records_of(only_run())[-1]["step"] == found["steps"]
        said, epoch = capsys.readouterr().out, -(-found["steps"] // 17)
        where = f"in epoch {epoch} of 1000, after {found['steps']} steps"
        assert f"time is up, {where}: trainer.max_time is 1 minute\n" in said
        assert found["steps"] % 17 > 0  # or the next would say nothing
        assert run("predict", "run=last", "input=test", "output=x.csv", "weights=last") == 0
        assert f"last.pt, epoch {epoch} · " in capsys.readouterr().err

    def test_a_time_in_which_nothing_is_trained_is_a_mistake(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clock = iter(range(10_000))
        with monkeypatch.context() as patched:
            patched.setattr(trainers.trainer.time, "perf_counter", lambda: next(clock))
            assert run(*QUICK, "trainer.max_time=1 second", "hydra.run.dir=here") == 2
        said = capsys.readouterr().err
        assert "trainer.max_time: '1 second' was over before the first step: nothing was trained" in said
        assert "try: python -m runner resume=here trainer.max_time=MORE" in said
        assert result_of("here")["state"] == "failed"
        assert not list(Path("here/checkpoints").glob("*.pt"))
        assert run("resume=here", "trainer.max_time=1 hour") == 0
        assert run(*QUICK, "hydra.run.dir=there") == 0
        assert Path("here/metrics.jsonl").read_bytes() == Path("there/metrics.jsonl").read_bytes()

    @pytest.mark.parametrize(
        ("every", "epochs", "steps"),
        [("3 epochs", 3, None), ("20 steps", None, 20), ("25%", None, 17), ("1.5 epochs", None, 26)],
    )
    def test_how_often_val_is_looked_at(self, every: str, epochs: int | None, steps: int | None) -> None:
        cfg = composed(f"trainer.evaluate_every={every}")
        config.fill(cfg, {"steps_per_epoch": 17, "total_steps": 68})
        limits = limits_of(cfg)
        assert (limits.evaluate_epochs, limits.evaluate_steps) == (epochs, steps)

    @pytest.mark.parametrize(
        ("every", "steps"),
        [("3 epochs", [51, 68]), ("25%", [17, 34, 51, 68])],  # the latter with the ends of epochs, and once
    )
    def test_val_is_looked_at_after_some_time_and_at_the_end(self, run: Run, every: str, steps: list[int]) -> None:
        assert run(*QUICK, "trainer.max_epochs=4", f"trainer.evaluate_every={every}") == 0
        assert [r["step"] for r in records_of(only_run())] == steps
        state = torch.load(only_run() / "checkpoints/last.pt", weights_only=True)
        assert state["progress"]["step"] == 68

    def test_evaluations_inside_an_epoch_survive_stops(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        options = (*QUICK, "trainer.max_epochs=3", "trainer.evaluate_every=20 steps")
        assert run(*options, "hydra.run.dir=whole") == 0
        assert [r["step"] for r in records_of("whole")] == [20, 40, 51]
        # With an evaluation, and with the end of an epoch that is none.
        for stop, typed in ((20, (*options, "hydra.run.dir=part")), (34, ("resume=part",))):
            with monkeypatch.context() as patch:
                stopping(patch, stop, signal.SIGTERM)
                assert run(*typed) == 143
            assert torch.load("part/checkpoints/last.pt", weights_only=True)["progress"]["step"] == stop
        assert run("resume=part") == 0
        assert Path("part/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()
        assert same_tensors(*(weights_of(name, "best.pt") for name in ("part", "whole")))

    def test_two_batches_of_everything(self, run: Run) -> None:
        assert run(*QUICK, "trainer.limit_batches=2", "loader.batch_size=8", "loader.eval_batch_size=4") == 0
        assert result_of(only_run())["steps"] == 4
        assert all(row["support"] <= 8 for row in result_of(only_run())["tables"]["test/per_class"])


class TestPrecision:
    def test_bfloat16_computes_in_it_and_keeps_weights_and_loss_in_float32(self) -> None:
        model = network()
        seen: list[torch.dtype] = []
        model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        output = Precision(CPU, "bf16").forward(model)(INPUTS)
        assert seen == [torch.bfloat16]
        assert output.dtype == torch.float32
        trainer = made(model, precision=Precision(CPU, "bf16"))
        for batch in BATCHES:
            trainer.step([batch])
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        exact = made(network())
        for batch in BATCHES:
            exact.step([batch])
        assert trainer.running_loss == pytest.approx(exact.running_loss, rel=2e-2)
        assert trainer.running_loss != exact.running_loss

    def test_plain_float32_is_the_model_itself(self) -> None:
        model = network()
        assert Precision(CPU).forward(model) is model

    def test_channels_last_is_the_same_function(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))
        x = torch.randn(5, 3, 8, 8)
        expected = model(x)
        there = Precision(CPU, channels_last=True)
        placed = there.place(copy.deepcopy(model))
        assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(there.forward(placed)(x), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("choice", "device", "name", "expected"),
        [("auto", "cpu", "fp32", True), ("auto", "cuda", "fp32", False), ("auto", "cuda", "bf16", True),
         (True, "cuda", "fp32", True), (False, "cpu", "fp32", False)],
    )  # fmt: skip
    def test_where_channels_last_is_worth_it(self, choice: Any, device: str, name: str, expected: bool) -> None:
        model, pictures = nn.Sequential(nn.Conv2d(1, 1, 1)), torch.zeros(2, 1, 4, 4)
        assert wants_channels_last(choice, torch.device(device), name, model, pictures) is expected
        assert not wants_channels_last(choice, torch.device(device), name, network(), pictures)
        assert not wants_channels_last(choice, torch.device(device), name, model, torch.zeros(2, 4))


class TestDebug:
    def test_two_batches_of_everything_leave_nothing(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        small = ("loader.batch_size=8", "trainer.accumulate=4", "tensorboard.pictures=false")
        assert run("model=mlp", "debug=dev_run", "trainer.threads=1", *small) == 0
        said = capsys.readouterr().out
        assert [line.split()[0] for line in said.splitlines() if re.match(r" +\d+/", line)] == ["1/30"]
        assert " epochs (dev run: two batches of each part)\n" in said
        assert "dev run passed in" in said
        assert not Path("outputs").exists()

    def test_lengths_are_those_of_the_real_run(self, run: Run) -> None:
        """Of which a trial of two batches has none."""
        lengths = ("scheduler=multistep", "scheduler.warmup=100 steps", "trainer.evaluate_every=10%")
        assert run(*QUICK, "trainer.max_epochs=30", "debug=dev_run", *lengths) == 0

    def test_one_batch_by_heart(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("model=mlp", "debug=overfit", "trainer.threads=1", "tensorboard.pictures=false") == 0
        said = capsys.readouterr().out
        assert "the model can learn" in said
        table = said[said.index("Training on one batch of 64") :].splitlines()
        steps, losses = zip(*(line.split() for line in table[3:9]), strict=True)
        assert steps == ("1", "2", "4", "11", "31", "100")
        assert float(losses[-1]) < 0.5 * float(losses[0])
        assert not Path("outputs").exists()

    def test_what_keeps_a_loss_where_it_is(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        options = own_model(
            "from torch import nn\n"
            "class Net(nn.Module):\n"
            "    def __init__(self, num_outputs):\n"
            "        super().__init__()\n"
            "        self.used, self.unused = nn.Linear(64, num_outputs), nn.Linear(3, 3)\n"
            "    def forward(self, x):\n"
            "        return self.used(x.flatten(1) * 0)\n"
        )
        options += ("debug=overfit", "optimizer.lr=1e-6")
        assert run(*options, "trainer.clip_norm=0.5", "model.freeze=[used.bias]") == 0
        said = "".join(capsys.readouterr())
        assert "the loss did not even halve" in said
        assert "parameters without a gradient (used.weight, unused.weight, unused.bias)" in said
        assert "frozen parameters (10 of 662)" in said
        assert "clipping (trainer.clip_norm=0.5)" in said
        assert "the learning rate (1e-06;" in said

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("x = 0 * (x * 0).requires_grad_().sqrt()", "the gradient of Sqrt is NaN"),
            ("x = x.requires_grad_().sigmoid(); x += 1", "the result of Sigmoid, or what it was computed from, was"),
        ],
    )
    def test_anomaly_names_the_operation(
        self, run: Run, capsys: pytest.CaptureFixture[str], line: str, said: str
    ) -> None:
        Path("broken.py").write_text(
            f"def disturb(x):\n    {line}\n    return x.sum()\n\n"
            "def step(model, loss, batch):\n"
            "    return loss(model(batch.input), batch) + disturb(batch.input.clone())\n"
        )
        options = ("debug=anomaly", "allow_targets=[broken.*]", "trainer.step={_target_:broken.step}")
        assert run(*QUICK, *options) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {said}")
        assert f"broken.py, line 2, in disturb: {line}\n" in error
        assert "Traceback" not in error
        torch.autograd.set_detect_anomaly(False)


def test_a_profile(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "trainer.profile=true", "trainer.max_epochs=1") == 0
    said = capsys.readouterr().out
    assert "Profile of 10 steps" in said
    assert re.search(r"aten::addmm +2 +\d", said)  # two linear layers
    events = json.loads((only_run() / "profile/trace.json").read_text())["traceEvents"]
    assert any(event.get("name") == "aten::addmm" for event in events)
    assert run(*QUICK, "trainer.profile=true", "trainer.max_steps=13", "hydra.run.dir=short") == 0
    assert not Path("short/profile").exists()
    assert "trainer.profile: not profiled, for that takes 14 steps, and 13 are left" in "".join(capsys.readouterr())


def test_the_train_part_again_in_eval_mode(run: Run) -> None:
    """With a rate of 0 and no dropout, the weights stand still: both figures are of the same model."""
    assert run(*QUICK, "trainer.evaluate_train=true", "optimizer.lr=0") == 0
    for record in records_of(only_run()):
        assert record["train_eval/loss"] == pytest.approx(record["train/loss"], rel=1e-6)
        assert "train_eval/accuracy" in record


def test_how_training_went(digits: Path) -> None:
    vitals = result_of(digits)["vitals"]
    assert set(vitals) == {"samples_per_second", "waiting_for_data", "gradient_norm", "update_to_weight"}
    assert 0 <= vitals["waiting_for_data"] < 1
    assert 1e-6 < vitals["update_to_weight"] < 0.1


def test_the_figures_of_training_against_a_loop_by_hand() -> None:
    model, by_hand = network(), network()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    trainer = made(model)
    trainer.loader = type("Held", (), {"epoch": lambda self, e, start=0: iter(BATCHES), "__len__": lambda self: 5})()
    trainer.limits = Limits(1)
    list(trainer.fit())
    norms, ratio = [], 0.0
    for number, batch in enumerate(BATCHES):
        optimizer.zero_grad()
        cross_entropy(by_hand(batch.input), batch.target).backward()
        norms.append(nn.utils.clip_grad_norm_(by_hand.parameters(), 1e9).item())
        before = torch.cat([p.detach().flatten() for p in by_hand.parameters()])
        optimizer.step()
        after = torch.cat([p.detach().flatten() for p in by_hand.parameters()])
        ratio = ratio if number else ((after - before).norm() / before.norm()).item()
    assert trainer.measured["gradient_norm"] == pytest.approx(sum(norms) / 5, rel=1e-4)
    assert trainer.measured["update_to_weight"] == pytest.approx(ratio, rel=1e-4)


def test_out_of_memory_says_what_would_fit(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(self: Trainer, batches: list[Batch]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainers.Trainer, "step", exhausted)
    assert run(*QUICK, "trainer.accumulate=3") == 1
    said = "".join(capsys.readouterr())
    assert "error: out of memory on cpu with batches of 64\n  try: trainer.micro_batch=auto, or " in said
    assert "loader.batch_size=32 trainer.accumulate=6" in said
    assert "Traceback" not in said
    assert result_of(only_run())["state"] == "failed"


@pytest.mark.parametrize(("fits", "status"), [(16, 0), (0, 2)])
def test_a_model_that_takes_some_samples_at_once(
    run: Run, capsys: pytest.CaptureFixture[str], fits: int, status: int
) -> None:
    """Batches are cut in training, as `trainer.micro_batch` says, and in eval mode always; nothing else needs more."""
    Path("tight.py").write_text(
        "import torch\n\n"
        "class Tight(torch.nn.Sequential):\n"
        "    def forward(self, x):\n"
        f"        if x.device.type != 'meta' and len(x) > {fits}:\n"
        "            what = 'CUDA out of memory. Tried to allocate 1 GiB. GPU 0 has a total capacity of'\n"
        "            raise torch.OutOfMemoryError(what)\n"
        "        return super().forward(x)\n\n"
        "def build():\n"
        "    layers = torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.BatchNorm1d(10)\n"
        "    return Tight(*layers)\n"
    )
    own = ("~model", "+model={_target_: tight.build}", "allow_targets=[tight.*]", "trainer.micro_batch=auto")
    assert run(*own, "trainer.max_epochs=1", "trainer.threads=1", "tensorboard.enabled=false") == status
    said = "".join(capsys.readouterr())
    if status == 0:
        assert "out of memory with 64 samples at once: continuing with micro-batches of 32" in said
        assert "of 16\n" in said
        assert "model/layers was left out" not in said
        assert result_of(only_run())["batch_norm"] is None
    else:
        reason = "CUDA out of memory. Tried to allocate 1 GiB\n"
        assert f"error: device: cpu has too little memory for the model and the data: {reason}" in said
        assert "Traceback" not in said


def test_out_of_memory_where_nothing_is_trained(
    run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB. GPU 0 has a total capacity of 2")

    monkeypatch.setattr(nn.Linear, "forward", exhausted)
    for command in (["evaluate", f"run={digits}"], ["inspect", *QUICK], ["predict", f"run={digits}", "input=test"]):
        assert run(*command) == 1
        error = capsys.readouterr().err
        assert "error: CUDA out of memory. Tried to allocate 1 GiB\n  try: a smaller loader.batch_size, " in error
        assert "Traceback" not in error


class TestOverfit:
    def test_a_loss_that_is_no_number_ends_it_where_updates_are_left_out_unseen(self) -> None:
        """As fused optimizers do on CUDA: the step is always taken, and looked at later."""
        model = network()
        trainer = made(model)
        trainer.latch = Latch(trainer.optimizer, CPU)
        with torch.no_grad():
            model[0].weight[0, 0] = float("nan")  # type: ignore[index]
        with pytest.raises(NonFinite):
            overfit.learn(trainer, BATCHES[0])
