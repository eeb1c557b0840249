"""Optimizers and schedules against their formulas in NumPy."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

from polyseme.errors import SettingsError
from polyseme.records import from_plain
from polyseme.training.muon import Float32Muon
from polyseme.training.optimizers import OPTIMIZERS, build_optimizers
from polyseme.training.schedules import SCHEDULES, Schedule
from polyseme.training.settings import AdafactorSettings, TrainingSettings
from polyseme.training.state import Progress, load_state, newest_state, save_state

Array = np.ndarray[Any, np.dtype[np.float64]]
Rule = Callable[[Array, Array, int, float, dict[str, Any]], Array]
"""(weight, gradient, step from 1, rate, what the rule remembers of this parameter) to the new weight."""


class Net(nn.Module):
    """A table, a layer's matrix, its bias, and a norm: one parameter of each sort, redrawn."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.LayerNorm(8)])
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2)


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().double()


def gradients(seed: int, module: nn.Module) -> Iterator[tuple[nn.Parameter, Array]]:
    rng = np.random.default_rng(seed)
    for parameter in module.parameters():
        yield parameter, rng.normal(size=tuple(parameter.shape))


def follows(settings: TrainingSettings, rule: Rule, *, module: nn.Module | None = None) -> None:
    """Eight steps of the optimizer are eight steps of the rule, in float64, under a rate that changes."""
    module = module or net()
    optimizers = build_optimizers(module, settings)
    weights = [p.detach().numpy().copy() for p in module.parameters()]
    memories: list[dict[str, Any]] = [{} for _ in weights]
    for step in range(1, 9):
        factor = 0.5 if step > 3 else 1.0
        for number, (parameter, gradient) in enumerate(gradients(step, module)):
            parameter.grad = torch.from_numpy(gradient)
            weights[number] = rule(
                weights[number], gradient, step, settings.learning_rate * factor, memories[number]
            )
        optimizers.step(factor=factor)
    for parameter, weight in zip(module.parameters(), weights, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-11, atol=1e-13)


def averages(gradient: Array, memory: dict[str, Any]) -> tuple[Array, Array]:
    memory["first"] = 0.9 * memory.get("first", 0.0) + 0.1 * gradient
    memory["second"] = 0.98 * memory.get("second", 0.0) + 0.02 * gradient**2
    return memory["first"], memory["second"]


def decay(weight: Array) -> float:
    return 0.1 if weight.ndim >= 2 else 0.0


COMMON: dict[str, Any] = {
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "epsilon": 1e-3,
    "betas": (0.9, 0.98),
}


@pytest.mark.parametrize("bias_correction", [True, False, "rate"])
def test_adamw_is_its_formula_in_all_three_forms(bias_correction: Any) -> None:
    def rule(weight: Array, gradient: Array, step: int, rate: float, memory: dict[str, Any]) -> Array:
        first, second = averages(gradient, memory)
        if bias_correction is True:
            first, second = first / (1 - 0.9**step), second / (1 - 0.98**step)
        if bias_correction == "rate":  # finetune-transformer-lm, opt.py
            rate = rate * math.sqrt(1 - 0.98**step) / (1 - 0.9**step)
        return weight - rate * (first / (np.sqrt(second) + 1e-3) + decay(weight) * weight)

    follows(TrainingSettings(bias_correction=bias_correction, **COMMON), rule)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_lamb_is_its_formula_and_leaves_norms_and_biases_unscaled(bias_correction: bool) -> None:
    def rule(weight: Array, gradient: Array, step: int, rate: float, memory: dict[str, Any]) -> Array:
        first, second = averages(gradient, memory)
        if bias_correction:
            first, second = first / (1 - 0.9**step), second / (1 - 0.98**step)
        update = first / (np.sqrt(second) + 1e-3) + decay(weight) * weight
        ratio = np.linalg.norm(weight) / np.linalg.norm(update) if weight.ndim >= 2 else 1.0
        return weight - rate * ratio * update

    follows(TrainingSettings(optimizer="lamb", bias_correction=bias_correction, **COMMON), rule)


