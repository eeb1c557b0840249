"""ELECTRA's folders (Clark et al. 2020), as transformers writes them: a discriminator's or a generator's."""

from dataclasses import replace
from typing import Any

from polyseme.checkpoints.bert import BERT
from polyseme.checkpoints.roberta import CLASSIFICATION
from polyseme.checkpoints.rules import Rules, renamed
from polyseme.models.transformer.config import TransformerConfig

GENERATOR: Rules = {
    "generator_predictions.dense.": "masked-lm.dense.",
    "generator_predictions.LayerNorm.": "masked-lm.norm.",
    "generator_lm_head.bias": "masked-lm.bias",
}

DISCRIMINATOR: Rules = {
    "discriminator_predictions.dense.": "replaced-token.dense.",
    "discriminator_predictions.dense_prediction.": "replaced-token.score.",
}


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    # There is a dense layer between the tables and the layers only where their sizes differ.
    said = {**ELECTRA.defaults} | {key: value for key, value in plain.items() if value is not None}
    table, hidden = said["embedding_size"], said["hidden_size"]
    return {"embedding.size": None if table == hidden else table}


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    return BERT.write_more(config) | {"embedding_size": config.embedding_size}


ELECTRA = replace(
    BERT,
    family="electra",
    rules={
        "backbone": {
            **renamed(BERT.rules["backbone"], "bert.", "electra."),
            "electra.embeddings_project.": "projection.",
        },
        "pooler": {},
        "masked-lm": GENERATOR,
        "replaced-token": DISCRIMINATOR,
        "classification": CLASSIFICATION,
        "question-answering": BERT.rules["question-answering"],
        "multiple-choice": {
            "sequence_summary.summary.": "multiple-choice.transform.dense.",
            "classifier.": "multiple-choice.dense.",
        },
        "token-classification": BERT.rules["token-classification"],
    },
    prefix="electra.",
    roots=("embeddings.", "embeddings_project.", "encoder."),
    marks={
        "masked-lm": "generator_lm_head.bias",
        "replaced-token": "discriminator_predictions.dense_prediction.weight",
        "classification": "classifier.out_proj.weight",
        "question-answering": "qa_outputs.weight",
        "multiple-choice": "sequence_summary.summary.weight",
        "token-classification": "classifier.weight",
    },
    architectures={
        frozenset(): "ElectraModel",
        frozenset({"masked-lm"}): "ElectraForMaskedLM",
        frozenset({"replaced-token"}): "ElectraForPreTraining",
        frozenset({"classification"}): "ElectraForSequenceClassification",
        frozenset({"question-answering"}): "ElectraForQuestionAnswering",
        frozenset({"multiple-choice"}): "ElectraForMultipleChoice",
        frozenset({"token-classification"}): "ElectraForTokenClassification",
    },
    defaults={
        **BERT.defaults,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    poolings={"first": {}},
    classifier={"transform": "gelu"},
    readings={
        "question-answering": {"dropout": 0.0},
        "multiple-choice": {"pooling": "first", "transform": "gelu", "dropout": 0.1},
    },
    read_more=_read_more,
    write_more=_write_more,
    ties={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    masked_lm_activation="gelu",
    buffers=("electra.embeddings.position_ids", "electra.embeddings.token_type_ids"),
)
