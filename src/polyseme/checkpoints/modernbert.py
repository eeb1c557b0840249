"""ModernBERT's folders (Warner et al. 2024), of models whose layers are all global."""

from typing import Any

from polyseme.checkpoints.formats import Format
from polyseme.checkpoints.rules import Rules
from polyseme.models.transformer.config import TransformerConfig

BACKBONE: Rules = {
    "model.embeddings.tok_embeddings.": "embeddings.tokens.",
    "model.embeddings.norm.": "embeddings.norm.",
    "model.layers.{n}.attn_norm.": "layers.{n}.attention_norm.",
    "model.layers.{n}.attn.Wqkv.": (
        "layers.{n}.attention.query.",
        "layers.{n}.attention.key.",
        "layers.{n}.attention.value.",
    ),
    "model.layers.{n}.attn.Wo.": "layers.{n}.attention.output.",
    "model.layers.{n}.mlp_norm.": "layers.{n}.feedforward_norm.",
    "model.layers.{n}.mlp.Wi.": ("layers.{n}.feedforward.input.", "layers.{n}.feedforward.gate."),
    "model.layers.{n}.mlp.Wo.": "layers.{n}.feedforward.output.",
    "model.final_norm.": "final_norm.",
}

MASKED_LM: Rules = {
    "head.dense.": "masked-lm.dense.",
    "head.norm.": "masked-lm.norm.",
    "decoder.bias": "masked-lm.bias",
}

CLASSIFICATION: Rules = {
    "head.dense.": "classification.transform.dense.",
    "head.norm.": "classification.transform.norm.",
    "classifier.": "classification.dense.",
}

_MOST_POSITIONS = 1 << 20
_BIASES = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")


def _same(plain: dict[str, Any], keys: tuple[str, ...], default: Any) -> Any:
    """The value that all of `keys` have; our record has one field for them."""
    values = {key: plain.get(key, default) for key in keys}
    first = values[keys[0]]
    for key, value in values.items():
        if value != first:
            raise ValueError(f"{key} is {value!r} and {keys[0]} {first!r}; polyseme has one value for both")
    return first


def _rotary_base(plain: dict[str, Any]) -> Any:
    parameters = plain.get("rope_parameters") or {}
    if "rope_type" in parameters or "rope_theta" in parameters:  # the flat form: one entry for all layers
        parameters = {"full_attention": parameters}
    entry = parameters.get("full_attention") or {}
    kind = entry.get("rope_type", "default")
    if kind != "default":
        raise ValueError(f"rope_type is {kind!r}, which polyseme does not compute; it reads 'default'")
    return entry.get("rope_theta", plain.get("global_rope_theta", 160_000.0))


def _refuse_local_layers(plain: dict[str, Any]) -> None:
    layers = plain.get("num_hidden_layers", 22)
    every = plain.get("global_attn_every_n_layers", 3)
    kinds = plain.get("layer_types")
    if kinds is None:
        if every != 1 and layers != 1:
            raise ValueError(
                f"global_attn_every_n_layers is {every!r}, so some layers see their neighbours only, "
                "which polyseme does not compute; it reads 1"
            )
        return
    for number, kind in enumerate(kinds):
        if kind != "full_attention":
            raise ValueError(
                f"layer_types[{number}] is {kind!r}, which polyseme does not compute; "
                "it reads 'full_attention' in every layer"
            )
    if len(kinds) != layers:
        raise ValueError(f"layer_types names {len(kinds)} layers and num_hidden_layers {layers!r}")


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    _refuse_local_layers(plain)
    if plain.get("max_position_embeddings", 8192) > _MOST_POSITIONS:
        raise ValueError(f"max_position_embeddings is above {_MOST_POSITIONS}, for which no angles are kept")
    _same(
        {"hidden_activation": "gelu", "classifier_activation": "gelu", **plain},
        ("hidden_activation", "classifier_activation"),
        "gelu",
    )
    return {
        "bias": _same(plain, _BIASES, False),
        "dropout": float(_same(plain, ("mlp_dropout", "embedding_dropout"), 0.0)),
        "rotary_base": float(_rotary_base(plain)),
    }


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    # Old and new keys side by side: releases of transformers before 5 read global_* and ignore the rest.
    activation = "gelu_new" if config.activation == "gelu_tanh" else config.activation
    rope = {"rope_theta": config.rotary_base, "rope_type": "default"}
    return {
        "layer_types": ["full_attention"] * config.num_layers,
        "rope_parameters": {"full_attention": rope, "sliding_attention": rope},
        "global_attn_every_n_layers": 1,
        "global_rope_theta": config.rotary_base,
        "local_rope_theta": config.rotary_base,
        "classifier_activation": activation,
        "mlp_dropout": config.dropout,
        "embedding_dropout": config.dropout,
        "classifier_dropout": config.dropout,
        **dict.fromkeys(_BIASES, config.bias),
    }


MODERNBERT = Format(
    family="modernbert",
    rules={
        "backbone": BACKBONE,
        "pooler": {},
        "masked-lm": MASKED_LM,
        "classification": CLASSIFICATION,
    },
    prefix="model.",
    roots=("embeddings.", "layers.", "final_norm."),
    marks={"masked-lm": "decoder.bias", "classification": "classifier.weight"},
    architectures={
        frozenset(): "ModernBertModel",
        frozenset({"masked-lm"}): "ModernBertForMaskedLM",
        frozenset({"classification"}): "ModernBertForSequenceClassification",
    },
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "max_position_embeddings": "max_position_embeddings",
        "activation": "hidden_activation",
        "layer_norm_eps": "norm_eps",
        "attention_dropout": "attention_dropout",
        "initializer_range": "initializer_range",
        "padding_id": "pad_token_id",
    },
    defaults={
        "vocab_size": 50368,
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "pad_token_id": 50283,
    },
    fixed={
        "type_vocab_size": 0,
        "gated": True,
        "norm_position": "before",
        "positions": "rotary",
        "embedding_norm": True,
        "first_attention_norm": False,
        "final_norm": True,
        "pooler": False,
        "scaled_outputs": True,
    },
    demanded={"decoder_bias": (True,)},
    written={
        "decoder_bias": True,
        "reference_compile": False,
        "local_attention": 128,
        # Absent ones would mean ModernBERT's own, which lie beyond a small vocabulary.
        "cls_token_id": None,
        "bos_token_id": None,
        "sep_token_id": None,
        "eos_token_id": None,
    },
    poolings={"first": {"classifier_pooling": "cls"}, "mean": {"classifier_pooling": "mean"}},
    read_more=_read_more,
    write_more=_write_more,
    ties={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    special_ids={
        "cls_token_id": "first",
        "bos_token_id": "first",
        "sep_token_id": "separator",
        "eos_token_id": "separator",
    },
    fresh_only=("scaled_outputs",),
)
