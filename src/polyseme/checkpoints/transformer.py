"""Folders of the Transformer (Vaswani et al. 2017). The layout is our own, since nobody has published one.

config.json names the choices by the usual words; the tensors have the names that the modules have here. The
table of sines is stored with them. transformers has no class for it.
"""

from typing import Any

from polyseme.checkpoints.formats import Format
from polyseme.checkpoints.rules import Rules
from polyseme.models.transformer.config import TransformerConfig

_ATTENTION = ("query", "key", "value", "output")


def _itself(*names: str) -> Rules:
    return {name: name for name in names}


BACKBONE = _itself(
    "embeddings.tokens.",
    "embeddings.positions.",
    *(f"layers.{{n}}.attention.{part}." for part in _ATTENTION),
    "layers.{n}.attention_norm.",
    "layers.{n}.feedforward.input.",
    "layers.{n}.feedforward.output.",
    "layers.{n}.feedforward_norm.",
    "final_norm.",
)

DECODER = _itself(
    *(f"decoder.layers.{{n}}.attention.{part}." for part in _ATTENTION),
    "decoder.layers.{n}.attention_norm.",
    *(f"decoder.layers.{{n}}.cross_attention.{part}." for part in _ATTENTION),
    "decoder.layers.{n}.cross_attention_norm.",
    "decoder.layers.{n}.feedforward.input.",
    "decoder.layers.{n}.feedforward.output.",
    "decoder.layers.{n}.feedforward_norm.",
    "decoder.final_norm.",
)


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    position = plain.get("norm_position", "after")
    return {
        "norm_position": position,
        "final_norm": position == "before",
        "decoder.num_layers": plain.get("num_decoder_layers", 6),
    }


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    return {
        "norm_position": config.norm_position,
        "num_decoder_layers": config.decoder.num_layers if config.decoder else 0,
        "decoder_start_token_id": config.padding_id,
        "is_encoder_decoder": config.decoder is not None,
    }


TRANSFORMER = Format(
    family="transformer",
    rules={
        "backbone": BACKBONE,
        "pooler": {},
        "decoder": DECODER,
        "seq2seq-lm": {"output.": "seq2seq-lm."},
        "classification": {"classifier.": "classification.dense."},
        "token-classification": {"classifier.": "token-classification.dense."},
    },
    prefix="",
    roots=(),
    marks={
        "seq2seq-lm": "decoder.layers.0.cross_attention.query.weight",
        "classification": "classifier.weight",
        "token-classification": "classifier.weight",
    },
    architectures={
        frozenset(): "TransformerEncoder",
        frozenset({"decoder"}): "TransformerModel",
        frozenset({"decoder", "seq2seq-lm"}): "TransformerForConditionalGeneration",
        frozenset({"classification"}): "TransformerForSequenceClassification",
        frozenset({"token-classification"}): "TransformerForTokenClassification",
    },
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "max_position_embeddings": "max_position_embeddings",
        "activation": "hidden_act",
        "layer_norm_eps": "layer_norm_eps",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "padding_id": "pad_token_id",
    },
    defaults={
        "vocab_size": 37000,
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
        "max_position_embeddings": 512,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-6,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
    },
    fixed={
        "type_vocab_size": 0,
        "positions": "sinusoidal",
        "embedding.norm": False,
        "embedding.scaled": True,
        "initial.kind": "fan-in",
    },
    demanded={},
    written={},
    poolings={"mean": {}},
    classifier={"transform": "none"},
    read_more=_read_more,
    write_more=_write_more,
    ties={},
    special_ids={"eos_token_id": "separator"},
    fresh_only=("initial.kind", "initial.range", "initial.scaled_outputs"),
)
