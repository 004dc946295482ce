"""Each optimizer: equal to its reference for ten steps, resumes bit for bit, and says what is missing or wrong."""

import json
import math
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import safetensors.torch
import torch

from simpletune.errors import EnvironmentNotReady, TrainingFailed, UsageError
from simpletune.trainer import optimizers as subject

INSTALLED = [name for name in subject.OPTIMIZERS if subject.is_installed(name)]
SHAPES = ((8, 40), (40, 8), (64, 128))


@dataclass
class OptimizerSettings:
    """The keys of Settings that the optimizers read."""

    optimizer: str
    learning_rate: float = 1e-2
    optimizer_config: dict[str, Any] = field(default_factory=dict)


def weights(name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    dtype = subject.parameter_dtype(name)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]


def gradients(name, step):
    generator = torch.Generator().manual_seed(1000 + step)
    return [torch.randn(s, generator=generator).to(subject.parameter_dtype(name)) for s in SHAPES]


def build(name, parameters, **config):
    return subject.build_optimizer(OptimizerSettings(name, optimizer_config=config), parameters)


def take_steps(name, optimizer, parameters, steps):
    for step in steps:
        subject.set_learning_rate(optimizer, 1e-2 / (step + 1))
        for parameter, gradient in zip(parameters, gradients(name, step), strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        optimizer.zero_grad()


def through_files(tensors, rest):
    """What a checkpoint does to a state: safetensors and strict JSON."""
    data = safetensors.torch.save({key: value.contiguous().clone() for key, value in tensors.items()})
    return safetensors.torch.load(data), json.loads(json.dumps(rest, allow_nan=False))


@pytest.mark.parametrize("name", INSTALLED)
def test_a_resumed_optimizer_goes_on_bit_for_bit(name):
    straight = weights(name)
    optimizer = build(name, straight)
    take_steps(name, optimizer, straight, range(8))

    first = weights(name)
    optimizer = build(name, first)
    take_steps(name, optimizer, first, range(4))
    tensors, rest = through_files(*subject.optimizer_state(optimizer))
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in first]
    fresh = build(name, resumed)
    subject.load_optimizer_state(fresh, tensors, rest)
    take_steps(name, fresh, resumed, range(4, 8))

    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    expected, found = subject.optimizer_state(optimizer), subject.optimizer_state(fresh)
    assert expected[0].keys() == found[0].keys()
    assert expected[1]["groups"][0].keys() == found[1]["groups"][0].keys()


def test_without_the_saved_state_the_weights_differ():
    straight, resumed = weights("adamw"), weights("adamw")
    optimizer = build("adamw", straight)
    take_steps("adamw", optimizer, straight, range(8))
    for steps in (range(4), range(4, 8)):
        take_steps("adamw", build("adamw", resumed), resumed, steps)
    assert not torch.equal(straight[0], resumed[0])


def test_what_the_configuration_says_now_wins_over_the_save():
    parameters = weights("adamw")
    optimizer = build("adamw", parameters, betas=[0.8, 0.9])
    take_steps("adamw", optimizer, parameters, range(2))
    fresh = build("adamw", parameters, betas=[0.7, 0.95], weight_decay=0.5)
    subject.load_optimizer_state(fresh, *through_files(*subject.optimizer_state(optimizer)))
    assert fresh.param_groups[0]["betas"] == (0.7, 0.95)
    assert fresh.param_groups[0]["weight_decay"] == 0.5


