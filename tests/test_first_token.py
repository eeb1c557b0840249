"""Where a head reads the first token alone, the last layer computes no other, and the result is the same."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from polyseme.models.batch import Batch
from polyseme.models.heads import ClassificationHead
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import (
    AttentionChoices,
    DecoderChoices,
    TransformerConfig,
)
from polyseme.models.transformer.first_token import first_states, has_first_states
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.classification import Classifier
from polyseme.tasks.settings import ClassificationSettings

KINDS: dict[str, dict[str, Any]] = {
    "norms after": {},
    "norms before, gated": {"norm_position": "before", "final_norm": True, "gated": True},
    "rotary, windows": {
        "positions": "rotary",
        "attention": AttentionChoices(window=2, global_every=2),
        "num_layers": 4,
    },
    "buckets, root mean square": {"positions": "bucketed", "norm": "rms"},
    "sines, causal": {"positions": "sinusoidal", "attention": AttentionChoices(causal=True)},
    "shared layers": {"distinct_layers": 1, "num_layers": 3},
    "one layer": {"num_layers": 1},
}


def small(**choices: Any) -> Transformer:
    torch.manual_seed(0)
    plain = {"vocab_size": 50, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64}
    network = build(TransformerConfig(**plain | {"max_position_embeddings": 16} | choices))
    with torch.no_grad():  # fresh biases are 0, which would hide what is left out
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def padded() -> Batch:
    """Rows of 9, 4 and 1 tokens."""
    torch.manual_seed(1)
    real = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    return Batch(torch.randint(1, 50, (3, 9)) * real, attention_mask=real)


def gradients(network: Transformer, result: Tensor) -> list[Tensor]:
    network.zero_grad()
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view(result.shape)
    (result * weights).sum().backward()  # type: ignore[no-untyped-call]
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]


@pytest.mark.parametrize("places", [None, "given"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_state_and_its_gradients_are_those_of_the_whole_network(
    kind: str, places: str | None
) -> None:
    network, batch = small(**KINDS[kind]).double(), padded()
    if places:
        numbers = (torch.arange(9) + 3).expand(3, -1)
        batch = Batch(batch.input_ids, attention_mask=batch.attention_mask, position_ids=numbers)
    assert has_first_states(network)
    whole, first = network(batch), first_states(network, batch)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(first.last, whole.last[:, :1], **close)
    torch.testing.assert_close(first.pooled, whole.pooled, **close)
    for mine, theirs in zip(gradients(network, first.pooled), gradients(network, whole.pooled), strict=True):
        torch.testing.assert_close(mine, theirs, **close)


def test_a_network_with_a_decoder_or_relative_positions_is_read_whole() -> None:
    choices = {"pooler": False, "type_vocab_size": 0}
    assert not has_first_states(small(positions="relative", bias=True, **choices))
    assert not has_first_states(small(positions="sinusoidal", decoder=DecoderChoices(), **choices))


@pytest.mark.parametrize(
    ("pooling", "spares"), [("pooler", True), ("first", True), ("mean", False), ("last", False)]
)
def test_a_classifier_computes_the_last_layer_for_what_its_head_reads(pooling: str, spares: bool) -> None:
    network, batch = small(), padded()
    head = ClassificationHead(network.config, 3, pooling)
    classifier = Classifier(network, head, ClassificationSettings()).eval()
    labelled = Batch(batch.input_ids, attention_mask=batch.attention_mask, labels=torch.tensor([0, 1, 2]))
    with FlopCounterMode(display=False) as whole:
        expected = classifier.loss(network(labelled), labelled)
    with FlopCounterMode(display=False) as spared:
        found = classifier(labelled)
    torch.testing.assert_close(found.total, expected.total)
    ratio = spared.get_total_flops() / whole.get_total_flops()
    assert (0.5 < ratio < 0.7) if spares else ratio == 1


def test_a_classifier_that_also_learns_to_predict_tokens_reads_all_states() -> None:
    network = small(attention=AttentionChoices(causal=True))
    head = ClassificationHead(network.config, 3, "first")
    classifier = Classifier(network, head, ClassificationSettings(lm_weight=0.5)).eval()
    batch = padded()
    labelled = Batch(batch.input_ids, attention_mask=batch.attention_mask, labels=torch.tensor([0, 1, 2]))
    expected = classifier.loss(network(labelled), labelled)
    torch.testing.assert_close(classifier(labelled).total, expected.total)


def test_rows_that_are_too_long_are_refused_as_by_the_whole_network() -> None:
    with pytest.raises(ValueError, match="max_position_embeddings"):
        first_states(small(max_position_embeddings=8), padded())
