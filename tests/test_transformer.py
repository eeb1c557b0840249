"""The networks agree with their references, and padding and packing change nothing."""

import itertools
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polyseme.models.batch import Batch
from polyseme.models.heads import MaskedLMHead, PairHead
from polyseme.models.transformer.config import (
    AttentionChoices,
    EmbeddingChoices,
    InitialChoices,
    RotaryChoices,
    TransformerConfig,
)
from polyseme.models.transformer.model import Transformer

BERT = {
    r"bert\.embeddings\.word_embeddings": "backbone.embeddings.tokens",
    r"bert\.embeddings\.position_embeddings": "backbone.embeddings.positions",
    r"bert\.embeddings\.token_type_embeddings": "backbone.embeddings.token_types",
    r"bert\.embeddings\.LayerNorm": "backbone.embeddings.norm",
    r"bert\.encoder\.layer\.(\d+)\.attention\.self\.(\w+)": r"backbone.layers.\1.attention.\2",
    r"bert\.encoder\.layer\.(\d+)\.attention\.output\.dense": r"backbone.layers.\1.attention.output",
    r"bert\.encoder\.layer\.(\d+)\.attention\.output\.LayerNorm": r"backbone.layers.\1.attention_norm",
    r"bert\.encoder\.layer\.(\d+)\.intermediate\.dense": r"backbone.layers.\1.feedforward.input",
    r"bert\.encoder\.layer\.(\d+)\.output\.dense": r"backbone.layers.\1.feedforward.output",
    r"bert\.encoder\.layer\.(\d+)\.output\.LayerNorm": r"backbone.layers.\1.feedforward_norm",
    r"bert\.pooler\.dense": "backbone.pooler",
    r"cls\.predictions\.transform\.dense": "masked_lm.dense",
    r"cls\.predictions\.transform\.LayerNorm": "masked_lm.norm",
    r"cls\.predictions": "masked_lm",
    r"cls\.seq_relationship": "pair.dense",
}
MODERNBERT = {
    r"model\.embeddings\.tok_embeddings": "backbone.embeddings.tokens",
    r"model\.embeddings\.norm": "backbone.embeddings.norm",
    r"model\.layers\.(\d+)\.attn\.Wqkv": r"backbone.layers.\1.attention.query+key+value",
    r"model\.layers\.(\d+)\.attn\.Wo": r"backbone.layers.\1.attention.output",
    r"model\.layers\.(\d+)\.attn_norm": r"backbone.layers.\1.attention_norm",
    r"model\.layers\.(\d+)\.mlp\.Wi": r"backbone.layers.\1.feedforward.input+gate",
    r"model\.layers\.(\d+)\.mlp\.Wo": r"backbone.layers.\1.feedforward.output",
    r"model\.layers\.(\d+)\.mlp_norm": r"backbone.layers.\1.feedforward_norm",
    r"model\.final_norm": "backbone.final_norm",
    r"head\.dense": "masked_lm.dense",
    r"head\.norm": "masked_lm.norm",
    r"decoder": "masked_lm",
}

ACTIVATIONS = [("gelu", "gelu"), ("gelu_tanh", "gelu_pytorch_tanh"), ("relu", "relu"), ("silu", "silu")]
"""Ours and the reference's names of the same."""


