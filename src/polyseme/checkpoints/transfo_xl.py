"""Transformer-XL's folders (Dai et al. 2019), as transformers up to release 4 wrote them: transfo-xl-wt103.

They name no longest row, since distances have none, and no start of the memory, which is always zeros there;
the keys `n_positions`, `start_memory` and `cluster_order` are ours.
"""

from typing import Any

from polyseme.checkpoints.formats import Format
from polyseme.checkpoints.rules import Rules
from polyseme.models.transformer.config import TransformerConfig

BACKBONE: Rules = {
    "transformer.word_emb.emb_layers.0.weight": "embeddings.tokens.weight",
    "transformer.word_emb.emb_layers.{n}.": "embeddings.tokens.tables.{n}.",
    "transformer.word_emb.emb_projs.{n}": "embeddings.tokens.projections.{n}.weight",
    "transformer.r_w_bias": "views.0.biases.content",
    "transformer.r_r_bias": "views.0.biases.distance",
    "transformer.layers.{n}.dec_attn.r_w_bias": "layers.{n}.attention.biases.content",
    "transformer.layers.{n}.dec_attn.r_r_bias": "layers.{n}.attention.biases.distance",
    "transformer.layers.{n}.dec_attn.qkv_net.": (
        "layers.{n}.attention.query.",
        "layers.{n}.attention.key.",
        "layers.{n}.attention.value.",
    ),
    "transformer.layers.{n}.dec_attn.r_net.": "layers.{n}.attention.distance.",
    "transformer.layers.{n}.dec_attn.o_net.": "layers.{n}.attention.output.",
    "transformer.layers.{n}.dec_attn.layer_norm.": "layers.{n}.attention_norm.",
    "transformer.layers.{n}.pos_ff.CoreNet.0.": "layers.{n}.feedforward.input.",
    "transformer.layers.{n}.pos_ff.CoreNet.3.": "layers.{n}.feedforward.output.",
    "transformer.layers.{n}.pos_ff.layer_norm.": "layers.{n}.feedforward_norm.",
}

ADAPTIVE_LM: Rules = {
    "crit.cluster_weight": "adaptive-lm.clusters",
    "crit.cluster_bias": "adaptive-lm.cluster_bias",
    "crit.out_layers.{n}.bias": "adaptive-lm.biases.{n}",
    "crit.out_projs.0": "adaptive-lm.projection.weight",
}

_VOCABULARY = 267_735
_CUTOFFS = (20_000, 40_000, 200_000)
_MOST_CLUSTERS = 10
_MOST_LAYERS = 100


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    size = plain.get("d_model") or 1024
    # Folders that leave out what is usual are told by the shapes of their tensors.
    if (embedded := plain.get("d_embed", size)) != size:
        raise ValueError(f"d_embed is {embedded} and d_model {size}; polyseme reads them where they agree")
    heads, head_size = plain.get("n_head") or 16, plain.get("d_head") or 64
    clamp = plain.get("clamp_len", 1000)
    memory = plain.get("mem_len", 1600) or 0
    usual = [cutoff for cutoff in _CUTOFFS if cutoff < plain.get("vocab_size", _VOCABULARY)]
    cutoffs = plain.get("cutoffs", usual)
    return {
        "attention.head_size": None if heads * head_size == size else head_size,
        "attention.relative.memory": memory,
        "attention.relative.clamp": clamp if clamp and clamp > 0 else None,
        "attention.relative.start": plain.get("start_memory", "zeros" if memory else "empty"),
        "embedding.adaptive.cutoffs": cutoffs,
        "embedding.adaptive.divisor": plain.get("div_val", 4) if cutoffs else 1,
    }


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    relative = config.attention.relative
    return {
        "d_embed": config.hidden_size,
        "d_head": config.head_size,
        "mem_len": relative.memory,
        "clamp_len": -1 if relative.clamp is None else relative.clamp,
        "start_memory": relative.start,
        "cutoffs": list(config.embedding.adaptive.cutoffs),
        "div_val": config.embedding.adaptive.divisor,
    }


TRANSFO_XL = Format(
    family="transfo-xl",
    rules={
        "backbone": BACKBONE,
        "pooler": {},
        "adaptive-lm": ADAPTIVE_LM,
        "classification": {"score.": "classification.dense."},
        "token-classification": {"classifier.": "token-classification.dense."},
    },
    prefix="transformer.",
    roots=("word_emb.", "layers.", "r_w_bias", "r_r_bias", "pos_emb."),
    marks={
        "adaptive-lm": "crit.out_layers.0.bias",
        "classification": "score.weight",
        "token-classification": "classifier.weight",
    },
    architectures={
        frozenset(): "TransfoXLModel",
        frozenset({"adaptive-lm"}): "TransfoXLLMHeadModel",
        frozenset({"classification"}): "TransfoXLForSequenceClassification",
        # Named as the others are; transformers never had such a class.
        frozenset({"token-classification"}): "TransfoXLForTokenClassification",
    },
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "intermediate_size": "d_inner",
        "max_position_embeddings": "n_positions",
        "layer_norm_eps": "layer_norm_epsilon",
        "dropout": "dropout",
        "attention_dropout": "dropatt",
        "initial.range": "init_std",
        "attention.relative.untied": "untie_r",
        "attention.relative.same_length": "same_length",
        "embedding.adaptive.tails": "cluster_order",
        "padding_id": "pad_token_id",
    },
    defaults={
        "vocab_size": _VOCABULARY,
        "d_model": 1024,
        "n_layer": 18,
        "n_head": 16,
        "d_inner": 4096,
        "n_positions": 512,
        "layer_norm_epsilon": 1e-5,
        "dropout": 0.1,
        "dropatt": 0.0,
        "init_std": 0.02,
        "untie_r": True,
        "same_length": True,
        "cluster_order": "forward",
        "pad_token_id": 0,
    },
    fixed={
        "type_vocab_size": 0,
        "activation": "relu",
        "positions": "relative",
        "embedding.norm": False,
        "embedding.scaled": True,
        "attention.causal": True,
    },
    demanded={
        "pre_lnorm": (False,),
        "attn_type": (0,),
        "adaptive": (True,),
        "proj_share_all_but_first": (True,),
        "sample_softmax": (-1, 0),
        "tie_word_embeddings": (True,),
    },
    written={
        "pre_lnorm": False,
        "attn_type": 0,
        "adaptive": True,
        "proj_share_all_but_first": True,
        "sample_softmax": -1,
    },
    poolings={"last": {}},
    classifier={"transform": "none", "bias": False},
    read_more=_read_more,
    write_more=_write_more,
    ties={
        f"crit.out_layers.{n}.weight": f"transformer.word_emb.emb_layers.{n}.weight"
        for n in range(_MOST_CLUSTERS)
    }
    | {f"crit.out_projs.{n}": f"transformer.word_emb.emb_projs.{n}" for n in range(1, _MOST_CLUSTERS)}
    # Where all layers share their biases, transformers lists these in every layer too.
    | {
        f"transformer.layers.{n}.dec_attn.{name}": f"transformer.{name}"
        for n in range(_MOST_LAYERS)
        for name in ("r_w_bias", "r_r_bias")
    },
    special_ids={"eos_token_id": "separator"},
    buffers=("transformer.pos_emb.inv_freq",),
    activations={"relu": "relu"},
)