def test_lamb_can_leave_zeros_and_an_empty_update_does_nothing() -> None:
    module = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(module.weight)
    optimizers = build_optimizers(module, TrainingSettings(optimizer="lamb", learning_rate=0.1))
    module.weight.grad = torch.zeros(2, 3)
    optimizers.step(factor=1.0)
    assert torch.equal(module.weight, torch.zeros(2, 3))
    module.weight.grad = torch.ones(2, 3)
    optimizers.step(factor=1.0)
    assert torch.isfinite(module.weight).all()
    assert (module.weight < 0).all()


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("threshold", [1.0, 0.3, None])
@pytest.mark.parametrize("least_factored", [4, 9])
def test_adafactor_is_its_formula(scaled: bool, threshold: float | None, least_factored: int) -> None:
    def rule(weight: Array, gradient: Array, step: int, rate: float, memory: dict[str, Any]) -> Array:
        beta = 1 - step**-0.8
        squares = gradient**2 + 1e-30
        if weight.ndim == 2 and min(weight.shape) >= least_factored:
            memory["rows"] = beta * memory.get("rows", 0.0) + (1 - beta) * squares.sum(axis=1)
            memory["columns"] = beta * memory.get("columns", 0.0) + (1 - beta) * squares.sum(axis=0)
            second = np.outer(memory["rows"], memory["columns"]) / memory["rows"].sum()  # algorithm 4
        else:
            memory["second"] = second = beta * memory.get("second", 0.0) + (1 - beta) * squares
        update = gradient / np.sqrt(second)
        if threshold is not None:
            update /= max(1.0, np.sqrt(np.mean(update**2)) / threshold)
        if scaled:
            update *= max(0.15, np.sqrt(np.mean(weight**2)))
        return weight - rate * (update + decay(weight) * weight)

    adafactor = AdafactorSettings(
        clipping_threshold=threshold,
        parameter_scaling=scaled,
        least_scale=0.15,
        least_factored=least_factored,
    )
    settings = TrainingSettings(
        optimizer="adafactor", learning_rate=1e-2, weight_decay=0.1, adafactor=adafactor
    )
    follows(settings, rule)


def test_adafactor_remembers_a_row_and_a_column_of_a_large_matrix() -> None:
    module = nn.Linear(40, 50)
    optimizers = build_optimizers(module, TrainingSettings(optimizer="adafactor"))
    module(torch.randn(2, 40)).sum().backward()
    optimizers.step(factor=1.0)
    (adafactor,) = optimizers.members
    assert {name: tuple(value.shape) for name, value in adafactor.state[module.weight].items()} == {
        "step": (),
        "rows": (50,),
        "columns": (40,),
    }


def test_adagrad_is_its_formula_from_its_first_sum_on() -> None:
    def rule(weight: Array, gradient: Array, step: int, rate: float, memory: dict[str, Any]) -> Array:
        gradient = gradient + decay(weight) * weight
        memory["sum"] = memory.get("sum", 1.0) + gradient**2
        return weight - rate * gradient / (np.sqrt(memory["sum"]) + 1e-3)

    follows(TrainingSettings(optimizer="adagrad", initial_accumulator=1.0, **COMMON), rule)


def test_sgd_is_its_formula() -> None:
    def rule(weight: Array, gradient: Array, step: int, rate: float, memory: dict[str, Any]) -> Array:
        return weight - rate * (gradient + decay(weight) * weight)

    follows(TrainingSettings(optimizer="sgd", **COMMON), rule)


