from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Muon, RMSprop

from runner.errors import ConfigError
from runner.model import CNN, MLP, Networks
from runner.optimizer import MuonAdamW, Rule, build, form, table


def group(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Any]:
    return next(g for g in optimizer.param_groups if g["name"] == name)


def unfilled(make: Callable[[], nn.Module]) -> nn.Module:
    """A model without the time that it takes to draw its numbers, where they do not matter."""
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize("kind", [AdamW, SGD, Adam, Adagrad])
def test_fused_where_the_choice_is_open(kind: Any) -> None:
    made = build(partial(kind, fused=None), {"": nn.Linear(2, 2)})
    assert made.defaults["fused"] is True
    assert form(made) == "fused"


@pytest.mark.parametrize("options", [{"fused": False}, {"foreach": True}, {"differentiable": True}])
def test_a_choice_that_was_made_stands(options: dict[str, bool]) -> None:
    made = build(partial(AdamW, **options), {"": nn.Linear(2, 2)})
    assert not made.defaults["fused"]
    assert all(made.defaults[name] == value for name, value in options.items())
    assert form(made) == ("foreach" if "foreach" in options else "tensor by tensor")


def test_an_optimizer_without_a_fused_form() -> None:
    made = build(partial(RMSprop, lr=0.1), {"": nn.Linear(2, 2)})
    assert isinstance(made, RMSprop)
    assert form(made) == "tensor by tensor"
    assert form(build(partial(torch.optim.LBFGS), {"": nn.Linear(2, 2)})) is None


def test_only_what_is_trainable_of_every_module() -> None:
    model, loss = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), nn.Linear(1, 1)
    model[0].requires_grad_(False)
    (only,) = build(partial(SGD, lr=0.1), {"": model, "loss": loss}).param_groups
    assert [id(p) for p in only["params"]] == [id(p) for p in (*model[1].parameters(), *loss.parameters())]
    assert only["param_names"] == ["1.weight", "1.bias", "loss.weight", "loss.bias"]


def test_the_backbone_at_a_tenth_of_the_rate_and_no_decay_on_norms_and_biases_of_resnet18() -> None:
    """By exact counts: 62 tensors; 20 BatchNorms of a weight and a bias each (9,600 numbers); a head of 5,130."""
    model = torchvision.models.resnet18(num_classes=10)
    rules = [Rule(0, match=r"^fc\.", name="head"), Rule(1, match="", lr_scale=0.1, name="backbone")]
    made = build(
        partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4), {"": model}, rules, decay_norms_and_biases=False
    )
    rows = {row[0]: row[1:] for row in table(made).rows}
    assert rows == {
        "head": [0, 1, 5120, 0.1, 5e-4],
        "head, no decay": [0, 1, 10, 0.1, 0.0],
        "backbone": [1, 20, 11_166_912, 0.1 * 0.1, 5e-4],
        "backbone, no decay": [1, 40, 9_600, 0.1 * 0.1, 0.0],
    }
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert {id(p) for p in group(made, "backbone, no decay")["params"]} == norms
    everything = [id(p) for g in made.param_groups for p in g["params"]]
    assert sorted(everything) == sorted(map(id, model.parameters()))  # each once


def test_the_first_rule_that_fits_decides_and_any_setting_may_differ() -> None:
    model = torchvision.models.resnet18(num_classes=10)
    rules = [
        Rule(0, type="BatchNorm2d", settings={"weight_decay": 0, "momentum": 0.5}),
        Rule(1, match="^layer4", settings={"lr": 0.3}, lr_scale=2),
        Rule(2, type="Linear"),
    ]
    made = build(partial(SGD, lr=0.1, momentum=0.9), {"": model}, rules, scale=0.5)
    assert [(g["name"], len(g["params"]), g["lr"], g["momentum"]) for g in made.param_groups] == [
        ("BatchNorm2d", 40, 0.05, 0.5), ("^layer4", 5, 0.3, 0.9), ("Linear", 2, 0.05, 0.9), ("rest", 15, 0.05, 0.9),
    ]  # fmt: skip
    assert table(made).columns == ["group", "rule", "tensors", "parameters", "lr", "weight decay", "momentum"]


def test_a_base_class_is_a_type_too() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2), nn.InstanceNorm1d(2, affine=True), nn.Linear(2, 2))
    made = build(partial(SGD), {"": model}, [Rule(0, type="_NormBase"), Rule(1, type="Conv1d", match="bias$")])
    assert [g["param_names"] for g in made.param_groups] == [
        ["1.weight", "1.bias", "2.weight", "2.bias"], ["0.bias"], ["0.weight", "3.weight", "3.bias"],
    ]  # fmt: skip


