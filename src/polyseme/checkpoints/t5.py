"""T5's folders (Raffel et al. 2020), of version 1.0 and 1.1, and mT5's (Xue et al. 2021).

A classifier reads the encoder alone, by the mean of its states: the folder is one of `T5EncoderModel`, with
`classifier.weight` and `classifier.bias` beside it, which transformers mentions as unexpected. What is called
`T5ForSequenceClassification` there feeds the text to the decoder a second time, for twice the work.
"""

from dataclasses import replace
from typing import Any

from polyseme.checkpoints.formats import ACTIVATIONS, Format
from polyseme.checkpoints.rules import Rules
from polyseme.models.transformer.config import TransformerConfig

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "output"}

BACKBONE: Rules = {
    "shared.": "embeddings.tokens.",
    **{
        f"encoder.block.{{n}}.layer.0.SelfAttention.{theirs}.": f"layers.{{n}}.attention.{ours}."
        for theirs, ours in _ATTENTION.items()
    },
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.": "views.0.bias.",
    "encoder.block.{n}.layer.0.layer_norm.": "layers.{n}.attention_norm.",
    "encoder.block.{n}.layer.1.DenseReluDense.wo.": "layers.{n}.feedforward.output.",
    "encoder.block.{n}.layer.1.layer_norm.": "layers.{n}.feedforward_norm.",
    "encoder.final_layer_norm.": "final_norm.",
}

DECODER: Rules = {
    **{
        f"decoder.block.{{n}}.layer.0.SelfAttention.{theirs}.": f"decoder.layers.{{n}}.attention.{ours}."
        for theirs, ours in _ATTENTION.items()
    },
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.": "decoder.view.bias.",
    "decoder.block.{n}.layer.0.layer_norm.": "decoder.layers.{n}.attention_norm.",
    **{
        f"decoder.block.{{n}}.layer.1.EncDecAttention.{theirs}.": (
            f"decoder.layers.{{n}}.cross_attention.{ours}."
        )
        for theirs, ours in _ATTENTION.items()
    },
    "decoder.block.{n}.layer.1.layer_norm.": "decoder.layers.{n}.cross_attention_norm.",
    "decoder.block.{n}.layer.2.DenseReluDense.wo.": "decoder.layers.{n}.feedforward.output.",
    "decoder.block.{n}.layer.2.layer_norm.": "decoder.layers.{n}.feedforward_norm.",
    "decoder.final_layer_norm.": "decoder.final_norm.",
}

_WIDENED = {False: {"wi": "input"}, True: {"wi_0": "input", "wi_1": "gate"}}
"""By whether the feed-forward part is gated."""


def _feedforwards(config: TransformerConfig) -> Rules:
    places = {
        "encoder.block.{n}.layer.1.DenseReluDense": "layers.{n}.feedforward",
        "decoder.block.{n}.layer.2.DenseReluDense": "decoder.layers.{n}.feedforward",
    }
    return {
        f"{theirs}.{widened}.": f"{ours}.{part}."
        for theirs, ours in places.items()
        for widened, part in _WIDENED[config.gated].items()
    }


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    gated, activation = _read_feedforward(str(plain.get("feed_forward_proj") or "relu"))
    padding = plain.get("pad_token_id") or 0
    if plain.get("decoder_start_token_id", padding) not in (padding, None):
        raise ValueError(
            f"decoder_start_token_id is {plain['decoder_start_token_id']!r}; polyseme puts the padding "
            f"token, {padding}, before what is to be written"
        )
    dropout = plain.get("dropout_rate", 0.1)
    layers = plain.get("num_decoder_layers") or plain.get("num_layers") or 6
    return {
        "gated": gated,
        "activation": activation,
        "dropout": dropout,
        "attention_dropout": dropout,
        "decoder.num_layers": layers,
        # Releases of transformers before 5 read it from the ties: what is tied is scaled.
        "decoder.scaled_output": plain.get(
            "scale_decoder_outputs", plain.get("tie_word_embeddings") is not False
        ),
    }


