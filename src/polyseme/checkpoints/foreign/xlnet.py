"""XLNet's folders as published: xlnet_model.ckpt, xlnet_config.json, spiece.model."""

from typing import Any

from polyseme.checkpoints.foreign.bert import ACTIVATION
from polyseme.checkpoints.foreign.layouts import OPTIMIZER, Held, Layout, Rules, Shapes, dense, norm

_THEIRS, _OURS = "model/transformer/layer_{n}/", "transformer.layer.{n}."

RULES: Rules = {
    "transformer.word_embedding.weight": "model/transformer/word_embedding/lookup_table",
    "transformer.mask_emb": "model/transformer/mask_emb/mask_emb",
    # Both projects keep heads apart in a dimension of their own: [hidden_size, num_heads, head_size].
    **{f"{_OURS}rel_attn.{name}": f"{_THEIRS}rel_attn/{name}/kernel" for name in "qkvor"},
    **{
        f"{_OURS}rel_attn.{name}": Held((f"model/transformer/{name}",), by_layer=True)
        for name in ("r_w_bias", "r_r_bias", "r_s_bias", "seg_embed")
    },
    **norm(f"{_OURS}rel_attn.layer_norm.", f"{_THEIRS}rel_attn/LayerNorm/"),
    **dense(f"{_OURS}ff.layer_1.", f"{_THEIRS}ff/layer_1/"),
    **dense(f"{_OURS}ff.layer_2.", f"{_THEIRS}ff/layer_2/"),
    **norm(f"{_OURS}ff.layer_norm.", f"{_THEIRS}ff/LayerNorm/"),
    "lm_loss.weight": "model/lm_loss/weight",
    "lm_loss.bias": "model/lm_loss/bias",
    # The misspelling is theirs.
    **dense("sequence_summary.summary.", "model/sequnece_summary/summary/"),
}


def _finish(plain: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    if len(shapes.get("model/transformer/r_w_bias", ())) != 3 or plain.get("untie_r") is False:
        raise ValueError("untie_r is false: all layers have the same biases, which polyseme does not read")
    return {}


XLNET = Layout(
    family="xlnet",
    container="tensorflow",
    marks=("model/transformer/word_embedding/lookup_table", "model/transformer/r_w_bias"),
    rules=RULES,
    architectures=(
        ("lm_loss.bias", "XLNetLMHeadModel"),
        ("", "XLNetModel"),
    ),
    settings=("xlnet_config.json", "*config*.json"),
    names={"n_token": "vocab_size"},
    values={"ff_activation": ACTIVATION},
    sizes={
        "vocab_size": ("model/transformer/word_embedding/lookup_table", 0),
        "d_model": ("model/transformer/word_embedding/lookup_table", 1),
        "n_layer": ("model/transformer/r_w_bias", 0),
        "n_head": ("model/transformer/r_w_bias", 1),
        "d_head": ("model/transformer/r_w_bias", 2),
        "d_inner": ("model/transformer/layer_0/ff/layer_1/bias", 0),
    },
    written={"ff_activation": "gelu", "layer_norm_eps": 1e-12, "untie_r": True, "attn_type": "bi"},
    ignored=OPTIMIZER,
    finish=_finish,
)
