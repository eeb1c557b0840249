"""UER-py's and TencentPretrain's ALBERT and GPT-2: the same modules as BERT's, named for other families."""

from typing import Any

from polyseme.checkpoints.foreign.layouts import Held, Layout, Rules, Shapes
from polyseme.checkpoints.foreign.uer import (
    NAMES,
    OLD_NAMES,
    POST_NORM,
    VALUES,
    embedding_rules,
    linear,
    norm,
    settings_of,
)

_SHARED, _OURS = "encoder.transformer.", "albert.encoder.albert_layer_groups.0.albert_layers.0."

_ALBERT: Rules = {
    **embedding_rules("albert.embeddings."),
    **linear("albert.encoder.embedding_hidden_mapping_in.", "encoder.linear."),
    **linear(f"{_OURS}attention.query.", f"{_SHARED}self_attn.linear_layers.0."),
    **linear(f"{_OURS}attention.key.", f"{_SHARED}self_attn.linear_layers.1."),
    **linear(f"{_OURS}attention.value.", f"{_SHARED}self_attn.linear_layers.2."),
    **linear(f"{_OURS}attention.dense.", f"{_SHARED}self_attn.final_linear."),
    **norm(f"{_OURS}attention.LayerNorm.", f"{_SHARED}layer_norm_1."),
    **linear(f"{_OURS}ffn.", f"{_SHARED}feed_forward.linear_1."),
    **linear(f"{_OURS}ffn_output.", f"{_SHARED}feed_forward.linear_2."),
    **norm(f"{_OURS}full_layer_layer_norm.", f"{_SHARED}layer_norm_2."),
    **linear("albert.pooler.", "target.sp.linear_1."),
    **linear("sop_classifier.classifier.", "target.sp.linear_2."),
    **linear("predictions.dense.", "target.mlm.linear_1."),
    **norm("predictions.LayerNorm.", "target.mlm.layer_norm."),
    "predictions.decoder.weight": "target.mlm.linear_2.weight",
    "predictions.bias": "target.mlm.linear_2.bias",
}


def _finish_albert(plain: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    return settings_of(plain, refused={**POST_NORM, "parameter_sharing": (True,)})


ALBERT = Layout(
    family="albert",
    container="torch",
    marks=("encoder.linear.weight", f"{_SHARED}self_attn.linear_layers.0.weight"),
    rules=_ALBERT,
    architectures=(
        ("sop_classifier.classifier.weight", "AlbertForPreTraining"),
        ("predictions.bias", "AlbertForMaskedLM"),
        ("", "AlbertModel"),
    ),
    old_names=OLD_NAMES,
    settings=("*config.json",),
    names={**NAMES, "emb_size": "embedding_size"},
    values=VALUES,
    sizes={
        "vocab_size": ("embedding.word.embedding.weight", 0),
        "max_position_embeddings": ("embedding.pos.embedding.weight", 0),
    },
    written={"layer_norm_eps": 1e-12, "type_vocab_size": 2},
    finish=_finish_albert,
)

_LAYER = "encoder.transformer.{n}."


def _conv(published: str, *foreign: str) -> dict[str, str | Held]:
    """Rules of a matrix that transformers keeps inputs by outputs, joined from several of theirs."""
    return {
        f"{published}weight": Held(tuple(f"{name}weight" for name in foreign), turned=True),
        f"{published}bias": Held(tuple(f"{name}bias" for name in foreign)),
    }


_QUERY_KEY_VALUE = tuple(f"{_LAYER}self_attn.linear_layers.{number}." for number in range(3))

_GPT2: Rules = {
    "transformer.wte.weight": "embedding.word.embedding.weight",
    "transformer.wpe.weight": "embedding.pos.embedding.weight",
    **_conv("transformer.h.{n}.attn.c_attn.", *_QUERY_KEY_VALUE),
    **_conv("transformer.h.{n}.attn.c_proj.", f"{_LAYER}self_attn.final_linear."),
    **_conv("transformer.h.{n}.mlp.c_fc.", f"{_LAYER}feed_forward.linear_1."),
    **_conv("transformer.h.{n}.mlp.c_proj.", f"{_LAYER}feed_forward.linear_2."),
    **norm("transformer.h.{n}.ln_1.", f"{_LAYER}layer_norm_1."),
    **norm("transformer.h.{n}.ln_2.", f"{_LAYER}layer_norm_2."),
    **norm("transformer.ln_f.", "encoder.layer_norm."),
    "lm_head.weight": "target.lm.output_layer.weight",
}


def _finish_gpt2(plain: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    settings_of(
        plain,
        refused={
            "layernorm_positioning": ("pre",),
            "layernorm": ("normal",),
            "mask": ("causal",),
            "remove_embedding_layernorm": (True,),
        },
    )
    dropout = plain.get("resid_pdrop", 0.1)
    return {"attn_pdrop": dropout, "embd_pdrop": dropout}


GPT2 = Layout(
    family="gpt2",
    container="torch",
    marks=("encoder.layer_norm.gamma", "target.lm.output_layer.weight", "embedding.pos.embedding.weight"),
    rules=_GPT2,
    architectures=(("", "GPT2LMHeadModel"),),
    old_names=OLD_NAMES,
    settings=("*config.json",),
    names={
        "layers_num": "n_layer",
        "heads_num": "n_head",
        "hidden_size": "n_embd",
        "feedforward_size": "n_inner",
        "hidden_act": "activation_function",
        "dropout": "resid_pdrop",
    },
    values={"activation_function": VALUES["hidden_act"]},
    sizes={
        "vocab_size": ("embedding.word.embedding.weight", 0),
        "n_positions": ("embedding.pos.embedding.weight", 0),
    },
    counts={"n_layer": f"{_LAYER}layer_norm_1.gamma"},
    written={"layer_norm_epsilon": 1e-5},
    finish=_finish_gpt2,
)
