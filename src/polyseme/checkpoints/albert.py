"""ALBERT's folders (Lan et al. 2019), as transformers writes them."""

from dataclasses import replace
from typing import Any

from polyseme.checkpoints.bert import BERT
from polyseme.checkpoints.rules import Rules
from polyseme.models.transformer.config import TransformerConfig

_LAYER = "albert.encoder.albert_layer_groups.{n}.albert_layers.0"

BACKBONE: Rules = {
    "albert.embeddings.word_embeddings.": "embeddings.tokens.",
    "albert.embeddings.position_embeddings.": "embeddings.positions.",
    "albert.embeddings.token_type_embeddings.": "embeddings.token_types.",
    "albert.embeddings.LayerNorm.": "embeddings.norm.",
    "albert.encoder.embedding_hidden_mapping_in.": "projection.",
    f"{_LAYER}.attention.query.": "layers.{n}.attention.query.",
    f"{_LAYER}.attention.key.": "layers.{n}.attention.key.",
    f"{_LAYER}.attention.value.": "layers.{n}.attention.value.",
    f"{_LAYER}.attention.dense.": "layers.{n}.attention.output.",
    f"{_LAYER}.attention.LayerNorm.": "layers.{n}.attention_norm.",
    f"{_LAYER}.ffn.": "layers.{n}.feedforward.input.",
    f"{_LAYER}.ffn_output.": "layers.{n}.feedforward.output.",
    f"{_LAYER}.full_layer_layer_norm.": "layers.{n}.feedforward_norm.",
}

MASKED_LM: Rules = {
    "predictions.dense.": "masked-lm.dense.",
    "predictions.LayerNorm.": "masked-lm.norm.",
    "predictions.bias": "masked-lm.bias",
}


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    # A layer of its own for every layer is as many groups.
    return BERT.write_more(config) | {"num_hidden_groups": config.distinct_layers or config.num_layers}


ALBERT = replace(
    BERT,
    family="albert",
    rules={
        "backbone": BACKBONE,
        "pooler": {"albert.pooler.": "pooler."},
        "masked-lm": MASKED_LM,
        "sentence-order": {"sop_classifier.classifier.": "sentence-order.dense."},
        "classification": BERT.rules["classification"],
        "question-answering": BERT.rules["question-answering"],
        "multiple-choice": BERT.rules["multiple-choice"],
        "token-classification": BERT.rules["token-classification"],
    },
    prefix="albert.",
    marks={
        "masked-lm": "predictions.bias",
        "sentence-order": "sop_classifier.classifier.weight",
        "classification": "classifier.weight",
        "question-answering": "qa_outputs.weight",
        "multiple-choice": "classifier.weight",
        "token-classification": "classifier.weight",
    },
    architectures={
        frozenset(): "AlbertModel",
        frozenset({"masked-lm"}): "AlbertForMaskedLM",
        frozenset({"masked-lm", "sentence-order"}): "AlbertForPreTraining",
        frozenset({"classification"}): "AlbertForSequenceClassification",
        frozenset({"question-answering"}): "AlbertForQuestionAnswering",
        frozenset({"multiple-choice"}): "AlbertForMultipleChoice",
        frozenset({"token-classification"}): "AlbertForTokenClassification",
    },
    names={
        **BERT.names,
        "embedding.size": "embedding_size",
        "distinct_layers": "num_hidden_groups",
    },
    # transformers' own, which are those of the largest model.
    defaults={
        **BERT.defaults,
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "num_hidden_groups": 1,
    },
    demanded={"inner_group_num": (1,), "position_embedding_type": ("absolute",)},
    written={"inner_group_num": 1, "classifier_dropout_prob": 0.1},
    classifier={"transform": "none", "dropout": 0.1},
    readings={
        "question-answering": {"dropout": 0.0},
        "multiple-choice": {"pooling": "pooler", "dropout": 0.1},
        "token-classification": {"dropout": 0.1},
    },
    write_more=_write_more,
    ties={
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    special_ids={"bos_token_id": "first", "eos_token_id": "separator"},
    buffers=("albert.embeddings.position_ids", "albert.embeddings.token_type_ids"),
)