class TestReferences:
    """Ten steps of each optimizer beside its published rule, in float64."""

    def run(self, name, rule, tolerance, **config):
        parameters = weights(name)
        reference = [p.detach().double() for p in parameters]
        memory: list[dict[str, Any]] = [{} for _ in parameters]
        optimizer = build(name, parameters, **config)
        take_steps(name, optimizer, parameters, range(10))
        for step in range(10):
            rate = 1e-2 / (step + 1)
            for w, g, m in zip(reference, gradients(name, step), memory, strict=True):
                rule(w, g.double(), m, step + 1, rate)
        for found, expected in zip(parameters, reference, strict=True):
            assert (found.double() - expected).abs().max() < tolerance

    @staticmethod
    def adam_rule(beta1, beta2, eps, decay):
        """Loshchilov and Hutter 2019, algorithm 2."""

        def rule(w, g, memory, t, rate):
            m = memory["m"] = beta1 * memory.get("m", torch.zeros_like(w)) + (1 - beta1) * g
            v = memory["v"] = beta2 * memory.get("v", torch.zeros_like(w)) + (1 - beta2) * g * g
            w.mul_(1 - rate * decay)
            w.sub_(rate * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps))

        return rule

    def test_adamw(self):
        self.run("adamw", self.adam_rule(0.9, 0.999, 1e-8, 0.01), 1e-5)

    def test_adamw_with_its_arguments(self):
        config = {"betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.1}
        self.run("adamw", self.adam_rule(0.8, 0.95, 1e-6, 0.1), 1e-5, **config)

    def test_adamw_bf16_tracks_the_rule_within_bfloat16(self):
        self.run("adamw_bf16", self.adam_rule(0.9, 0.99, 1e-6, 0.01), 0.02)

    def test_lion(self):
        """Chen et al. 2023, algorithm 2."""

        def rule(w, g, memory, t, rate):
            m = memory.get("m", torch.zeros_like(w))
            w.sub_(rate * (0.9 * m + 0.1 * g).sign())
            memory["m"] = 0.99 * m + 0.01 * g

        self.run("lion", rule, 1e-5)

    def test_adafactor(self):
        """Shazeer and Stern 2018, algorithm 5: factored second moments, update clipping at 1, relative step size."""

        def rule(w, g, memory, t, rate):
            keep = 1 - t**-0.8
            squared = g * g
            r = memory["r"] = keep * memory.get("r", 0) + (1 - keep) * squared.mean(1, keepdim=True)
            c = memory["c"] = keep * memory.get("c", 0) + (1 - keep) * squared.mean(0, keepdim=True)
            update = g / (r * c / r.mean()).sqrt()
            size = max(1e-3, w.square().mean().sqrt().item()) * min(rate, t**-0.5)
            w.sub_(size * update / max(1.0, update.square().mean().sqrt().item()))

        self.run("adafactor", rule, 1e-5)

    @pytest.mark.skipif(not subject.is_installed("prodigy"), reason="the extra prodigy is not installed")
    def test_prodigy(self):
        """Mishchenko and Defazio 2024, algorithm 4, over all weights together, with gradients that agree so d grows."""
        parameters, first_d = weights("prodigy"), 1e-3
        optimizer = build("prodigy", parameters, d0=first_d)
        subject.set_learning_rate(optimizer, 1.0)
        w = torch.cat([p.detach().double().flatten() for p in parameters])
        g = torch.cat([x.double().flatten() for x in gradients("prodigy", 0)])
        start, d, r, root = w.clone(), first_d, 0.0, math.sqrt(0.999)
        m, v, s = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w)
        for _ in range(10):
            for parameter, gradient in zip(parameters, gradients("prodigy", 0), strict=True):
                parameter.grad = gradient
            optimizer.step()
            before = d
            r = root * r + (d / first_d) * d * (g @ (start - w)).item()
            s = root * s + (d / first_d) * d * g
            m = 0.9 * m + 0.1 * d * g
            v = 0.999 * v + 0.001 * d * d * g * g
            d = max(d, r / s.abs().sum().item())
            w = w - before * m / (v.sqrt() + d * 1e-8)
        found = torch.cat([p.detach().double().flatten() for p in parameters])
        assert optimizer.param_groups[0]["d"] == pytest.approx(d, rel=1e-4)
        assert d > 1.5 * first_d
        assert (found - w).abs().max() < 1e-4
        assert (found - start).abs().max() > 1e-2


