"""XLNet's folders (Yang et al. 2019), as transformers writes them.

They name no longest row, since distances have none, and one share for all dropout; the keys `n_positions` and
`dropatt` are ours, and transformers leaves them alone.
"""

from typing import Any

from polyseme.checkpoints.formats import Format
from polyseme.checkpoints.rules import Folded, Rules, Transposed
from polyseme.models.transformer.config import TransformerConfig

_HEADS = "layers.{n}.attention.biases.content"  # [num_heads, head_size], as every bias


def _by_head(projection: str) -> Folded:
    """A projection to the heads: inputs by heads by numbers of a head."""
    return Folded(Transposed(f"layers.{{n}}.attention.{projection}.weight"), like=_HEADS)


BACKBONE: Rules = {
    "transformer.word_embedding.": "embeddings.tokens.",
    "transformer.mask_emb": "views.0.blank",
    "transformer.layer.{n}.rel_attn.q": _by_head("query"),
    "transformer.layer.{n}.rel_attn.k": _by_head("key"),
    "transformer.layer.{n}.rel_attn.v": _by_head("value"),
    "transformer.layer.{n}.rel_attn.r": _by_head("distance"),
    "transformer.layer.{n}.rel_attn.o": Folded("layers.{n}.attention.output.weight", like=_HEADS),
    "transformer.layer.{n}.rel_attn.r_w_bias": _HEADS,
    "transformer.layer.{n}.rel_attn.r_r_bias": "layers.{n}.attention.biases.distance",
    "transformer.layer.{n}.rel_attn.r_s_bias": "layers.{n}.attention.segments.bias",
    "transformer.layer.{n}.rel_attn.seg_embed": "layers.{n}.attention.segments.weight",
    "transformer.layer.{n}.rel_attn.layer_norm.": "layers.{n}.attention_norm.",
    "transformer.layer.{n}.ff.layer_1.": "layers.{n}.feedforward.input.",
    "transformer.layer.{n}.ff.layer_2.": "layers.{n}.feedforward.output.",
    "transformer.layer.{n}.ff.layer_norm.": "layers.{n}.feedforward_norm.",
}


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    size, heads = plain.get("d_model") or 1024, plain.get("n_head") or 16
    if (head_size := plain.get("d_head")) is not None and head_size * heads != size:
        raise ValueError(f"d_head is {head_size}, but this family shares d_model {size} among n_head {heads}")
    clamp, kind = plain.get("clamp_len", -1), plain.get("attn_type", "bi")
    if kind != "bi":
        raise ValueError(f"attn_type is {kind!r}, which polyseme does not compute; it reads 'bi'")
    dropout = 0.1 if plain.get("dropout") is None else plain["dropout"]
    return {
        "attention_dropout": plain.get("dropatt", dropout),
        "attention.relative.memory": plain.get("mem_len", 512) or 0,
        "attention.relative.clamp": clamp if clamp and clamp > 0 else None,
    }


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    relative = config.attention.relative
    return {
        "d_head": config.head_size,
        "dropatt": config.attention_dropout,
        "mem_len": relative.memory or None,
        "clamp_len": -1 if relative.clamp is None else relative.clamp,
        "summary_last_dropout": config.dropout,
    }


XLNET = Format(
    family="xlnet",
    rules={
        "backbone": BACKBONE,
        "pooler": {},
        "permutation-lm": {"lm_loss.bias": "permutation-lm.bias"},
        "classification": {
            "sequence_summary.summary.": "classification.transform.dense.",
            "logits_proj.": "classification.dense.",
        },
        "question-answering": {"qa_outputs.": "question-answering.dense."},
        "multiple-choice": {
            "sequence_summary.summary.": "multiple-choice.transform.dense.",
            "logits_proj.": "multiple-choice.dense.",
        },
        "token-classification": {"classifier.": "token-classification.dense."},
    },
    prefix="transformer.",
    roots=("word_embedding.", "mask_emb", "layer."),
    marks={
        "permutation-lm": "lm_loss.bias",
        "classification": "logits_proj.weight",
        "question-answering": "qa_outputs.weight",
        "multiple-choice": "logits_proj.weight",
        "token-classification": "classifier.weight",
    },
    architectures={
        frozenset(): "XLNetModel",
        frozenset({"permutation-lm"}): "XLNetLMHeadModel",
        frozenset({"classification"}): "XLNetForSequenceClassification",
        # Not the one that searches with beams, which scores an end from each of the best starts.
        frozenset({"question-answering"}): "XLNetForQuestionAnsweringSimple",
        frozenset({"multiple-choice"}): "XLNetForMultipleChoice",
        frozenset({"token-classification"}): "XLNetForTokenClassification",
    },
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "intermediate_size": "d_inner",
        "max_position_embeddings": "n_positions",
        "activation": "ff_activation",
        "layer_norm_eps": "layer_norm_eps",
        "dropout": "dropout",
        "initial.range": "initializer_range",
        "padding_id": "pad_token_id",
    },
    defaults={
        "vocab_size": 32000,
        "d_model": 1024,
        "n_layer": 24,
        "n_head": 16,
        "d_inner": 4096,
        "n_positions": 512,
        "ff_activation": "gelu",
        "layer_norm_eps": 1e-12,
        "dropout": 0.1,
        "initializer_range": 0.02,
        "pad_token_id": 5,
    },
    fixed={
        "type_vocab_size": 0,
        "positions": "relative",
        "embedding.norm": False,
        "attention.relative.untied": True,
        "attention.relative.segments": True,
        "attention.relative.query_stream": True,
    },
    demanded={
        "bi_data": (False,),
        "same_length": (False,),
        "untie_r": (True,),
        "reuse_len": (None, 0),
        "summary_use_proj": (True,),
        "summary_activation": ("tanh",),
    },
    written={
        "attn_type": "bi",
        "bi_data": False,
        "same_length": False,
        "untie_r": True,
        "summary_type": "last",
        "summary_use_proj": True,
        "summary_activation": "tanh",
    },
    poolings={"last": {"summary_type": "last"}},
    classifier={"transform": "tanh"},
    readings={
        "question-answering": {"dropout": 0.0},
        "multiple-choice": {"transform": "tanh"},
        "token-classification": {"dropout": 0.0},
    },
    read_more=_read_more,
    write_more=_write_more,
    ties={"lm_loss.weight": "transformer.word_embedding.weight"},
    special_ids={"bos_token_id": "first", "eos_token_id": "separator"},
)