def redraw(module: nn.Module, seed: int) -> None:
    """Every parameter from N(0, 0.2): with norms at 1 and biases at 0 half of all mistakes stay hidden."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def translate(reference: nn.Module, ours: nn.Module, names: dict[str, str]) -> None:
    """Give `ours` the parameters of the reference; each of ours must be filled, each of theirs used."""
    values: dict[str, Tensor] = {}
    for name, parameter in reference.named_parameters():
        path, kind = name.rsplit(".", 1)
        new = next(re.sub(old, to, path) for old, to in names.items() if re.fullmatch(old, path))
        stem, _, last = new.rpartition(".")
        parts = last.split("+")
        for part, value in zip(parts, parameter.chunk(len(parts)), strict=True):
            values[f"{stem}.{part}.{kind}" if stem else f"{part}.{kind}"] = value
    ours.load_state_dict(values)


def padded_batch(rng: np.random.Generator, vocab_size: int, types: int, longest: int) -> Batch:
    """Rows of unlike length, padded on the right, on the left, or not at all."""
    rows, length = int(rng.integers(2, 5)), int(rng.integers(3, longest + 1))
    mask = np.ones((rows, length), dtype=bool)
    side = rng.choice(["right", "left", "none"])
    for row, count in enumerate(rng.integers(0, length, size=rows)):
        if side != "none" and count:
            mask[row, -count:] = False
            mask[row] = mask[row][::-1] if side == "left" else mask[row]
    return Batch(
        input_ids=torch.from_numpy(rng.integers(0, vocab_size, (rows, length))),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=torch.from_numpy(rng.integers(0, types, (rows, length))) if types else None,
    )


def assert_close(ours: Tensor, reference: Tensor) -> None:
    difference = (ours - reference).abs().max().item()
    if ours.dtype == torch.float64:
        assert difference <= 1e-9
    else:
        assert difference <= 1e-5 * reference.abs().max().item()


def drawn_shape(rng: np.random.Generator, *, head_size: int) -> dict[str, Any]:
    """Sizes of a small network, and an epsilon that may be large enough to show."""
    heads = int(rng.choice([1, 2, 4]))
    return {
        "vocab_size": int(rng.integers(30, 90)),
        "hidden_size": heads * head_size,
        "num_layers": int(rng.integers(1, 5)),
        "num_heads": heads,
        "intermediate_size": int(rng.integers(8, 80)),
        "max_position_embeddings": int(rng.integers(12, 40)),
        "layer_norm_eps": float(rng.choice([1e-12, 1e-5, 1e-3])),
    }


def theirs(shape: dict[str, Any], **renamed: str) -> dict[str, Any]:
    """The same sizes as the reference's configuration calls them."""
    renamed |= {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
    return {renamed.get(name, name): value for name, value in shape.items()}


def assert_agreement(reference: nn.Module, ours: nn.ModuleDict, batch: Batch, **read: Tensor) -> None:
    """Logits of every head of ours and every layer's states, in both precisions; `read` is theirs only."""
    for dtype in (torch.float32, torch.float64):
        reference, ours = reference.to(dtype).eval(), ours.to(dtype).eval()
        with torch.no_grad():
            expected = reference(
                batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                output_hidden_states=True,
                **read,
            )
            states = ours["backbone"](batch, every_layer=True)
            logits = {"masked_lm": ours["masked_lm"](states.last, ours["backbone"].embeddings.tokens.weight)}
            if "pair" in ours:
                logits["pair"] = ours["pair"](states.pooled)
        assert len(states.layers) == len(ours["backbone"].layers) + 1
        their_logits = [value for name, value in expected.items() if name.endswith("logits")]
        compared = [*logits.values(), *states.layers], [*their_logits, *expected.hidden_states]
        for one, other in zip(*compared, strict=True):
            assert_close(one, other)


@pytest.mark.parametrize("seed", range(10))
def test_bert_agrees_with_its_reference_in_logits_and_every_layer(seed: int) -> None:
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(seed)
    shape = drawn_shape(rng, head_size=int(rng.integers(4, 17)))
    shape["type_vocab_size"] = int(rng.integers(1, 5))
    activation, their_activation = ACTIVATIONS[seed % 4]
    config = TransformerConfig(**shape, activation=activation)
    reference = transformers.BertForPreTraining(
        transformers.BertConfig(
            **theirs(shape), hidden_act=their_activation, attn_implementation=["eager", "sdpa"][seed % 2]
        )
    )
    redraw(reference, seed)
    ours = nn.ModuleDict(
        {"backbone": Transformer(config), "masked_lm": MaskedLMHead(config), "pair": PairHead(config)}
    )
    translate(reference, ours, BERT)
    batch = padded_batch(rng, config.vocab_size, config.type_vocab_size, config.max_position_embeddings)
    assert_agreement(reference, ours, batch, token_type_ids=batch.token_type_ids)


@pytest.mark.parametrize("seed", range(10))
def test_modernbert_agrees_with_its_reference_in_logits_and_every_layer(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    # The reference rounds queries and keys to float32 before it turns them, even in float64.
    module = transformers.models.modernbert.modeling_modernbert
    monkeypatch.setattr(module, "apply_rotary_pos_emb", turned_without_rounding)
    rng = np.random.default_rng(100 + seed)
    shape = drawn_shape(rng, head_size=2 * int(rng.integers(2, 9)))
    base, bias = float(rng.choice([100.0, 10_000.0, 160_000.0])), seed % 3 == 2
    activation, their_activation = ACTIVATIONS[seed % 4]
    attention = AttentionChoices(first_norm=False, rotary=RotaryChoices(base=base))
    config = modernbert(**shape, activation=activation, bias=bias, attention=attention)
    reference = transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(
            **theirs(shape, layer_norm_eps="norm_eps"),
            **dict.fromkeys(("hidden_activation", "classifier_activation"), their_activation),
            **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), bias),
            global_attn_every_n_layers=1,
            global_rope_theta=base,
            pad_token_id=0,
            attn_implementation="sdpa",  # the eager form rounds probabilities to float32, even in float64
        )
    )
    redraw(reference, seed)
    ours = nn.ModuleDict({"backbone": Transformer(config), "masked_lm": MaskedLMHead(config)})
    translate(reference, ours, MODERNBERT)
    assert_agreement(reference, ours, padded_batch(rng, config.vocab_size, 0, config.max_position_embeddings))