def test_norms_and_biases_of_every_kind_are_spared() -> None:
    model = nn.ModuleDict({
        "attention": nn.MultiheadAttention(4, 2), "recurrent": nn.GRU(4, 4), "layer": nn.LayerNorm(4),
        "rms": nn.RMSNorm(4), "group": nn.GroupNorm(2, 4), "linear": nn.Linear(4, 4),
    })  # fmt: skip
    made = build(partial(AdamW, weight_decay=0.1), {"": model}, decay_norms_and_biases=False)
    assert group(made, "all")["param_names"] == [
        "attention.in_proj_weight", "attention.out_proj.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0",
        "linear.weight",
    ]  # fmt: skip
    assert group(made, "all, no decay")["weight_decay"] == 0
    assert group(made, "all")["weight_decay"] == 0.1


def test_a_shared_parameter_is_in_one_group() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    made = build(partial(SGD), {"": model}, [Rule(0, match=r"^0\.")])
    assert [g["param_names"] for g in made.param_groups] == [["0.weight", "0.bias"], ["1.bias"]]


def test_several_networks_are_groups_by_prefix() -> None:
    model = Networks({"encoder": MLP((4,), 8, [8]), "head": nn.Linear(8, 2)})
    made = build(partial(SGD, lr=0.1), {"": model}, [Rule(0, match=r"^encoder\.", lr_scale=0.1)])
    assert [(g["name"], len(g["params"]), g["lr"]) for g in made.param_groups] == [
        (r"^encoder\.", 4, 0.1 * 0.1), ("rest", 2, 0.1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [Rule(0, match="^layr1")],
            r"param_groups.0: \(match: \^layr1\) matches no trainable param(.|\n)*try: match: layer1",
        ),
        (
            [Rule(0, type="BatchNorm3d")],
            r"\(type: BatchNorm3d\) matches no trainable parameter(.|\n)*try: type: BatchNorm2d",
        ),
        (
            [Rule(0, match="^layer1"), Rule(1, match=r"^layer1\.0")],
            r"param_groups.1: \(match: .*\) has no effect: all that it matches \(6 parameters\) already belongs to "
            r"optimizer.param_groups.0 \(match: \^layer1\)",
        ),
        (
            [Rule(0, match="^fc", settings={"betas": (0, 0)})],
            r"param_groups.0.betas: is not an option of SGD's parameter groups",
        ),
        ([Rule(0, match="^fc", name="rest")], r"param_groups.0.name: 'rest' is already the name of another group"),
        ([Rule(0, match="^fc", name="a"), Rule(1, match="conv1", name="a")], r"name: 'a' is already the name of anoth"),
    ],
)
def test_a_rule_that_decides_nothing_is_a_mistake(rules: list[Rule], message: str) -> None:
    with pytest.raises((ConfigError, TypeError), match=message):
        build(partial(SGD, lr=0.1), {"": unfilled(torchvision.models.resnet18)}, rules)


def test_a_rule_for_what_is_frozen_is_a_mistake() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    with pytest.raises(ConfigError, match="matches no trainable parameter"):
        build(partial(SGD), {"": model}, [Rule(0, match=r"^0\.")])
    with pytest.raises(ConfigError, match="has no trainable parameters"):
        build(partial(SGD), {"": model.requires_grad_(False)})


def test_layer_wise_decay_of_a_vision_transformer() -> None:
    """As in BEiT: twelve blocks, the head above them, what comes before them below: 0.75 to the 13th."""
    model = unfilled(lambda: torchvision.models.vit_b_16(num_classes=10))
    made = build(partial(AdamW, lr=1.0), {"": model}, layer_decay=0.75)
    rates = {name: g["lr"] for g in made.param_groups for name in g["param_names"]}
    assert rates["heads.head.weight"] == 1.0
    for block in range(12):
        assert rates[f"encoder.layers.encoder_layer_{block}.mlp.0.weight"] == pytest.approx(0.75 ** (12 - block))
    for first in ("conv_proj.weight", "class_token", "encoder.pos_embedding"):
        assert rates[first] == pytest.approx(0.75**13)
    assert [g["lr"] for g in made.param_groups] == sorted(g["lr"] for g in made.param_groups)


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (torchvision.models.resnet18, 10), (torchvision.models.vgg11, 11), (torchvision.models.swin_t, 17),
        (lambda: MLP((8,), 3, [4, 4, 4]), 4), (lambda: CNN((1, 8, 8), 3, [4, 8]), 5), (lambda: nn.Linear(2, 2), 1),
        (lambda: Networks({"a": MLP((8,), 3, [4]), "b": nn.Linear(3, 2)}), 3),
    ],
)  # fmt: skip
def test_the_layers_that_a_rate_decays_along(make: Callable[[], nn.Module], layers: int) -> None:
    made = build(partial(SGD, lr=1.0), {"": unfilled(make)}, layer_decay=0.5)
    assert [g["lr"] for g in made.param_groups] == [0.5 ** (layers - 1 - n) for n in range(layers)]


