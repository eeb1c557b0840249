"""What is decided for graphics cards; where there is one, the real thing on it."""

from typing import Any

import pytest
import torch
from test_runtime_attention import CHOICES, LENGTHS, error, numbers, starts_of, wanted
from test_runtime_encoder import LAYERS, NETWORKS, ids_of, network
from torch import Tensor

from polyseme.runtime import attention as attentions
from polyseme.runtime import states
from polyseme.runtime.attention import PortableAttention, VarlenAttention, attention, varlen_works
from polyseme.runtime.encoder import Reading, compiled
from polyseme.runtime.gate import lowest_cosine
from polyseme.runtime.native.attention import AttentionChoices
from polyseme.runtime.packing import Rows
from polyseme.runtime.states import Precision, as_plain

needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no graphics card")
CHOSEN = {name: choices for name, choices in CHOICES.items() if "distances" not in choices}


def documented(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, scale: float, window_size: tuple[int, int],
) -> Tensor:  # fmt: skip
    """torch's `varlen_attn` as its documentation tells it, since its kernel is for cards only."""
    assert cu_seq_q.dtype == torch.int32
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k >= int(cu_seq_q.diff().max())
    left, right = window_size
    rows = []
    for begin, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        of_heads = [one[begin:end].transpose(0, 1).double() for one in (query, key, value)]
        scores = of_heads[0] @ of_heads[1].transpose(-1, -2) * scale
        away = torch.arange(end - begin) - torch.arange(end - begin)[:, None]
        hidden = (away < -left) & (left >= 0) | (away > right) & (right >= 0)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
        rows.append((weights @ of_heads[2]).transpose(0, 1))
    return torch.cat(rows).to(query.dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_part_is_made_for_the_networks_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("the processor's kernels are asked for")

    monkeypatch.setattr(states, "library", refuse)
    there = torch.device("meta")  # A device without memory: parts are built for it, nothing is computed.
    backbone = network(name)
    moved = type(backbone)(backbone.config).to(there).eval()
    assert compiled(moved, precision="int8", device=there).device == there


@pytest.mark.parametrize("choice", CHOSEN)
def test_rows_of_any_length_in_one_call(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", documented)
    product = numbers(sum(LENGTHS), 3 * 3 * 12)
    choices = AttentionChoices(3, 12, 12**-0.5, **CHOSEN[choice])
    found = VarlenAttention(choices, as_plain)(product, starts_of(LENGTHS))
    expected = wanted(product, LENGTHS, num_heads=3, head_size=12, scale=12**-0.5, **CHOSEN[choice])
    assert isinstance(found, Tensor)
    assert (found - expected).abs().max() <= error(expected, "fp32")


@pytest.mark.parametrize(
    ("precision", "head_size", "more", "kind"),
    [
        ("bf16", 64, {}, VarlenAttention),
        ("bf16", 64, {"reach": 5, "causal": True}, VarlenAttention),
        ("fp32", 64, {}, PortableAttention),
        ("bf16", 12, {}, PortableAttention),
        ("bf16", 264, {}, PortableAttention),
        ("bf16", 64, {"distances": torch.zeros(2, 9)}, PortableAttention),
    ],
)
def test_the_kernel_is_used_for_what_it_knows(
    precision: Any, head_size: int, more: dict[str, Any], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape: dict[str, Any] = {"num_heads": 2, "head_size": head_size, "scale": 1.0, "precision": precision}
    there = torch.device("meta")
    monkeypatch.setattr(attentions, "varlen_works", lambda device: True)
    assert type(attention(**shape, **more, device=there)) is kind
    monkeypatch.setattr(attentions, "varlen_works", lambda device: False)
    assert type(attention(**shape, **more, device=there)) is PortableAttention


def test_a_device_without_the_kernel_is_not_used_with_it() -> None:
    assert not varlen_works(torch.device("cpu"))


@needs_card
def test_a_card_gives_what_the_processor_gives() -> None:
    rows = Rows.of(ids_of([1, 5, 5, 17, 40, 2, 9, 40]))
    reading, card = Reading((LAYERS,), pooling="mean"), torch.device("cuda")
    least: dict[Precision, float] = {"fp32": 0.99999, "bf16": 0.999}
    for name in NETWORKS:
        exact = compiled(network(name)).vectors(rows, reading)
        moved = type(network(name))(network(name).config).eval()
        moved.load_state_dict(network(name).state_dict())
        for precision, lowest in least.items():
            found = compiled(moved, precision=precision, device=card).vectors(rows, reading)
            assert lowest_cosine(found, exact) >= lowest, (name, precision)
