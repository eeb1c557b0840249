"""ModernBERT's folders (Warner et al. 2024)."""

from typing import Any

import msgspec

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

QUESTION_ANSWERING: Rules = {
    "head.dense.": "question-answering.transform.dense.",
    "head.norm.": "question-answering.transform.norm.",
    "classifier.": "question-answering.dense.",
}

TOKEN_CLASSIFICATION: Rules = {
    "head.dense.": "token-classification.transform.dense.",
    "head.norm.": "token-classification.transform.norm.",
    "classifier.": "token-classification.dense.",
}

MULTIPLE_CHOICE: Rules = {
    "head.dense.": "multiple-choice.transform.dense.",
    "head.norm.": "multiple-choice.transform.norm.",
    "classifier.": "multiple-choice.dense.",
}

_BIASES = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
_MOST_POSITIONS = 1 << 20


class _Rotary(msgspec.Struct):
    """`rope_parameters`: by the kind of layer, or one entry for all."""

    rope_type: str = "default"
    rope_theta: float | None = None
    full_attention: "_Rotary | None" = None
    sliding_attention: "_Rotary | None" = None

    def theta(self, otherwise: float) -> float:
        if self.rope_type != "default":
            raise ValueError(
                f"rope_type is {self.rope_type!r}, which polyseme does not compute; it reads 'default'"
            )
        return otherwise if self.rope_theta is None else self.rope_theta


class _Settings(msgspec.Struct):
    """The keys of config.json that have no field of ours to themselves, with what their absence means."""

    num_hidden_layers: int = 22
    max_position_embeddings: int = 8192
    layer_types: list[str] | None = None
    global_attn_every_n_layers: int = 3
    local_attention: int = 128
    rope_parameters: _Rotary | None = None
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    hidden_activation: str = "gelu"
    classifier_activation: str = "gelu"
    embedding_dropout: float = 0.0
    mlp_dropout: float = 0.0
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    classifier_bias: bool = False

    def same(self, *keys: str) -> Any:
        """The value that all of `keys` have; our record has one field for them."""
        first = getattr(self, keys[0])
        for key in keys:
            if (value := getattr(self, key)) != first:
                raise ValueError(
                    f"{key} is {value!r} and {keys[0]} {first!r}; polyseme has one value for all of them"
                )
        return first

    def attention(self) -> dict[str, Any]:
        """The fields of `AttentionChoices`."""
        rotary = self.rope_parameters or _Rotary()
        base = (rotary.full_attention or rotary).theta(self.global_rope_theta)
        every = self.global_every()
        if every == 1:
            return {"attention.rotary.base": base}
        local = (rotary.sliding_attention or rotary).theta(self.local_rope_theta)
        return {
            "attention.rotary.base": base,
            "attention.rotary.local_base": None if local == base else local,
            "attention.window": self.local_attention,
            "attention.global_every": every,
        }

    def global_every(self) -> int:
        """Every how many layers one is global: as the list of the layers' kinds has it, if there is one."""
        every, kinds = self.global_attn_every_n_layers, self.layer_types
        if kinds is None:
            return every
        if len(kinds) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types names {len(kinds)} layers and num_hidden_layers {self.num_hidden_layers}"
            )
        numbers: list[int] = [every, *range(1, len(kinds) + 1)]
        for number in numbers:
            if number > 0 and kinds == layer_types(len(kinds), number):
                return number
        raise ValueError(
            f"layer_types is {kinds}, which polyseme does not compute; it reads full_attention in every "
            "layer, or in layers 0, n, 2n … and sliding_attention between them"
        )


def layer_types(num_layers: int, every: int) -> list[str]:
    """The kinds of the layers when every so many-th is global."""
    return ["sliding_attention" if number % every else "full_attention" for number in range(num_layers)]


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    settings = msgspec.convert({key: value for key, value in plain.items() if value is not None}, _Settings)
    settings.same("hidden_activation", "classifier_activation")
    if settings.max_position_embeddings > _MOST_POSITIONS:
        raise ValueError(f"max_position_embeddings is above {_MOST_POSITIONS}, the most that polyseme reads")
    return {
        "bias": settings.same(*_BIASES),
        "dropout": settings.same("mlp_dropout", "embedding_dropout"),
        **settings.attention(),
    }


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    # Old and new keys side by side: releases of transformers before 5 read global_* and ignore the rest.
    activation = "gelu_new" if config.activation == "gelu_tanh" else config.activation
    attention, rotary = config.attention, config.attention.rotary
    every = attention.global_every or 1
    local_base = rotary.base if rotary.local_base is None else rotary.local_base
    return {
        "layer_types": layer_types(config.num_layers, every),
        "rope_parameters": {
            "full_attention": {"rope_theta": rotary.base, "rope_type": "default"},
            "sliding_attention": {"rope_theta": local_base, "rope_type": "default"},
        },
        "global_attn_every_n_layers": every,
        "local_attention": attention.window or 128,
        "global_rope_theta": rotary.base,
        "local_rope_theta": local_base,
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
        "question-answering": QUESTION_ANSWERING,
        "multiple-choice": MULTIPLE_CHOICE,
        "token-classification": TOKEN_CLASSIFICATION,
    },
    prefix="model.",
    roots=("embeddings.", "layers.", "final_norm."),
    marks={
        "masked-lm": "decoder.bias",
        "classification": "classifier.weight",
        "question-answering": "classifier.weight",
        "multiple-choice": "classifier.weight",
        "token-classification": "classifier.weight",
    },
    architectures={
        frozenset(): "ModernBertModel",
        frozenset({"masked-lm"}): "ModernBertForMaskedLM",
        frozenset({"classification"}): "ModernBertForSequenceClassification",
        frozenset({"question-answering"}): "ModernBertForQuestionAnswering",
        frozenset({"multiple-choice"}): "ModernBertForMultipleChoice",
        frozenset({"token-classification"}): "ModernBertForTokenClassification",
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
        "initial.range": "initializer_range",
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
        "attention.first_norm": False,
        "final_norm": True,
        "initial.scaled_outputs": True,
    },
    demanded={"decoder_bias": (True,), "rope_scaling": (None,)},
    written={
        "decoder_bias": True,
        "reference_compile": False,
        # Absent ones would mean ModernBERT's own, which lie beyond a small vocabulary.
        "cls_token_id": None,
        "bos_token_id": None,
        "sep_token_id": None,
        "eos_token_id": None,
    },
    poolings={"first": {"classifier_pooling": "cls"}, "mean": {"classifier_pooling": "mean"}},
    classifier={"transform": "norm"},
    readings={
        "question-answering": {"transform": "norm"},
        "multiple-choice": {"transform": "norm"},
        "token-classification": {"transform": "norm"},
    },
    read_more=_read_more,
    write_more=_write_more,
    ties={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    special_ids={
        "cls_token_id": "first",
        "bos_token_id": "first",
        "sep_token_id": "separator",
        "eos_token_id": "separator",
    },
    fresh_only=("initial.scaled_outputs",),
)