def _read_feedforward(written: str) -> tuple[bool, str]:
    gate, _, activation = written.rpartition("-")
    if written == "gated-gelu":
        return True, "gelu_tanh"
    if gate not in ("", "gated") or activation not in ACTIVATIONS:
        raise ValueError(
            f"feed_forward_proj is {written!r}; polyseme computes relu, gated-gelu, gated-silu and the like"
        )
    return gate == "gated", ACTIVATIONS[activation]


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    activation = next(name for name, ours in ACTIVATIONS.items() if ours == config.activation)
    if config.gated:
        activation = "gated-gelu" if config.activation == "gelu_tanh" else f"gated-{activation}"
        if config.activation == "gelu":
            raise ValueError("activation='gelu' where gated=True; its word for that means 'gelu_tanh'")
    decoder = config.decoder
    return {
        "feed_forward_proj": activation,
        "dropout_rate": config.dropout,
        "num_decoder_layers": decoder.num_layers if decoder else config.num_layers,
        "scale_decoder_outputs": decoder is not None and decoder.scaled_output,
        "decoder_start_token_id": config.padding_id,
        "is_encoder_decoder": decoder is not None,
        "tie_word_embeddings": config.embedding.tied,
    }


T5 = Format(
    family="t5",
    rules={
        "backbone": BACKBONE,
        "pooler": {},
        "decoder": DECODER,
        "seq2seq-lm": {"lm_head.": "seq2seq-lm."},
        "classification": {"classifier.": "classification.dense."},
        "token-classification": {"classifier.": "token-classification.dense."},
    },
    more_rules=_feedforwards,
    prefix="",
    roots=(),
    # A tied head has no tensor of its own: whoever has a decoder has the head.
    marks={
        "seq2seq-lm": "decoder.final_layer_norm.weight",
        "classification": "classifier.weight",
        "token-classification": "classifier.weight",
    },
    architectures={
        frozenset(): "T5EncoderModel",
        frozenset({"decoder"}): "T5Model",
        frozenset({"decoder", "seq2seq-lm"}): "T5ForConditionalGeneration",
        frozenset({"classification"}): "T5EncoderModel",
        frozenset({"token-classification"}): "T5ForTokenClassification",
    },
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "attention.head_size": "d_kv",
        "num_layers": "num_layers",
        "num_heads": "num_heads",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "n_positions",
        "attention.bucketed.buckets": "relative_attention_num_buckets",
        "attention.bucketed.max_distance": "relative_attention_max_distance",
        "layer_norm_eps": "layer_norm_epsilon",
        "padding_id": "pad_token_id",
    },
    defaults={
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "num_layers": 6,
        "num_heads": 8,
        "d_ff": 2048,
        "n_positions": 512,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "pad_token_id": 0,
    },
    fixed={
        "type_vocab_size": 0,
        "bias": False,
        "norm": "rms",
        "norm_position": "before",
        "final_norm": True,
        "positions": "bucketed",
        "embedding.norm": False,
        "embedding.dropout_everywhere": True,
        "attention.scaled": False,
        "initial.kind": "fan-in",
    },
    demanded={"is_decoder": (False,)},
    written={"initializer_factor": 1.0, "use_cache": True},
    poolings={"mean": {}},
    classifier={"transform": "none"},
    readings={"token-classification": {"dropout": 0.0}},
    read_more=_read_more,
    write_more=_write_more,
    ties={
        "lm_head.weight": "shared.weight",
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    },
    untied="lm_head.weight",
    wrapper="transformer.",
    special_ids={"eos_token_id": "separator"},
    fresh_only=("initial.kind", "initial.range", "initial.scaled_outputs", "embedding.tied"),
)

MT5 = replace(
    T5,
    family="mt5",
    architectures={parts: name.replace("T5", "MT5") for parts, name in T5.architectures.items()},
    defaults={**T5.defaults, "vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    read_more=lambda plain: {**_read_more(plain), "decoder.scaled_output": False},
)
