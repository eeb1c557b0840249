"""UER-py's and TencentPretrain's T5 and T5 1.1: their modules under T5's published names."""

from typing import Any

from polyseme.checkpoints.foreign.layouts import Held, Layout, Rules, Shapes
from polyseme.checkpoints.foreign.uer import OLD_NAMES, settings_of

_ENCODER, _DECODER = "encoder.transformer.{n}.", "decoder.transformer_decoder.{n}."


def _attention(published: str, foreign: str) -> dict[str, str | Held]:
    projections = ("linear_layers.0", "linear_layers.1", "linear_layers.2", "final_linear")
    return {
        f"{published}{name}.weight": f"{foreign}{theirs}.weight"
        for name, theirs in zip("qkvo", projections, strict=True)
    }


def _feedforward(published: str, foreign: str, *, gated: bool) -> dict[str, str | Held]:
    first = {"wi_0": "linear_gate", "wi_1": "linear_1"} if gated else {"wi": "linear_1"}
    names = {**first, "wo": "linear_2"}
    return {f"{published}{name}.weight": f"{foreign}{theirs}.weight" for name, theirs in names.items()}


def _rules(*, gated: bool) -> Rules:
    first, second = "encoder.block.{n}.layer.", "decoder.block.{n}.layer."
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return {
        "shared.weight": "embedding.word.embedding.weight",
        "decoder.embed_tokens.weight": "tgt_embedding.word.embedding.weight",
        "lm_head.weight": "target.lm.output_layer.weight",
        f"encoder.{bias}": "encoder.relative_pos_emb.relative_attention_bias.weight",
        f"decoder.{bias}": "decoder.self_pos_emb.relative_attention_bias.weight",
        **_attention(f"{first}0.SelfAttention.", f"{_ENCODER}self_attn."),
        **_feedforward(f"{first}1.DenseReluDense.", f"{_ENCODER}feed_forward.", gated=gated),
        **{f"{first}{n}.layer_norm.weight": f"{_ENCODER}layer_norm_{n + 1}.weight" for n in range(2)},
        "encoder.final_layer_norm.weight": "encoder.layer_norm.weight",
        **_attention(f"{second}0.SelfAttention.", f"{_DECODER}self_attn."),
        **_attention(f"{second}1.EncDecAttention.", f"{_DECODER}context_attn."),
        **_feedforward(f"{second}2.DenseReluDense.", f"{_DECODER}feed_forward.", gated=gated),
        **{f"{second}{n}.layer_norm.weight": f"{_DECODER}layer_norm_{n + 1}.weight" for n in range(3)},
        "decoder.final_layer_norm.weight": "decoder.layer_norm.weight",
    }


def _layout(*, gated: bool) -> Layout:
    def finish(plain: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
        settings_of(plain, refused={"layernorm": ("t5",), "layernorm_positioning": ("pre",)})
        query = shapes["encoder.transformer.0.self_attn.linear_layers.0.weight"]
        heads = plain.get("num_heads")
        if not isinstance(heads, int) or heads < 1 or len(query) != 2 or query[0] % heads:
            raise ValueError(f"heads_num {heads!r} does not divide the attention's size {list(query)}")
        return {"d_kv": query[0] // heads, "feed_forward_proj": "gated-gelu" if gated else "relu"}

    own = "linear_gate" if gated else "linear_1"
    return Layout(
        family="t5",
        container="torch",
        marks=(
            "encoder.transformer.0.self_attn.linear_layers.0.weight",
            "encoder.relative_pos_emb.relative_attention_bias.weight",
            f"encoder.transformer.0.feed_forward.{own}.weight",
        ),
        rules=_rules(gated=gated),
        architectures=(("", "T5ForConditionalGeneration"),),
        old_names=OLD_NAMES,
        settings=("*config.json",),
        names={
            "layers_num": "num_layers",
            "decoder_layers_num": "num_decoder_layers",
            "heads_num": "num_heads",
            "hidden_size": "d_model",
            "feedforward_size": "d_ff",
            "dropout": "dropout_rate",
        },
        sizes={
            "vocab_size": ("embedding.word.embedding.weight", 0),
            "relative_attention_num_buckets": ("encoder.relative_pos_emb.relative_attention_bias.weight", 0),
        },
        counts={
            "num_layers": f"{_ENCODER}layer_norm_1.weight",
            "num_decoder_layers": f"{_DECODER}layer_norm_1.weight",
        },
        written={"layer_norm_epsilon": 1e-6, "is_encoder_decoder": True, "decoder_start_token_id": 0},
        finish=finish,
    )


T5_GATED = _layout(gated=True)
T5 = _layout(gated=False)
