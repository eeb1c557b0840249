"""Transformer-XL's TensorFlow checkpoints, as its authors publish them: model.ckpt-0 below tf/.

The folder has no settings: sizes are those of the tensors, and the lengths of memory and of distances are
those of the published evaluation. The columns of the clusters have the order of transformers' labelled loss.
"""

from typing import Any

from polyseme.checkpoints.foreign.layouts import OPTIMIZER, Held, Layout, Rules, Shapes, dense, norm

_THEIRS, _OURS = "transformer/layer_{n}/", "transformer.layers.{n}."
_EMBEDDING, _SOFTMAX = "transformer/adaptive_embed/cutoff_", "transformer/adaptive_softmax/cutoff_"

RULES: Rules = {
    "transformer.word_emb.emb_layers.{i}.weight": f"{_EMBEDDING}{{i}}/lookup_table",
    "transformer.word_emb.emb_projs.{i}": Held((f"{_EMBEDDING}{{i}}/proj_W",), turned=True),
    "crit.cluster_weight": f"{_SOFTMAX}0/cluster_W",
    "crit.cluster_bias": f"{_SOFTMAX}0/cluster_b",
    "crit.out_layers.{i}.bias": f"{_SOFTMAX}{{i}}/b",
    "crit.out_layers.{i}.weight": f"{_SOFTMAX}{{i}}/lookup_table",
    "crit.out_projs.{i}": Held((f"{_SOFTMAX}{{i}}/proj",), turned=True),
    **{
        f"{_OURS}dec_attn.{name}_net.weight": Held((f"{_THEIRS}rel_attn/{name}/kernel",), turned=True)
        for name in ("qkv", "r", "o")
    },
    **norm(f"{_OURS}dec_attn.layer_norm.", f"{_THEIRS}rel_attn/LayerNorm/"),
    **{
        f"{_OURS}dec_attn.{name}": Held((f"transformer/{name}",), by_layer=True)
        for name in ("r_w_bias", "r_r_bias")
    },
    **dense(f"{_OURS}pos_ff.CoreNet.0.", f"{_THEIRS}ff/layer_1/"),
    **dense(f"{_OURS}pos_ff.CoreNet.3.", f"{_THEIRS}ff/layer_2/"),
    **norm(f"{_OURS}pos_ff.layer_norm.", f"{_THEIRS}ff/LayerNorm/"),
}


def _finish(plain: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The sizes of the clusters, and which of them share their projection with the embedding."""
    tables: list[tuple[int, ...]] = []
    while (table := shapes.get(f"{_EMBEDDING}{len(tables)}/lookup_table")) and len(table) == 2:
        tables.append(table)
    if not tables or len(shapes.get("transformer/r_w_bias", ())) != 3:
        raise ValueError("the embedding has no clusters, or its layers share their biases (untie_r is false)")
    widths = [table[1] for table in tables]
    if len(tables) > 1 and (not widths[1] or widths[0] % widths[1]):
        raise ValueError(f"the clusters have the widths {widths}, which no div_val gives")
    ends = [sum(table[0] for table in tables[: number + 1]) for number in range(len(tables))]
    width = shapes.get("transformer/layer_0/rel_attn/qkv/kernel", (0, 0))[0]
    return {
        "vocab_size": ends[-1],
        "cutoffs": ends[:-1],
        "d_embed": widths[0],
        "d_model": width,
        "div_val": widths[0] // widths[1] if len(widths) > 1 else 1,
        "tie_projs": [f"{_SOFTMAX}{number}/proj" not in shapes for number in range(len(tables))],
        "tie_word_embeddings": f"{_SOFTMAX}0/lookup_table" not in shapes,
    }


TRANSFORMER_XL = Layout(
    family="transfo-xl",
    container="tensorflow",
    marks=("transformer/adaptive_embed/cutoff_0/lookup_table", "transformer/layer_0/rel_attn/qkv/kernel"),
    rules=RULES,
    architectures=(("crit.out_layers.0.bias", "TransfoXLLMHeadModel"), ("", "TransfoXLModel")),
    sizes={
        "n_layer": ("transformer/r_w_bias", 0),
        "n_head": ("transformer/r_w_bias", 1),
        "d_head": ("transformer/r_w_bias", 2),
        "d_inner": ("transformer/layer_0/ff/layer_1/bias", 0),
    },
    written={
        "adaptive": True,
        "attn_type": 0,
        "untie_r": True,
        "pre_lnorm": False,
        "mem_len": 1600,
        "clamp_len": 1000,
        "same_length": True,
        # That of TensorFlow's layer_norm; the authors' PyTorch code has 1e-5.
        "layer_norm_epsilon": 1e-12,
    },
    ignored=OPTIMIZER,
    finish=_finish,
)
