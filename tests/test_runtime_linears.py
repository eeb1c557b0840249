"""Linear maps of packed states against float64, by every path and in every precision."""

import pytest
import torch
from reporters import Said
from rounding import FORMATS, GELU_SHORT, STEEPEST, rounded, summed, unit
from runtime_paths import PATHS, computing
from torch import Tensor
from torch.nn import functional as F

from polyseme import progress
from polyseme.runtime import onednn
from polyseme.runtime.linears import BENDS, Linear, PortableLinear, gated_linear, linear
from polyseme.runtime.native.linears import BENDS as NATIVE_BENDS
from polyseme.runtime.native.linears import NativeLinear
from polyseme.runtime.states import Quantised, making_ready, quantise, quantise_rows

CPU = torch.device("cpu")


def states(tokens: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, size, generator=torch.Generator().manual_seed(seed))


def near(result: Tensor, exact: Tensor, error: Tensor | float) -> bool:
    return bool(((result.double() - exact).abs() <= error).all())


def allowed(
    made: Linear, x: Tensor, weight: Tensor, bias: Tensor, activation: str, dtype: torch.dtype
) -> Tensor:
    """The largest error of a linear: of its sum, of its activation, and of rounding the result once."""
    products = x.double() @ weight.double().T + bias.double()
    before = summed(x.double().abs() @ weight.double().abs().T + bias.double().abs(), x.size(1) + 1)
    if not isinstance(made, NativeLinear):
        before = before + rounded(bias, dtype)  # torch's calls and oneDNN want it in the type of the states
    if isinstance(made, PortableLinear):
        before = before + rounded(products, dtype)  # torch's product and its activation are two calls
    # The activations of float32 are right to six units of the larger of 1 and what they are given.
    own = rounded(products.abs().clamp(min=1), torch.float32, 6)
    if isinstance(made, NativeLinear) and activation == "gelu" and dtype == torch.bfloat16:
        own = own + GELU_SHORT
    return STEEPEST * before + own + rounded(BENDS[activation](products).abs() + own, dtype)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("activation", BENDS)
def test_a_linear_agrees_with_float64(path: str, precision: str, activation: str) -> None:
    dtype = FORMATS[precision]
    for tokens, depth, columns in ((1, 8, 3), (13, 36, 33), (29, 64, 70)):
        x, weight, bias = (
            states(tokens, depth),
            states(columns, depth, 1) / depth**0.5,
            states(columns, 1, 2)[:, 0],
        )
        x, weight = x.to(dtype), weight.to(dtype)
        with computing(path):
            made = linear(weight.float(), bias, precision=precision, activation=activation)
            result = made(x)
        assert isinstance(result, Tensor)
        assert result.dtype == dtype
        products = x.double() @ weight.double().T + bias.double()
        assert near(result, BENDS[activation](products), allowed(made, x, weight, bias, activation, dtype))


@pytest.mark.parametrize("path", PATHS)
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
        exact = ready.plain().double() @ (numbers.double() * scales[:, None]).T + bias
        # Whole numbers are added up without an error; zeros, scales and the bias are float32's.
        whole = ready.values.double() @ numbers.double().abs().T + ready.zeros[
            :, None
        ] * numbers.double().abs().sum(1)
        error = summed(whole * ready.scales[:, None] * scales + bias.abs(), 6)
        assert near(result, exact, error + rounded(exact.abs() + error, torch.bfloat16))


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
    assert isinstance(plain, Tensor)
    # One step of the eight bits, where both are rounded, and one rounding of the plain result.
    assert near(
        ready.plain(), plain.double(), ready.scales[:, None] * 1.01 + rounded(plain, torch.bfloat16, 2)
    )


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
    # Half a step, and the roundings of the scale and of the quotient, which is at most 255.
    assert near(plain, x.double(), ready.scales[:, None].double() * (0.5 + 255 * 4 * unit(torch.float32)))
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
    assert near(plain, *gated(x, weight, gate, precision, result))


def gated(
    x: Tensor, weight: Tensor, gate: Tensor, precision: str, result: Tensor | Quantised
) -> tuple[Tensor, Tensor]:
    """The exact gated product of what is really multiplied, and the largest error of computing it."""
    dtype = FORMATS[precision]
    if precision == "int8":
        x = quantise(x).plain()
        error_of = {one: quantise_rows(one, 128)[1][:, None] for one in (weight, gate)}
    else:
        x, weight, gate = (one.to(dtype) for one in (x, weight, gate))
        error_of = {}
    left, right = (x.double() @ one.double().T for one in (weight, gate))
    errors = []
    for product, one in ((left, weight), (right, gate)):
        error = summed(x.double().abs() @ one.double().abs().T, x.size(1)) + rounded(product, dtype, 2)
        if precision == "int8":  # half a step of each weight
            error = error + 0.5 * (x.double().abs() @ error_of[one].expand_as(one).double().T)
        errors.append(error)
    bent = F.silu(left)
    error_left = (
        STEEPEST * errors[0] + rounded(bent, dtype) + rounded(left.abs().clamp(min=1), torch.float32, 6)
    )
    exact = bent * right
    error = error_left * right.abs() + bent.abs() * errors[1] + error_left * errors[1]
    error = error + rounded(exact.abs() + error, dtype)
    return exact, error + result.scales[:, None] * 0.51 if isinstance(result, Quantised) else error


@pytest.mark.parametrize("path", PATHS)
def test_a_token_has_the_same_result_in_any_company(path: str) -> None:
    x, weight = states(40, 64), states(96, 64, 1)
    for precision in ("fp32", "bf16"):
        dtype = FORMATS[precision]
        with computing(path):
            made = linear(weight, None, precision=precision)
            alone = torch.cat([made(x[i : i + 1]) for i in range(len(x))])
            together = made(x)
        sums = x.to(dtype).double().abs() @ weight.to(dtype).double().abs().T
        both = 2 * summed(sums, 64)  # each may be added up in an order of its own
        assert near(alone, together.double(), both + rounded(together, dtype, 2.1))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_depths_that_the_kernels_do_not_take_go_by_torch(precision: str) -> None:
    x, weight, dtype = states(5, 7), states(9, 7, 1), FORMATS[precision]
    with computing("native"):
        made = linear(weight, None, precision=precision)
        result = made(x)
    assert not isinstance(made, NativeLinear) or precision == "fp32"
    if precision == "int8":
        numbers, scales = quantise_rows(weight)
        x, weight = quantise(x).plain(), numbers * scales[:, None]
    else:
        x, weight = x.to(dtype), weight.to(dtype)
    exact = x.double() @ weight.double().T
    sums = summed(x.double().abs() @ weight.double().abs().T, 7 + 6)
    assert near(result, exact, sums + rounded(exact.abs() + sums, dtype))


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
    monkeypatch.delenv("POLYSEME_KERNELS", raising=False)
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
