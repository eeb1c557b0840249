"""UER-py's and TencentPretrain's BERT: a pickled state of their modules, with a settings file in JSON.

Old releases named some tensors otherwise. Segments count from 1 there, row 0 is padding's, and transformers'
folders leave it out. Their layer norm divides by the standard deviation of a sample (n - 1); the published
conversions take the weights over as they are, and so does this one.
"""

from typing import Any

from polyseme.checkpoints.foreign.layouts import Held, Layout, Rules, Shapes

_LAYER = "encoder.transformer.{n}."

OLD_NAMES = {
    "embedding.word_embedding.weight": "embedding.word.embedding.weight",
    "embedding.position_embedding.weight": "embedding.pos.embedding.weight",
    "embedding.segment_embedding.weight": "embedding.seg.embedding.weight",
    "target.layer_norm.gamma": "target.mlm.layer_norm.gamma",
    "target.layer_norm.beta": "target.mlm.layer_norm.beta",
    "target.output_layer.weight": "target.lm.output_layer.weight",
    # The pooler has another name where a classifier was fine-tuned.
    "output_layer_1.weight": "target.sp.linear_1.weight",
    "output_layer_1.bias": "target.sp.linear_1.bias",
    **{
        f"target.{old}_linear_{number}.{end}": f"target.{new}.linear_{number}.{end}"
        for old, new in (("mlm", "mlm"), ("sp", "sp"), ("nsp", "sp"), ("sop", "sp"))
        for number in (1, 2)
        for end in ("weight", "bias")
    },
}

NAMES = {
    "layers_num": "num_hidden_layers",
    "heads_num": "num_attention_heads",
    "feedforward_size": "intermediate_size",
    "dropout": "hidden_dropout_prob",
}

VALUES = {"hidden_act": {"gelu_fast": "gelu_new"}}


def linear(published: str, foreign: str) -> dict[str, str | Held]:
    """Rules of a linear layer."""
    return {f"{published}{end}": f"{foreign}{end}" for end in ("weight", "bias")}


def norm(published: str, foreign: str) -> dict[str, str | Held]:
    """Rules of their layer norm."""
    return {f"{published}weight": f"{foreign}gamma", f"{published}bias": f"{foreign}beta"}


def embedding_rules(published: str) -> dict[str, str | Held]:
    """Rules of the embeddings of BERT and its kin below `published`."""
    return {
        f"{published}word_embeddings.weight": "embedding.word.embedding.weight",
        f"{published}position_embeddings.weight": "embedding.pos.embedding.weight",
        f"{published}token_type_embeddings.weight": Held(("embedding.seg.embedding.weight",), from_row=1),
        **norm(f"{published}LayerNorm.", "embedding.layer_norm."),
    }


RULES: Rules = {
    **embedding_rules("bert.embeddings."),
    **linear("bert.encoder.layer.{n}.attention.self.query.", f"{_LAYER}self_attn.linear_layers.0."),
    **linear("bert.encoder.layer.{n}.attention.self.key.", f"{_LAYER}self_attn.linear_layers.1."),
    **linear("bert.encoder.layer.{n}.attention.self.value.", f"{_LAYER}self_attn.linear_layers.2."),
    **linear("bert.encoder.layer.{n}.attention.output.dense.", f"{_LAYER}self_attn.final_linear."),
    **norm("bert.encoder.layer.{n}.attention.output.LayerNorm.", f"{_LAYER}layer_norm_1."),
    **linear("bert.encoder.layer.{n}.intermediate.dense.", f"{_LAYER}feed_forward.linear_1."),
    **linear("bert.encoder.layer.{n}.output.dense.", f"{_LAYER}feed_forward.linear_2."),
    **norm("bert.encoder.layer.{n}.output.LayerNorm.", f"{_LAYER}layer_norm_2."),
    **linear("bert.pooler.dense.", "target.sp.linear_1."),
    **linear("cls.seq_relationship.", "target.sp.linear_2."),
    **linear("cls.predictions.transform.dense.", "target.mlm.linear_1."),
    **norm("cls.predictions.transform.LayerNorm.", "target.mlm.layer_norm."),
    "cls.predictions.decoder.weight": "target.mlm.linear_2.weight",
    "cls.predictions.bias": "target.mlm.linear_2.bias",
    **linear("classifier.", "output_layer_2."),
}


def settings_of(plain: dict[str, Any], *, refused: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """What UER's settings say beyond names; raises for a choice that the layout does not have."""
    for key, allowed in refused.items():
        if key in plain and plain[key] not in allowed:
            raise ValueError(
                f"{key} is {plain[key]!r}, which is not read; {' or '.join(map(repr, allowed))} is"
            )
    return (
        {"attention_probs_dropout_prob": plain["hidden_dropout_prob"]}
        if "hidden_dropout_prob" in plain
        else {}
    )


POST_NORM = {
    "layernorm_positioning": ("post",),
    "layernorm": ("normal",),
    "feed_forward": ("dense",),
    "mask": ("fully_visible",),
    "relative_position_embedding": (False,),
    "remove_embedding_layernorm": (False,),
    "remove_transformer_bias": (False,),
}
"""What BERT and its kin are in these settings."""


def _finish(plain: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    return settings_of(plain, refused={**POST_NORM, "parameter_sharing": (False,)})


BERT = Layout(
    family="bert",
    container="torch",
    marks=("embedding.seg.embedding.weight", "encoder.transformer.0.self_attn.linear_layers.0.weight"),
    rules=RULES,
    architectures=(
        ("classifier.weight", "BertForSequenceClassification"),
        ("cls.seq_relationship.weight", "BertForPreTraining"),
        ("cls.predictions.bias", "BertForMaskedLM"),
        ("", "BertModel"),
    ),
    old_names=OLD_NAMES,
    settings=("*config.json",),
    names=NAMES,
    values=VALUES,
    sizes={
        "vocab_size": ("embedding.word.embedding.weight", 0),
        "max_position_embeddings": ("embedding.pos.embedding.weight", 0),
    },
    counts={"num_hidden_layers": f"{_LAYER}layer_norm_1.gamma"},
    written={"layer_norm_eps": 1e-12, "type_vocab_size": 2},
    finish=_finish,
)