def turned_without_rounding(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    def turn(states: Tensor) -> Tensor:
        left, right = states.chunk(2, dim=-1)
        other = torch.cat((-right, left), dim=-1)
        return states * cos.unsqueeze(unsqueeze_dim) + other * sin.unsqueeze(unsqueeze_dim)

    return turn(query), turn(key)


def bert(**changes: object) -> TransformerConfig:
    small = {"vocab_size": 50, "hidden_size": 24, "num_layers": 2, "num_heads": 2, "intermediate_size": 40}
    return TransformerConfig(**(small | {"max_position_embeddings": 32} | changes))  # type: ignore[arg-type]


def modernbert(**changes: object) -> TransformerConfig:
    choices = {
        "type_vocab_size": 0,
        "gated": True,
        "bias": False,
        "norm_position": "before",
        "layer_norm_eps": 1e-5,
        "positions": "rotary",
        "attention": AttentionChoices(first_norm=False, rotary=RotaryChoices(base=160_000.0)),
        "final_norm": True,
        "pooler": False,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "initial": InitialChoices(scaled_outputs=True),
    }
    return bert(**(choices | changes))


def fresh(config: TransformerConfig, seed: int = 0) -> Transformer:
    model = Transformer(config).eval()
    redraw(model, seed)
    return model


FAMILIES = pytest.mark.parametrize("family", [bert, modernbert], ids=["bert", "modernbert"])


@FAMILIES
def test_texts_packed_into_rows_get_the_states_they_get_alone(family) -> None:
    model = fresh(family()).double()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows, length = 3, 24
        ids = torch.from_numpy(rng.integers(0, 50, (rows, length)))
        documents = torch.zeros(rows, length, dtype=torch.long)
        places = torch.zeros(rows, length, dtype=torch.long)
        texts = []
        for row in range(rows):
            cuts = [0, *sorted(rng.choice(np.arange(1, length), size=3, replace=False))]
            for number, (start, stop) in enumerate(itertools.pairwise(cuts), 1):
                documents[row, start:stop] = number
                places[row, start:stop] = torch.arange(stop - start)
                texts.append((row, slice(start, stop)))
        packed = Batch(ids, position_ids=places, document_ids=documents)
        with torch.no_grad():
            states = model(packed).last
            unnumbered = model(replace(packed, position_ids=None)).last
            assert (states - unnumbered)[documents > 0].abs().max() <= 1e-6
            for row, span in texts:
                alone = model(Batch(ids[row : row + 1, span])).last
                assert (states[row, span] - alone[0]).abs().max() <= 1e-6
        assert states.isfinite().all()


@FAMILIES
def test_padding_does_not_change_a_text(family) -> None:
    model = fresh(family()).double()
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (1, 9)))
    with torch.no_grad():
        alone = model(Batch(ids))
        for filling in range(3):
            filled = torch.cat((ids, torch.full((1, 7), filling)), dim=1)
            mask = torch.arange(16)[None] < 9
            padded = model(Batch(filled, attention_mask=mask))
            assert (padded.last[:, :9] - alone.last).abs().max() <= 1e-12


