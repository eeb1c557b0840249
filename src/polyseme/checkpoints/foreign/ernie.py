"""Baidu's ERNIE: a file for each parameter, or one `.pdparams`, with ernie_config.json and vocab.txt.

transformers' settings for ERNIE differ from those of version 1.0, which are written here: ReLU, and the
epsilon of Paddle's layer norm.
"""

from typing import Any

from polyseme.checkpoints.foreign.layouts import Held, Layout, Rules, Shapes

_WRITTEN = {
    "hidden_act": "relu",
    "layer_norm_eps": 1e-5,
}
_ARCHITECTURES = (
    ("cls.seq_relationship.weight", "ErnieForPreTraining"),
    ("cls.predictions.bias", "ErnieForMaskedLM"),
    ("", "ErnieModel"),
)
_LAYER, _OURS = "encoder_layer_{n}_", "ernie.encoder.layer.{n}."


def _dense(published: str, foreign: str) -> dict[str, str | Held]:
    return {f"{published}weight": Held((f"{foreign}w_0",), turned=True), f"{published}bias": f"{foreign}b_0"}


def _norm(published: str, foreign: str) -> dict[str, str | Held]:
    return {f"{published}weight": f"{foreign}_scale", f"{published}bias": f"{foreign}_bias"}


_STATIC: Rules = {
    "ernie.embeddings.word_embeddings.weight": "word_embedding",
    "ernie.embeddings.position_embeddings.weight": "pos_embedding",
    "ernie.embeddings.token_type_embeddings.weight": "sent_embedding",
    **_norm("ernie.embeddings.LayerNorm.", "pre_encoder_layer_norm"),
    **_dense(f"{_OURS}attention.self.query.", f"{_LAYER}multi_head_att_query_fc."),
    **_dense(f"{_OURS}attention.self.key.", f"{_LAYER}multi_head_att_key_fc."),
    **_dense(f"{_OURS}attention.self.value.", f"{_LAYER}multi_head_att_value_fc."),
    **_dense(f"{_OURS}attention.output.dense.", f"{_LAYER}multi_head_att_output_fc."),
    **_norm(f"{_OURS}attention.output.LayerNorm.", f"{_LAYER}post_att_layer_norm"),
    **_dense(f"{_OURS}intermediate.dense.", f"{_LAYER}ffn_fc_0."),
    **_dense(f"{_OURS}output.dense.", f"{_LAYER}ffn_fc_1."),
    **_norm(f"{_OURS}output.LayerNorm.", f"{_LAYER}post_ffn_layer_norm"),
    **_dense("ernie.pooler.dense.", "pooled_fc."),
    **_dense("cls.predictions.transform.dense.", "mask_lm_trans_fc."),
    **_norm("cls.predictions.transform.LayerNorm.", "mask_lm_trans_layer_norm"),
    "cls.predictions.bias": "mask_lm_out_fc.b_0",
    **_dense("cls.seq_relationship.", "next_sent_fc."),
}

STATIC = Layout(
    family="ernie",
    container="paddle",
    marks=("word_embedding", "encoder_layer_0_multi_head_att_query_fc.w_0"),
    rules=_STATIC,
    architectures=_ARCHITECTURES,
    settings=("ernie_config.json", "*config*.json"),
    sizes={
        "vocab_size": ("word_embedding", 0),
        "max_position_embeddings": ("pos_embedding", 0),
        "type_vocab_size": ("sent_embedding", 0),
        "hidden_size": ("word_embedding", 1),
        "intermediate_size": ("encoder_layer_0_ffn_fc_0.b_0", 0),
    },
    counts={"num_hidden_layers": "encoder_layer_{n}_ffn_fc_0.b_0"},
    written=_WRITTEN,
    ignored={
        "optimizer slots": r".*_(moment[12]|beta[12]_pow_acc)_\d+",
        "step counters": r"@.*@|learning_rate_\d+|.*lr_decay.*|loss_scaling.*",
    },
)


def _linear(published: str, foreign: str) -> dict[str, str | Held]:
    return {
        f"{published}weight": Held((f"{foreign}weight",), turned=True),
        f"{published}bias": f"{foreign}bias",
    }


def _same(published: str, foreign: str) -> dict[str, str | Held]:
    return {f"{published}{end}": f"{foreign}{end}" for end in ("weight", "bias")}


_PADDLENLP = "ernie.encoder.layers.{n}."

_DYNAMIC: Rules = {
    **{
        f"ernie.embeddings.{name}_embeddings.weight": f"ernie.embeddings.{name}_embeddings.weight"
        for name in ("word", "position", "token_type", "task_type")
    },
    **_same("ernie.embeddings.LayerNorm.", "ernie.embeddings.layer_norm."),
    **_linear(f"{_OURS}attention.self.query.", f"{_PADDLENLP}self_attn.q_proj."),
    **_linear(f"{_OURS}attention.self.key.", f"{_PADDLENLP}self_attn.k_proj."),
    **_linear(f"{_OURS}attention.self.value.", f"{_PADDLENLP}self_attn.v_proj."),
    **_linear(f"{_OURS}attention.output.dense.", f"{_PADDLENLP}self_attn.out_proj."),
    **_same(f"{_OURS}attention.output.LayerNorm.", f"{_PADDLENLP}norm1."),
    **_linear(f"{_OURS}intermediate.dense.", f"{_PADDLENLP}linear1."),
    **_linear(f"{_OURS}output.dense.", f"{_PADDLENLP}linear2."),
    **_same(f"{_OURS}output.LayerNorm.", f"{_PADDLENLP}norm2."),
    **_linear("ernie.pooler.dense.", "ernie.pooler.dense."),
    **_linear("cls.predictions.transform.dense.", "cls.predictions.transform."),
    **_same("cls.predictions.transform.LayerNorm.", "cls.predictions.layer_norm."),
    "cls.predictions.decoder.weight": "cls.predictions.decoder_weight",
    "cls.predictions.bias": "cls.predictions.decoder_bias",
    **_linear("cls.seq_relationship.", "cls.seq_relationship."),
}

_TASK_TYPES = "ernie.embeddings.task_type_embeddings.weight"


def _finish(plain: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Task types, which version 3.0 has, are read where they are, unless the settings say otherwise."""
    return {"use_task_id": plain.get("use_task_id", _TASK_TYPES in shapes)}


DYNAMIC = Layout(
    family="ernie",
    container="pdparams",
    marks=("ernie.embeddings.word_embeddings.weight", "ernie.encoder.layers.0.self_attn.q_proj.weight"),
    rules=_DYNAMIC,
    architectures=_ARCHITECTURES,
    settings=("ernie_config.json", "model_config.json", "*config*.json"),
    sizes={
        "vocab_size": ("ernie.embeddings.word_embeddings.weight", 0),
        "max_position_embeddings": ("ernie.embeddings.position_embeddings.weight", 0),
        "type_vocab_size": ("ernie.embeddings.token_type_embeddings.weight", 0),
        "hidden_size": ("ernie.embeddings.word_embeddings.weight", 1),
        "intermediate_size": ("ernie.encoder.layers.0.linear1.bias", 0),
        "task_type_vocab_size": (_TASK_TYPES, 0),
    },
    counts={"num_hidden_layers": "ernie.encoder.layers.{n}.linear1.bias"},
    written=_WRITTEN,
    finish=_finish,
)