@pytest.mark.parametrize("name", INSTALLED)
def test_the_learning_rate_is_the_one_set(name):
    """With rate zero nothing moves; with a rate the weights do."""
    parameters = weights(name)
    optimizer = build(name, parameters)
    before = parameters[2].detach().clone()
    for rate, moves in ((0.0, False), (1.0, True)):
        subject.set_learning_rate(optimizer, rate)
        for parameter, gradient in zip(parameters, gradients(name, 0), strict=True):
            parameter.grad = gradient
        optimizer.step()
        assert torch.equal(before, parameters[2]) != moves


def test_a_tensor_learning_rate_is_filled_in_place():
    parameters = weights("adamw")
    rate = torch.tensor(1.0)
    optimizer = torch.optim.AdamW(parameters, lr=rate, foreach=False)
    subject.set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_bf16_weights_are_for_adamw_bf16_alone():
    low = {name for name in subject.OPTIMIZERS if subject.parameter_dtype(name) == torch.bfloat16}
    assert low == {"adamw_bf16"}


def test_small_updates_survive_in_bf16():
    """Kahan summation: 256 steps of 1e-4 move a weight of 1, which plain bf16 addition rounds away."""
    parameter = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = build("adamw_bf16", [parameter], weight_decay=0.0)
    subject.set_learning_rate(optimizer, 1e-4)
    for _ in range(256):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert parameter.mean().item() == pytest.approx(1 - 256e-4, abs=0.008)
    assert parameter.mean().item() < 1


@pytest.mark.parametrize(
    ("name", "module", "command"),
    [
        ("adamw8bit", "bitsandbytes", "pip install 'simpletune[adamw8bit]'"),
        ("prodigy", "prodigyopt", "pip install 'simpletune[prodigy]'"),
        ("lion", "optimi", "pip install torch-optimi"),
    ],
)
def test_a_missing_library_is_named_with_its_command(monkeypatch, name, module, command):
    for loaded in [m for m in sys.modules if m == module or m.startswith(module + ".")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentNotReady) as caught:
        build(name, weights(name))
    assert f'optimizer "{name}"' in caught.value.message
    assert caught.value.hint == command


def test_wrong_arguments_are_the_users_to_mend():
    with pytest.raises(UsageError, match="adamw has no argument beta1") as caught:
        build("adamw", weights("adamw"), beta1=0.9)
    assert "betas" in caught.value.hint
    with pytest.raises(UsageError, match="does not accept"):
        build("adamw", weights("adamw"), betas=[2.0, 0.9])
    with pytest.raises(UsageError, match="does not accept"):
        build("adafactor", weights("adafactor"), d="large")


@pytest.mark.parametrize("name", INSTALLED)
def test_offered_arguments_leave_out_what_the_trainer_decides(name):
    offered = set(subject.optimizer_arguments(name))
    assert "weight_decay" in offered
    assert not offered & {"params", "lr", "fused", "capturable", "foreach", "maximize", "self"}


def test_a_state_of_another_optimizer_or_rank_is_refused():
    parameters = weights("adamw")
    optimizer = build("adamw", parameters)
    take_steps("adamw", optimizer, parameters, range(1))
    state = through_files(*subject.optimizer_state(optimizer))
    with pytest.raises(TrainingFailed, match="AdamW, this run uses Lion"):
        subject.load_optimizer_state(build("lion", parameters), *state)
    with pytest.raises(TrainingFailed, match="another rank"):
        subject.load_optimizer_state(build("adamw", [torch.nn.Parameter(torch.zeros(4, 40))] * 1), *state)
    other = [torch.nn.Parameter(torch.zeros(s[0], s[1] + 1)) for s in SHAPES]
    with pytest.raises(TrainingFailed, match="another rank"):
        subject.load_optimizer_state(build("adamw", other), *state)