@FAMILIES
def test_a_row_of_padding_only_stays_finite_forwards_and_backwards(family) -> None:
    model = fresh(family())
    for training in (False, True):
        model.train(training).zero_grad()
        ids = torch.zeros(2, 6, dtype=torch.long)
        mask = torch.tensor([[True] * 4 + [False] * 2, [False] * 6])
        for batch in (Batch(ids, attention_mask=mask), Batch(ids, document_ids=mask.long())):
            states = model(batch).last
            states.square().mean().backward()
            assert states.isfinite().all()
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@FAMILIES
def test_the_same_seed_gives_the_same_fresh_weights(family) -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(Transformer(family()).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_fresh_matrices_are_cut_at_two_deviations_and_outputs_are_scaled() -> None:
    torch.manual_seed(0)
    config = modernbert(hidden_size=128, intermediate_size=256, num_layers=8)
    weights = Transformer(config).state_dict()
    for name, value in weights.items():
        if value.dim() == 1:
            assert torch.equal(value, torch.ones_like(value)), name
            continue
        wanted = 0.02 / 4 if name.endswith("output.weight") else 0.02
        assert value.abs().max() <= 2 * wanted
        # A normal distribution cut at two deviations keeps 0.88 of its deviation.
        assert abs(value.std().item() / (0.8796 * wanted) - 1) < 0.05, name


def test_a_row_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a row has 33 tokens but this model reads at most 32 .*split"):
        fresh(bert())(Batch(torch.zeros(1, 33, dtype=torch.long)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, r"vocab_size must be at least 1, got 0"),
        ({"num_layers": -1}, r"num_layers must be at least 0, got -1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"layer_norm_eps": 0.0}, r"layer_norm_eps must be above 0, got 0.0"),
        ({"padding_id": 50}, r"padding_id must be one of the 50 tokens of vocab_size, got 50"),
        ({"num_heads": 5}, r"hidden_size 24 is not a multiple of num_heads 5; 20 would be"),
        ({"positions": "rotary", "num_heads": 8}, r"rotary .* a head has 3 .* even"),
        ({"final_norm": True}, r"final_norm True .* norm_position 'after'.*set final_norm to False"),
        ({"norm_position": "before"}, r"final_norm False .* 'before'.*set final_norm to True"),
        (
            {"attention": AttentionChoices(first_norm=False)},
            r"attention.first_norm .* norm_position to 'before'",
        ),
        (
            {"embedding": EmbeddingChoices(position_offset=2), "positions": "none"},
            r"position_offset 2 .* set it to 0",
        ),
        (
            {"attention": AttentionChoices(window=4, global_every=3)},
            r"attention.window 4 is for rotary positions, got 'learned'; leave window",
        ),
        ({"distinct_layers": 3}, r"distinct_layers must lie between 1 and num_layers 2, got 3"),
        (
            {"distinct_layers": 1, "norm_position": "before", "final_norm": True},
            r"distinct_layers 1 shares layers .*leave it out",
        ),
        (
            {"initial": InitialChoices(scaled_outputs=True)},
            r"scaled_outputs .*set initial\.scaled_outputs",
        ),
    ],
)
def test_a_wrong_choice_is_refused_with_value_rule_and_way_out(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bert(**changes)


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        (EmbeddingChoices, {"size": 0}, r"embedding.size must be at least 1, got 0"),
        (EmbeddingChoices, {"position_offset": -1}, r"embedding.position_offset must be at least 0, got -1"),
        (AttentionChoices, {"head_size": 0}, r"attention.head_size must be at least 1, got 0"),
        (AttentionChoices, {"window": 8}, r"attention.window 8 .* go together: .*give both or neither"),
        (RotaryChoices, {"base": 0.0}, r"attention.rotary.base must be above 0, got 0.0"),
        (RotaryChoices, {"local_base": -1.0}, r"attention.rotary.local_base must be above 0, got -1.0"),
    ],
)
def test_a_wrong_choice_within_a_choice_is_refused_too(record, changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record(**changes)


def test_the_records_of_choices_stay_small() -> None:
    for record in (TransformerConfig, AttentionChoices, EmbeddingChoices):
        assert len(record.__struct_fields__) <= 24
