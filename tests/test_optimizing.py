"""Optimizers and schedules against their formulas in NumPy."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from polyseme.training.optimizers import build_optimizers
from polyseme.training.schedules import SCHEDULES, Schedule
from polyseme.training.settings import TrainingSettings


class Net(nn.Module):
    """A table, a layer's matrix and its bias: one parameter of each sort."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 8)])


def gradients(seed: int, net: nn.Module) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=tuple(p.shape)).astype(np.float32) for p in net.parameters()]


@pytest.mark.parametrize("bias_correction", [True, False])
def test_adamw_is_its_formula_with_and_without_bias_correction(bias_correction: bool) -> None:
    torch.manual_seed(0)
    net = Net()
    settings = TrainingSettings(
        learning_rate=1e-2, weight_decay=0.1, epsilon=1e-6, bias_correction=bias_correction
    )
    optimizers = build_optimizers(net, settings)
    weights = [p.detach().numpy().astype(np.float64) for p in net.parameters()]
    firsts = [np.zeros_like(w) for w in weights]
    seconds = [np.zeros_like(w) for w in weights]
    for step in range(1, 8):
        rate = 1e-2 * (0.5 if step > 3 else 1.0)
        for number, (parameter, gradient) in enumerate(
            zip(net.parameters(), gradients(step, net), strict=True)
        ):
            parameter.grad = torch.from_numpy(gradient)
            firsts[number] = 0.9 * firsts[number] + 0.1 * gradient
            seconds[number] = 0.999 * seconds[number] + 0.001 * gradient.astype(np.float64) ** 2
            first, second = firsts[number], seconds[number]
            if bias_correction:
                first, second = first / (1 - 0.9**step), second / (1 - 0.999**step)
            decay = 0.1 if gradient.ndim >= 2 else 0.0
            weights[number] -= rate * (first / (np.sqrt(second) + 1e-6) + decay * weights[number])
        optimizers.step(factor=0.5 if step > 3 else 1.0)
    for parameter, weight in zip(net.parameters(), weights, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=2e-5, atol=1e-6)


def test_muon_takes_the_matrices_inside_layers_and_adamw_the_rest() -> None:
    net = Net()
    muon, adamw = build_optimizers(net, TrainingSettings(optimizer="muon")).members
    assert isinstance(muon, torch.optim.Muon)
    assert [p.shape for group in muon.param_groups for p in group["params"]] == [(8, 4)]
    assert {tuple(p.shape) for group in adamw.param_groups for p in group["params"]} == {(6, 4), (8,)}


def test_a_muon_update_is_nearly_orthogonal_and_of_adamws_size() -> None:
    net = Net()
    settings = TrainingSettings(optimizer="muon", matrix_learning_rate=1.0, weight_decay=0.0)
    optimizers = build_optimizers(net, settings)
    matrix = net.layers[0].weight
    before = matrix.detach().clone()
    for parameter, gradient in zip(net.parameters(), gradients(0, net), strict=True):
        parameter.grad = torch.from_numpy(gradient)
    optimizers.step(factor=1.0)
    update = (matrix.detach() - before) / (0.2 * math.sqrt(8))
    values = torch.linalg.svdvals(update)
    assert 0.6 < values.min() <= values.max() < 1.3


def test_schedules_pass_through_their_corners() -> None:
    def at(name: str, *steps: int) -> list[float]:
        schedule = Schedule(name, total_steps=1_000, warmup=100, cooldown=0.4)
        return [round(schedule(step), 6) for step in steps]

    assert at("linear", 0, 50, 100, 550, 1_000) == [0.0, 0.5, 0.9, 0.45, 0.0]
    assert at("cosine", 0, 50, 100, 550, 1_000) == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert at("constant", 0, 50, 100, 1_000) == [0.0, 0.5, 1.0, 1.0]
    assert at("warmup-stable-decay", 50, 100, 600, 700, 1_000) == [0.5, 1.0, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_stays_between_nothing_and_everything(name: str) -> None:
    for total, warmup in ((1, 0.0), (10, 0.5), (100, 300), (7, 0.01)):
        schedule = Schedule(name, total_steps=total, warmup=warmup)
        assert all(0 <= schedule(step) <= 1 for step in range(total + 1))
