"""Linear maps of packed states against float64, by every path and in every precision."""

import pytest
import torch
from reporters import Said
from runtime_paths import PATHS, computing
from torch import Tensor
from torch.nn import functional as F

from polyseme import progress
from polyseme.runtime import onednn
from polyseme.runtime.linears import BENDS, gated_linear, linear
from polyseme.runtime.native.linears import BENDS as NATIVE_BENDS
from polyseme.runtime.states import Quantised, making_ready, quantise, quantise_rows

CPU = torch.device("cpu")
CLOSE = {"fp32": 2e-6, "bf16": 5e-3}
"""How far a result may lie from float64, in parts of the largest."""


def states(tokens: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, size, generator=torch.Generator().manual_seed(seed))


def far(result: Tensor, wanted: Tensor) -> float:
    return float((result.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("activation", BENDS)
def test_a_linear_agrees_with_float64(path: str, precision: str, activation: str) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    for tokens, depth, columns in ((1, 8, 3), (13, 36, 33), (29, 64, 70)):
        x, weight, bias = (
            states(tokens, depth),
            states(columns, depth, 1) / depth**0.5,
            states(columns, 1, 2)[:, 0],
        )
        with computing(path):
            result = linear(weight, bias, precision=precision, activation=activation)(x.to(dtype))
        assert isinstance(result, Tensor)
        assert result.dtype == dtype
        products = x.to(dtype).double() @ weight.to(dtype).double().T + bias.double()
        assert far(result, BENDS[activation](products)) < CLOSE[precision]


@pytest.mark.parametrize("path", [*PATHS, "AVX2_VNNI"])
def test_eight_bits_are_multiplied_exactly(path: str) -> None:
    weight, bias = states(70, 64, 1), states(70, 1, 2)[:, 0]
    # The last two have products as large as they can be, in every place: sums must not overflow.
    for x in (states(1, 64), states(12, 64), states(31, 64), torch.ones(3, 64), -torch.ones(3, 64)):
        weight = weight.sign() if x.std() == 0 else weight
        with computing(path) as native:
            ready = making_ready("int8", CPU)(x)
            result = linear(weight, bias, precision="int8")(ready)
        assert isinstance(ready, Quantised)
        numbers, scales = quantise_rows(weight, native.pair_limit if native else None)
        wanted = ready.plain().double() @ (numbers.double() * scales[:, None]).T + bias
        assert far(result, wanted) < 4e-3  # what rounding to bfloat16 costs


def test_two_weights_of_one_sign_stay_within_the_limit_of_a_pair() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn((4000, 32), generator=generator)
    # Halves that both would be rounded up, opposite signs, one large number, and nothing at all.
    weight[0], weight[0, :4] = 0.0, torch.tensor([0.5, 127.5, -11.5, -116.5])
    weight[1], weight[1, :2] = 0.0, torch.tensor([127.0, -127.0])
    weight[2], weight[2, 5] = 0.0, -3.0
    weight[3] = 0.0
    numbers, scales = quantise_rows(weight, 128)
    pairs = numbers.view(4000, 16, 2)
    assert numbers.abs().max() == 127
    assert pairs.clamp(min=0).sum(dim=-1).max() <= 128
    assert pairs.clamp(max=0).sum(dim=-1).min() >= -128
    assert (numbers * scales[:, None] - weight).abs().le(scales[:, None] * 0.501).all()
    assert numbers[1, :2].tolist() == [127, -127]  # which costs nothing where the signs differ
    # Fewer steps than without the limit, but more than half as many again as 64 on each side would be.
    steps, free = weight[4:].abs().amax(dim=1) / scales[4:], quantise_rows(weight[4:])[0].abs().amax(dim=1)
    assert steps.mean() > 90
    assert (free == 127).all()


@pytest.mark.parametrize("path", PATHS)
def test_a_result_for_the_next_linear_is_quantised_as_a_pass_of_its_own_would(path: str) -> None:
    weight, x = states(70, 64, 1) / 8, states(25, 64)
    with computing(path):
        ready = linear(weight, None, precision="int8", activation="gelu", makes_ready=True)(x)
        plain = linear(weight, None, precision="int8", activation="gelu")(x)
    assert isinstance(ready, Quantised)
    assert (ready.plain() - plain.float()).abs().amax(dim=1).le(0.02 + ready.scales * 1.01).all()


@pytest.mark.parametrize("path", ["native", "AVX2", "SSE41"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_many_rows_and_a_large_weight_give_the_bytes_of_a_few_rows(path: str, precision: str) -> None:
    # More than a mebibyte in either precision, so rows are multiplied in blocks of another length.
    weight, x = states(1100, 1024, 1) / 32, states(401, 1024)
    with computing(path):
        made = linear(weight, None, precision=precision, activation="gelu", makes_ready=True)
        whole, parts = made(x), [made(x[begin : begin + 50]) for begin in range(0, 401, 50)]
    pieces = [one if isinstance(one, Quantised) else (one,) for one in (whole, *parts)]
    for tensors in zip(*pieces, strict=True):
        assert torch.equal(tensors[0], torch.cat(tensors[1:]))


@pytest.mark.parametrize("path", PATHS)
def test_quantised_states_are_near_and_keep_zeros(path: str) -> None:
    x = torch.cat(
        [states(40, 50), torch.zeros(1, 50), states(1, 50).abs(), -states(1, 50).abs(), states(1, 50) * 1e20]
    )
    x[:, 7] = 0.0
    with computing(path):
        ready = making_ready("int8", CPU)(x)
    assert isinstance(ready, Quantised)
    plain = ready.plain()
    assert torch.all((plain - x).abs() <= ready.scales[:, None] * 0.51 + 1e-30)
    assert torch.all(plain[:, 7] == 0)
    assert torch.all(plain[40] == 0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_gated_linear_is_two_linears_multiplied(path: str, precision: str) -> None:
    x, weight, gate = states(9, 32), states(40, 32, 1) / 6, states(40, 32, 2) / 6
    with computing(path):
        made = gated_linear(
            weight, None, gate, None, precision=precision, activation="silu", makes_ready=True
        )
        result = made(x)
    plain = result.plain() if isinstance(result, Quantised) else result
    wanted = F.silu(x.double() @ weight.double().T) * (x.double() @ gate.double().T)
    assert far(plain, wanted) < {"fp32": 2e-6, "bf16": 2e-2, "int8": 8e-2}[precision]


@pytest.mark.parametrize("path", PATHS)
def test_a_token_has_the_same_result_in_any_company(path: str) -> None:
    x, weight = states(40, 64), states(96, 64, 1)
    for precision in ("fp32", "bf16"):
        with computing(path):
            made = linear(weight, None, precision=precision)
            alone = torch.cat([made(x[i : i + 1]) for i in range(len(x))])
            together = made(x)
        assert far(alone, together.double()) < (1e-6 if precision == "fp32" else 1e-2)


def test_depths_that_the_kernels_do_not_take_go_by_torch() -> None:
    x, weight = states(5, 7), states(9, 7, 1)
    with computing("native"):
        for precision, close in (("fp32", 1e-6), ("bf16", 1e-2), ("int8", 3e-2)):
            result = linear(weight, None, precision=precision)(x)
            assert far(result, x.double() @ weight.double().T) < close


def test_no_tokens_give_no_states() -> None:
    with computing("native"):
        assert linear(states(9, 8), None, precision="fp32")(states(0, 8)).shape == (0, 9)


def test_every_activation_of_the_networks_has_its_kernel() -> None:
    from polyseme.models.activations import ACTIVATIONS

    assert set(ACTIVATIONS) <= set(BENDS)
    assert set(BENDS) == set(NATIVE_BENDS)
    for name, made in ACTIVATIONS.items():
        x = states(4, 9)
        assert torch.equal(BENDS[name](x), made()(x))


def test_quantise_fills_all_levels() -> None:
    ready = quantise(torch.linspace(-1, 3, 100)[None])
    assert ready.values.min() == 0
    assert ready.values.max() == 255


def test_onednn_is_left_alone_where_it_is_missing_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    onednn.works.cache_clear()
    try:
        with progress.reporting(said):
            monkeypatch.setitem(onednn.BENDS, "gelu", ("no such thing", ""))
            assert not onednn.works("fp32")
            monkeypatch.setitem(onednn.BENDS, "gelu", ("relu", ""))
            assert onednn.works("bf16") == onednn.works("bf16")
            onednn.works.cache_clear()
            assert not onednn.works("fp32")
    finally:
        onednn.works.cache_clear()
    assert all(line.startswith("oneDNN's ") for line in said.lines)
    assert "are wrong by" in said.lines[-1]
