"""DistilBERT's folders (Sanh et al. 2019), as transformers writes them."""

from typing import Any

from polyseme.checkpoints.formats import Format
from polyseme.checkpoints.rules import Rules
from polyseme.models.transformer.config import TransformerConfig

_LAYER = "distilbert.transformer.layer.{n}"

BACKBONE: Rules = {
    "distilbert.embeddings.word_embeddings.": "embeddings.tokens.",
    "distilbert.embeddings.position_embeddings.": "embeddings.positions.",
    "distilbert.embeddings.LayerNorm.": "embeddings.norm.",
    f"{_LAYER}.attention.q_lin.": "layers.{n}.attention.query.",
    f"{_LAYER}.attention.k_lin.": "layers.{n}.attention.key.",
    f"{_LAYER}.attention.v_lin.": "layers.{n}.attention.value.",
    f"{_LAYER}.attention.out_lin.": "layers.{n}.attention.output.",
    f"{_LAYER}.sa_layer_norm.": "layers.{n}.attention_norm.",
    f"{_LAYER}.ffn.lin1.": "layers.{n}.feedforward.input.",
    f"{_LAYER}.ffn.lin2.": "layers.{n}.feedforward.output.",
    f"{_LAYER}.output_layer_norm.": "layers.{n}.feedforward_norm.",
}

MASKED_LM: Rules = {
    "vocab_transform.": "masked-lm.dense.",
    "vocab_layer_norm.": "masked-lm.norm.",
    "vocab_projector.bias": "masked-lm.bias",
}

MULTIPLE_CHOICE: Rules = {
    "pre_classifier.": "multiple-choice.transform.dense.",
    "classifier.": "multiple-choice.dense.",
}

CLASSIFICATION: Rules = {
    "pre_classifier.": "classification.transform.dense.",
    "classifier.": "classification.dense.",
}


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    # Either way the table lies in the folder; where it is one of waves it is not trained.
    return {"positions": "sinusoidal" if plain.get("sinusoidal_pos_embds") else "learned"}


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    return {"sinusoidal_pos_embds": config.positions == "sinusoidal"}


DISTILBERT = Format(
    family="distilbert",
    rules={
        "backbone": BACKBONE,
        "pooler": {},
        "masked-lm": MASKED_LM,
        "classification": CLASSIFICATION,
        "question-answering": {"qa_outputs.": "question-answering.dense."},
        "multiple-choice": MULTIPLE_CHOICE,
        "token-classification": {"classifier.": "token-classification.dense."},
    },
    prefix="distilbert.",
    roots=("embeddings.", "transformer."),
    marks={
        "masked-lm": "vocab_projector.bias",
        "classification": "classifier.weight",
        "question-answering": "qa_outputs.weight",
        "multiple-choice": "classifier.weight",
        "token-classification": "classifier.weight",
    },
    architectures={
        frozenset(): "DistilBertModel",
        frozenset({"masked-lm"}): "DistilBertForMaskedLM",
        frozenset({"classification"}): "DistilBertForSequenceClassification",
        frozenset({"question-answering"}): "DistilBertForQuestionAnswering",
        frozenset({"multiple-choice"}): "DistilBertForMultipleChoice",
        frozenset({"token-classification"}): "DistilBertForTokenClassification",
    },
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "max_position_embeddings": "max_position_embeddings",
        "activation": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "initial.range": "initializer_range",
        "padding_id": "pad_token_id",
    },
    defaults={
        "vocab_size": 30522,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "max_position_embeddings": 512,
        "activation": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "initializer_range": 0.02,
        "pad_token_id": 0,
    },
    fixed={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
    demanded={"pruned_heads": ({}, None)},
    written={"seq_classif_dropout": 0.2},
    poolings={"first": {}},
    classifier={"transform": "relu", "dropout": 0.2},
    read_more=_read_more,
    write_more=_write_more,
    ties={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    old_names=((".gamma", ".weight"), (".beta", ".bias")),
    buffers=("distilbert.embeddings.position_ids",),
    readings={
        "question-answering": {"dropout": 0.1},
        "multiple-choice": {"transform": "relu", "dropout": 0.2},
    },
)
