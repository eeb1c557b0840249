"""The folders of RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2019), as transformers writes them."""

from dataclasses import replace
from typing import Any

from polyseme.checkpoints.bert import BERT
from polyseme.checkpoints.rules import Rules, renamed
from polyseme.models.transformer.config import TransformerConfig

MASKED_LM: Rules = {
    "lm_head.dense.": "masked-lm.dense.",
    "lm_head.layer_norm.": "masked-lm.norm.",
    "lm_head.bias": "masked-lm.bias",
}

CLASSIFICATION: Rules = {
    "classifier.dense.": "classification.transform.dense.",
    "classifier.out_proj.": "classification.dense.",
}


def _number(plain: dict[str, Any], key: str) -> int:
    value = plain.get(key)
    value = ROBERTA.defaults[key] if value is None else value
    if not isinstance(value, int):
        raise ValueError(f"{key} must be a whole number, got {value!r}")
    return value


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    # config.json counts the rows of the position table, of which the first padding_id + 1 are no places.
    offset = _number(plain, "pad_token_id") + 1
    rows = _number(plain, "max_position_embeddings")
    if rows <= offset:
        raise ValueError(f"max_position_embeddings must be above pad_token_id + 1 = {offset}, got {rows}")
    return {"embedding.position_offset": offset, "max_position_embeddings": rows - offset}


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    rows = config.max_position_embeddings + config.embedding.position_offset
    return BERT.write_more(config) | {"max_position_embeddings": rows}


ROBERTA = replace(
    BERT,
    family="roberta",
    rules={
        "backbone": renamed(BERT.rules["backbone"], "bert.", "roberta."),
        "pooler": {"roberta.pooler.dense.": "pooler."},
        "masked-lm": MASKED_LM,
        "classification": CLASSIFICATION,
        "question-answering": BERT.rules["question-answering"],
        "multiple-choice": BERT.rules["multiple-choice"],
        "token-classification": BERT.rules["token-classification"],
    },
    prefix="roberta.",
    marks={
        "masked-lm": "lm_head.bias",
        "classification": "classifier.out_proj.weight",
        "question-answering": "qa_outputs.weight",
        "multiple-choice": "classifier.weight",
        "token-classification": "classifier.weight",
    },
    architectures={
        frozenset(): "RobertaModel",
        frozenset({"masked-lm"}): "RobertaForMaskedLM",
        frozenset({"classification"}): "RobertaForSequenceClassification",
        frozenset({"question-answering"}): "RobertaForQuestionAnswering",
        frozenset({"multiple-choice"}): "RobertaForMultipleChoice",
        frozenset({"token-classification"}): "RobertaForTokenClassification",
    },
    defaults={**BERT.defaults, "vocab_size": 50265, "pad_token_id": 1},
    poolings={"first": {}},
    classifier={"transform": "tanh"},
    read_more=_read_more,
    write_more=_write_more,
    ties={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    masked_lm_activation="gelu",
    special_ids={"bos_token_id": "first", "eos_token_id": "separator"},
    buffers=("roberta.embeddings.position_ids", "roberta.embeddings.token_type_ids"),
)

XLM_ROBERTA = replace(
    ROBERTA,
    family="xlm-roberta",
    architectures={heads: f"XLM{name}" for heads, name in ROBERTA.architectures.items()},
    defaults={**ROBERTA.defaults, "vocab_size": 30522},
)
