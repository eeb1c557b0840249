"""BERT's folders (Devlin et al. 2018), as transformers writes them: also BERT-wwm, RBT3 and MiniLM."""

from typing import Any

from polyseme.checkpoints.formats import Format
from polyseme.checkpoints.rules import Rules
from polyseme.models.transformer.config import TransformerConfig

BACKBONE: Rules = {
    "bert.embeddings.word_embeddings.": "embeddings.tokens.",
    "bert.embeddings.position_embeddings.": "embeddings.positions.",
    "bert.embeddings.token_type_embeddings.": "embeddings.token_types.",
    "bert.embeddings.LayerNorm.": "embeddings.norm.",
    "bert.encoder.layer.{n}.attention.self.query.": "layers.{n}.attention.query.",
    "bert.encoder.layer.{n}.attention.self.key.": "layers.{n}.attention.key.",
    "bert.encoder.layer.{n}.attention.self.value.": "layers.{n}.attention.value.",
    "bert.encoder.layer.{n}.attention.output.dense.": "layers.{n}.attention.output.",
    "bert.encoder.layer.{n}.attention.output.LayerNorm.": "layers.{n}.attention_norm.",
    "bert.encoder.layer.{n}.intermediate.dense.": "layers.{n}.feedforward.input.",
    "bert.encoder.layer.{n}.output.dense.": "layers.{n}.feedforward.output.",
    "bert.encoder.layer.{n}.output.LayerNorm.": "layers.{n}.feedforward_norm.",
}

MASKED_LM: Rules = {
    "cls.predictions.transform.dense.": "masked-lm.dense.",
    "cls.predictions.transform.LayerNorm.": "masked-lm.norm.",
    "cls.predictions.bias": "masked-lm.bias",
}


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    return {}


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    if config.type_vocab_size == 0:
        raise ValueError("type_vocab_size=0; this family tells at least one segment")
    return {}


BERT = Format(
    family="bert",
    rules={
        "backbone": BACKBONE,
        "pooler": {"bert.pooler.dense.": "pooler."},
        "masked-lm": MASKED_LM,
        "next-sentence": {"cls.seq_relationship.": "next-sentence.dense."},
        "classification": {"classifier.": "classification.dense."},
        "question-answering": {"qa_outputs.": "question-answering.dense."},
        "multiple-choice": {"classifier.": "multiple-choice.dense."},
        "token-classification": {"classifier.": "token-classification.dense."},
    },
    prefix="bert.",
    roots=("embeddings.", "encoder.", "pooler."),
    marks={
        "masked-lm": "cls.predictions.bias",
        "next-sentence": "cls.seq_relationship.weight",
        "classification": "classifier.weight",
        "question-answering": "qa_outputs.weight",
        "multiple-choice": "classifier.weight",
        "token-classification": "classifier.weight",
    },
    # transformers' BertForMaskedLM has no pooler. A pooler beside a masked-lm head is written all the
    # same: AutoModel reads it, AutoModelForMaskedLM mentions it as unexpected and computes the same.
    architectures={
        frozenset(): "BertModel",
        frozenset({"masked-lm"}): "BertForMaskedLM",
        frozenset({"next-sentence"}): "BertForNextSentencePrediction",
        frozenset({"masked-lm", "next-sentence"}): "BertForPreTraining",
        frozenset({"classification"}): "BertForSequenceClassification",
        frozenset({"question-answering"}): "BertForQuestionAnswering",
        frozenset({"multiple-choice"}): "BertForMultipleChoice",
        frozenset({"token-classification"}): "BertForTokenClassification",
    },
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "max_position_embeddings": "max_position_embeddings",
        "type_vocab_size": "type_vocab_size",
        "activation": "hidden_act",
        "layer_norm_eps": "layer_norm_eps",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "initial.range": "initializer_range",
        "padding_id": "pad_token_id",
    },
    defaults={
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "pad_token_id": 0,
    },
    fixed={},
    demanded={
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "pruned_heads": ({}, None),
    },
    written={"position_embedding_type": "absolute", "use_cache": True, "classifier_dropout": None},
    poolings={"pooler": {}},
    classifier={"transform": "none"},
    read_more=_read_more,
    write_more=_write_more,
    ties={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    old_names=((".gamma", ".weight"), (".beta", ".bias")),
    buffers=("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"),
    aside=("fit_dense.", "fit_denses."),  # of TinyBERT's training
    fresh_only=("initial.scaled_outputs",),
    readings={
        "question-answering": {"dropout": 0.0},
        "multiple-choice": {"pooling": "pooler"},
    },
)