class TestMuon:
    model = MLP((6,), 3, [8, 8])

    def test_its_groups_step_as_torchs_two_optimizers_do(self) -> None:
        ours, theirs = copy.deepcopy(self.model), copy.deepcopy(self.model)
        mixed = build(partial(MuonAdamW, lr=0.01, fused=False), {"": ours})
        matrices = [p for p in theirs.parameters() if p.dim() == 2]
        vectors = [p for p in theirs.parameters() if p.dim() != 2]
        pair = (
            Muon(matrices, 0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw", eps=1e-8),
            AdamW(vectors, 0.01, weight_decay=0.1),
        )
        x = torch.randn(5, 6)
        for _ in range(4):
            for model, optimizers in ((ours, (mixed,)), (theirs, pair)):
                model(x).square().sum().backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))

    def test_it_goes_on_from_its_state(self) -> None:
        def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
            for _ in range(count):
                model(torch.ones(5, 6)).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()

        whole = copy.deepcopy(self.model)
        first = build(partial(MuonAdamW), {"": whole})
        steps(whole, first, 3)
        half, state = copy.deepcopy(whole), copy.deepcopy(first.state_dict())
        steps(whole, first, 3)
        second = build(partial(MuonAdamW), {"": half})
        second.load_state_dict(state)
        steps(half, second, 3)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))

    def test_a_group_may_leave_its_matrices_to_adamw(self) -> None:
        made = build(partial(MuonAdamW), {"": self.model}, [Rule(0, match=r"^7\.", settings={"muon": False})])
        assert [(g["name"], g["muon"], len(g["params"])) for g in made.param_groups] == [
            (r"^7\., AdamW", False, 2), ("rest, Muon", True, 2), ("rest, AdamW", False, 2),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SGD, {"momentum": "abc"}, "not supported between"), (SGD, {"momentum": -5}, "Invalid momentum"),
        (SGD, {"nesterov": True, "momentum": 0}, "Nesterov momentum"), (Adam, {"betas": 0.9}, "not subscriptable"),
        (Adam, {"fused": True, "foreach": True}, "cannot be"), (MuonAdamW, {"muon": "no"}, "must be true or false"),
        (MuonAdamW, {"ns_steps": 200}, "from 1 to 99"),
    ],
)  # fmt: skip
def test_settings_of_a_group_are_looked_at_as_those_of_all_are(
    kind: Any, settings: dict[str, Any], message: str
) -> None:
    """torch looks at the values of a group only when it takes a step with them."""
    with pytest.raises(ConfigError, match=rf"optimizer.param_groups.0: .*{message}"):
        build(partial(kind), {"": MLP((6,), 3, [8])}, [Rule(0, match="weight", settings=settings)])


def test_a_rule_that_says_how_much_its_norms_decay_means_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    made = build(
        partial(SGD, weight_decay=0.1), {"": model}, [Rule(0, type="LayerNorm", settings={"weight_decay": 0.05})],
        decay_norms_and_biases=False,
    )  # fmt: skip
    assert [(g["name"], g["weight_decay"]) for g in made.param_groups] == [
        ("LayerNorm", 0.05), ("rest", 0.1), ("rest, no decay", 0.0),
    ]  # fmt: skip


def test_no_two_groups_have_one_name() -> None:
    rules = [Rule(0, match=r"^1\.weight", name="rest, no decay")]
    with pytest.raises(ConfigError, match="'rest, no decay' is the name of two groups"):
        build(partial(SGD), {"": MLP((6,), 3, [8])}, rules, decay_norms_and_biases=False)


def test_a_frame_around_a_network_is_no_layer() -> None:
    class Frame(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    for model in (Three(), Frame(Three()), Frame(Frame(Frame(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))))))):
        made = build(partial(SGD, lr=1.0), {"": model}, layer_decay=0.5)
        assert [g["lr"] for g in made.param_groups] == [0.25, 0.5, 1.0]


def test_parallel_branches_are_one_layer() -> None:
    """GoogLeNet: three convolutions before, nine inception modules, the last layer."""
    model = torchvision.models.googlenet(init_weights=False, aux_logits=False)
    made = build(partial(SGD, lr=1.0), {"": model}, layer_decay=0.5)
    assert len(made.param_groups) == 13


class Signs(torch.optim.Optimizer):
    """An optimizer of a user's, without a learning rate, and without a closure."""

    def __init__(self, params: Any, size: float = 0.01) -> None:
        super().__init__(params, {"size": size})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for each in self.param_groups:
            for p in each["params"]:
                p -= each["size"] * p.grad.sign()


def test_an_optimizer_without_a_learning_rate() -> None:
    model = nn.Linear(2, 2)
    made = build(partial(Signs), {"": model}, [Rule(0, match="bias", settings={"size": 0.5})])
    assert "lr" not in made.param_groups[0]
    assert table(made).rows == [["bias", 0, 1, 2, 0.5], ["rest", None, 1, 4, 0.01]]