@pytest.fixture(params=[True, False], ids=["with bfloat16", "without"])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the processor counts as one that multiplies bfloat16 faster than float32."""
    monkeypatch.setattr("polyseme.training.optimizers.has_bf16", lambda device: request.param)
    return bool(request.param)


def test_muon_takes_the_matrices_inside_layers_and_adamw_the_rest(bfloat16: bool) -> None:
    muon, adamw = build_optimizers(Net(), TrainingSettings(optimizer="muon")).members
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(muon, Float32Muon) != bfloat16  # float32 where bfloat16 would take ten times as long
    assert [p.shape for group in muon.param_groups for p in group["params"]] == [(8, 4)]
    assert {tuple(p.shape) for group in adamw.param_groups for p in group["params"]} == {(6, 4), (8,)}


def test_a_muon_update_is_nearly_orthogonal_and_of_adamws_size(bfloat16: bool) -> None:
    module = net()
    settings = TrainingSettings(optimizer="muon", matrix_learning_rate=1.0, weight_decay=0.0)
    optimizers = build_optimizers(module, settings)
    matrix = module.layers[0].weight
    before = matrix.detach().clone()
    for parameter, gradient in gradients(0, module):
        parameter.grad = torch.from_numpy(gradient)
    optimizers.step(factor=1.0)
    update = (matrix.detach() - before) / (0.2 * math.sqrt(8))
    values = torch.linalg.svdvals(update)
    assert 0.6 < values.min() <= values.max() < 1.3


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (24, 24)])
def test_muon_in_float32_is_torchs_but_for_the_digits_of_bfloat16(shape: tuple[int, int]) -> None:
    drawn = torch.Generator().manual_seed(shape[0])
    # Singular values from 1 to 0.3, so that bfloat16's digits are not lost in the iteration.
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=drawn), full_matrices=False)
    gradient = left * torch.linspace(1, 0.3, min(shape)) @ right
    start = torch.randn(shape, generator=drawn)
    results = []
    for kind, options in ((torch.optim.Muon, {"adjust_lr_fn": "match_rms_adamw"}), (Float32Muon, {})):
        matrix = torch.nn.Parameter(start.clone())
        optimizer = kind([matrix], lr=0.1, weight_decay=0.5, **options)
        for _ in range(3):
            matrix.grad = gradient.clone()
            optimizer.step()
        results.append(matrix.detach())
        assert [set(state) for state in optimizer.state.values()] == [{"momentum_buffer"}]
    size = 3 * 0.1 * 0.2 * math.sqrt(max(shape))  # of what three steps of singular values near 1 move
    # Fifteen products, each rounded twice, where the iteration's slope is 1 at most; a tenth of the step.
    assert (
        torch.linalg.matrix_norm(results[0] - results[1], 2) < 30 * torch.finfo(torch.bfloat16).eps / 2 * size
    )
    assert torch.linalg.matrix_norm(results[0] - start, 2) > 0.5 * size


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("bias_correction", [True, False])
def test_a_saved_state_goes_on_bit_for_bit(tmp_path: Path, optimizer: Any, bias_correction: bool) -> None:
    settings = TrainingSettings(
        optimizer=optimizer,
        learning_rate=1e-2,
        bias_correction=bias_correction,
        adafactor=AdafactorSettings(least_factored=4),
    )

    def step(module: Net, optimizers: Any, number: int) -> None:
        for parameter, gradient in gradients(number, module):
            parameter.grad = torch.from_numpy(gradient).float()
        optimizers.step(factor=1 / number)

    whole = Net()
    optimizers = build_optimizers(whole, settings)
    for number in range(1, 4):
        step(whole, optimizers, number)
    progress = Progress(
        step=3, epoch=0, batch=3, tokens=0, seconds=0.0, total_steps=9, settled=True, environment={}
    )
    save_state(tmp_path, whole, optimizers, progress)
    resumed = Net()
    others = build_optimizers(resumed, settings)
    found = newest_state(tmp_path)
    assert found is not None
    load_state(found, resumed, others)
    for number in range(4, 8):
        step(whole, optimizers, number)
        step(resumed, others, number)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_settings_name_every_optimizer_and_every_schedule() -> None:
    hints = get_type_hints(TrainingSettings)
    assert set(get_args(hints["optimizer"])) == set(OPTIMIZERS)
    assert set(get_args(hints["schedule"])) == set(SCHEDULES)
    assert len(hints) <= 24


def test_the_page_about_optimizers_tells_of_each() -> None:
    page = (Path(__file__).parents[1] / "docs" / "optimizers.md").read_text("utf-8")
    for name in (*OPTIMIZERS, *SCHEDULES):
        assert f"| `{name}` |" in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lam"}, "training: Invalid enum value 'lam'"),
        (
            {"optimizer": "lamb", "bias_correction": "rate"},
            "bias_correction 'rate' is a form of AdamW, and the optimizer is lamb; set it to true or false",
        ),
        ({"betas": [0.9, 1.0]}, r"betas must lie from 0 to below 1, got 0\.9 and 1\.0"),
        ({"weight_decay": -0.1}, r"weight_decay must not be negative, got -0\.1"),
        ({"initial_accumulator": -1}, r"initial_accumulator must not be negative, got -1\.0"),
        ({"adafactor": {"exponent": 0}}, r"exponent must lie above 0 and up to 1, got 0\.0"),
        (
            {"adafactor": {"clipping_threshold": 0}},
            r"clipping_threshold must be above 0, got 0\.0; leave it out for none",
        ),
        ({"adafactor": {"least_scale": 0}}, r"least_scale must be above 0 and least_factored at least 1"),
        (
            {"adafactor": {"clipping": 1}},
            r"adafactor\.clipping is not a setting here \(did you mean 'clipping_threshold'\?\)",
        ),
    ],
)
def test_a_wrong_setting_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        from_plain(changes, TrainingSettings, where="training")
    assert "\n" not in str(caught.value)


def test_schedules_pass_through_their_corners() -> None:
    def at(name: str, *steps: int) -> list[float]:
        schedule = Schedule(name, total_steps=1_000, warmup=100, cooldown=0.4)
        return [round(schedule(step), 6) for step in steps]

    assert at("linear", 0, 50, 100, 550, 1_000) == [0.0, 0.5, 0.9, 0.45, 0.0]
    assert at("cosine", 0, 50, 100, 550, 1_000) == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert at("constant", 0, 50, 100, 1_000) == [0.0, 0.5, 1.0, 1.0]
    assert at("warmup-stable-decay", 50, 100, 600, 700, 1_000) == [0.5, 1.0, 1.0, 0.5, 0.0]
    assert at("warmup-times-linear", 0, 50, 100, 550, 1_000) == [0.0, 0.475, 0.9, 0.45, 0.0]
    assert at("noam", 0, 49, 99, 399) == [0.01, 0.5, 1.0, 0.5]
    assert at("inverse-root", 0, 100, 400, 1_000) == [1.0, 1.0, 0.5, 0.316228]


def test_noam_and_the_inverse_root_give_the_published_rates() -> None:
    noam = Schedule("noam", total_steps=100_000, warmup=4_000)
    for number in (1, 100, 4_000, 16_000, 100_000):  # equation 3 of the paper counts from 1
        published = 512**-0.5 * min(number**-0.5, number * 4_000**-1.5)
        assert noam(number - 1) * (512 * 4_000) ** -0.5 == pytest.approx(published, rel=1e-12)
    root = Schedule("inverse-root", total_steps=1_000_000, warmup=10_000)
    for step in (0, 1, 10_000, 40_000, 1_000_000):
        assert root(step) * 0.01 == pytest.approx(max(step, 10_000) ** -0.5, rel=1e-12)


def test_the_warm_up_is_multiplied_with_the_decay_as_in_gpt_and_electra() -> None:
    schedule = Schedule("warmup-times-linear", total_steps=500, warmup=0.002 * 500)
    for step in range(501):
        x, warmup = step / 500, 0.002
        gpt = (x / warmup if x <= warmup else 1.0) * (1 - x)
        assert schedule(step) == pytest.approx(gpt, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_stays_between_nothing_and_everything(name: str) -> None:
    for total, warmup in ((1, 0.0), (10, 0.5), (100, 300), (7, 0.01)):
        schedule = Schedule(name, total_steps=total, warmup=warmup)
        assert all(0 <= schedule(step) <= 1 for step in range(total + 1))
