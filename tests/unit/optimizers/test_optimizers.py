"""Every optimizer learns, and goes on exactly where its saved state left it."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from framework.adapters.full import Full
from framework.api import check
from framework.core.problems import UserError
from framework.core.registries import registry
from framework.distributed.state import capture_state, load_state
from framework.engine.parameter_groups import parameter_groups
from framework.recipe.schema import Trainer
from framework.schedules.constant import Constant
from framework.schedules.linear import Linear
from framework.trainers.sft import SFT

NAMES = registry("optimizers").names()
LEARNING_RATES = {"sgd": 0.1, "muon": 0.05, "schedule_free_adamw": 5e-2, "galore": 4e-2}
SMALL_RANKS = {"galore": {"rank": 8}, "apollo": {"rank": 8}}
SETTINGS = [(name, SMALL_RANKS.get(name, {})) for name in NAMES] + [
    ("adamw_torchao", {"optim_bits": 4}),
    ("ademamix", {"optim_bits": 8, "num_alpha_warmup_steps": 4, "num_beta3_warmup_steps": 4}),
    ("apollo", {"rank": 1, "factors": "tensor", "scale": 11.3, "update_interval": 2}),
    ("galore", {"rank": 8, "update_interval": 2}),
    ("muon", {"scale": "original", "nesterov": False}),
    ("adamw_8bit", {"paged": True}),
    ("lion", {"optim_bits": 8}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
]


def model() -> nn.Module:
    torch.manual_seed(0)
    # Large enough that 8-bit optimizers do quantize their states (4,096 elements and more).
    layers = nn.ModuleList([nn.Linear(128, 64), nn.Linear(64, 128)])
    return Network(nn.Embedding(16, 128), layers, nn.LayerNorm(128), nn.Linear(128, 64))


class Network(nn.Module):
    def __init__(self, embedding, layers, norm, head):
        super().__init__()
        self.embedding, self.layers, self.norm, self.head = embedding, layers, norm, head

    def forward(self, tokens):
        states = self.embedding(tokens)
        for layer in self.layers:
            states = layer(states)
        return self.head(self.norm(states))


def optimizer_of(name: str, settings: dict, network: nn.Module):
    component = registry("optimizers").get(name)(**settings)
    trainer = Trainer(
        method=SFT(),
        learning_rate=LEARNING_RATES.get(name, 1e-2),
        weight_decay=0.1,
        optimizer=component,
        lr_scheduler_type=Constant(),
    )
    groups = parameter_groups(network, trainer, Full())
    return component.build(groups, trainer.learning_rate)


def step(network: nn.Module, optimizer, seed: int) -> float:
    torch.manual_seed(seed)
    tokens = torch.randint(16, (8,))
    loss = (network(tokens) - torch.randn(8, 64, generator=torch.Generator().manual_seed(9))).pow(2)
    loss.mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.mean().item()


def test_there_are_optimizers():
    assert len(NAMES) == 11


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_it_learns(name, settings):
    network = model()
    optimizer = optimizer_of(name, settings, network)
    losses = [step(network, optimizer, seed=1) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_it_goes_on_bit_for_bit_from_its_saved_state(name, settings, tmp_path):
    whole = model()
    optimizer = optimizer_of(name, settings, whole)
    for seed in range(3):
        step(whole, optimizer, seed)
    capture_state(whole, optimizer, rank=0)(tmp_path)

    resumed = model()
    again = optimizer_of(name, settings, resumed)
    load_state(resumed, again, tmp_path)
    for seed in range(3, 6):
        assert step(whole, optimizer, seed) == step(resumed, again, seed)
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["apollo", "galore"])
def test_low_rank_gradients_of_an_adapter_are_refused_by_check(write_recipe, name):
    (problem,) = check(write_recipe(adapter="lora", trainer={"optimizer": name}))
    assert "projects the gradients of whole matrices" in problem.what
    assert problem.hint == "write `optimizer: adamw`, or `adapter: full`"


def test_nesterov_without_momentum_is_refused_by_check(write_recipe):
    (problem,) = check(write_recipe(trainer={"optimizer": {"type": "sgd", "nesterov": True}}))
    assert problem.key == "trainer.optimizer.nesterov"


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("adamw_8bit", "bitsandbytes", "bitsandbytes"),
        ("adamw_torchao", "torchao", "torchao"),
        ("ademamix", "bitsandbytes", "bitsandbytes"),
        ("lion", "bitsandbytes", "bitsandbytes"),
        ("schedule_free_adamw", "schedulefree", "schedule-free"),
    ],
)
def test_a_missing_library_is_said_by_check_with_its_extra(
    write_recipe, monkeypatch, name, module, extra
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else found(name)
    )
    trainer = {"optimizer": name, "lr_scheduler_type": "constant"}
    (problem,) = check(write_recipe(trainer=trainer))
    assert problem.hint == f"pip install 'framework[{extra}]'"


def test_muon_without_a_matrix_to_step_is_refused():
    with pytest.raises(UserError, match="no matrix inside a layer is trained"):
        optimizer_of("muon", {}, nn.Sequential(nn.Embedding(16, 128), nn.LayerNorm(128)))


@pytest.mark.parametrize("adapter", ["ia3", "ln_tuning", "prompt_tuning"])
def test_muon_over_an_adapter_without_matrices_is_refused_by_check(write_recipe, adapter):
    (problem,) = check(write_recipe(adapter=adapter, **{"trainer.optimizer": "muon"}))
    assert problem.key == "trainer.optimizer"
    assert f"`{adapter}` trains no matrix inside a layer" in problem.what
    assert not check(write_recipe(adapter="lora", **{"trainer.optimizer": "muon"}))


def test_modules_that_are_trained_beside_an_adapter_may_have_matrices_for_muon(write_recipe):
    adapter = {"type": "ia3", "modules_to_save": ["up_proj"]}
    assert not check(write_recipe(adapter=adapter, **{"trainer.optimizer": "muon"}))


def test_muon_and_adamw_stand_in_one_optimizer_that_schedules_scale():
    network = model()
    optimizer = optimizer_of("muon", {}, network)
    Linear().build(optimizer, warmup_steps=0, num_steps=4)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 6, 1]
    step(network, optimizer, seed=1)
    states = {tuple(sorted(one)) for one in optimizer.state.values()}
    assert states == {("momentum_buffer",), ("exp_avg", "exp_avg_sq", "step")}


@pytest.mark.parametrize("name", ["apollo", "galore"])
def test_states_of_projected_matrices_are_of_low_rank(name):
    network = model()
    optimizer = optimizer_of(name, {"rank": 8}, network)
    step(network, optimizer, seed=1)
    for layer in network.layers:
        shape = optimizer.state[layer.weight]["exp_avg"].shape
        assert sorted(shape) == [8, 128], shape
    assert optimizer.state[network.head.weight]["exp_avg"].shape == (64, 128)
    assert ("projection" in optimizer.state[network.layers[0].weight]) == (name == "galore")


def test_float32_states_of_16_bit_weights_are_resumed_in_float32(tmp_path):
    network = model().bfloat16()
    optimizer = optimizer_of("galore", {"rank": 8}, network)
    step(network, optimizer, seed=1)
    capture_state(network, optimizer, rank=0)(tmp_path)
    again = optimizer_of("galore", {"rank": 8}, network)
    load_state(network, again, tmp_path)
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(again.state[parameter][key]), torch.as_tensor(value))
    assert again.state[network.layers[0].weight]["exp_avg"].dtype == torch.float32
