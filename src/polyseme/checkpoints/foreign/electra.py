"""ELECTRA's folders as Google publishes them: one checkpoint with the discriminator and the generator.

It has no settings file: the sizes are those of the tensors, and a head has 64 numbers. transformers keeps
the two networks in two folders, so there are two layouts of the one file; the embeddings belong to both.
"""

from collections.abc import Mapping
from typing import Any

from polyseme.checkpoints.foreign.bert import ACTIVATION, embedding_rules, encoder_rules
from polyseme.checkpoints.foreign.layouts import OPTIMIZER, Layout, Rules, Shapes, dense, norm

_HEAD_SIZE = 64
_SETTINGS = ("*electra_config*.json", "*config.json")


def _rules(scope: str) -> Rules:
    return {
        **embedding_rules("electra.embeddings.", "electra/embeddings/"),
        **dense("electra.embeddings_project.", f"{scope}/embeddings_project/"),
        **encoder_rules("electra.encoder.", f"{scope}/encoder/"),
    }


def _layout(
    scope: str,
    head: Rules,
    architectures: tuple[tuple[str, str], ...],
    other: str,
    activation: Mapping[str, str],
) -> Layout:
    def finish(plain: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
        if "num_attention_heads" in plain:
            return {}
        width = shapes[f"{scope}/encoder/layer_0/attention/self/query/bias"][0]
        if width % _HEAD_SIZE:
            raise ValueError(
                f"the number of heads is not that of published models (hidden_size {width} is no multiple of "
                f"{_HEAD_SIZE}); name a settings file with num_attention_heads"
            )
        return {"num_attention_heads": width // _HEAD_SIZE}

    return Layout(
        family="electra",
        container="tensorflow",
        marks=("electra/embeddings/word_embeddings", f"{scope}/encoder/layer_0/attention/self/query/bias"),
        rules={**_rules(scope), **head},
        architectures=architectures,
        settings=_SETTINGS,
        values={"hidden_act": activation},
        sizes={
            "vocab_size": ("electra/embeddings/word_embeddings", 0),
            "embedding_size": ("electra/embeddings/word_embeddings", 1),
            "max_position_embeddings": ("electra/embeddings/position_embeddings", 0),
            "type_vocab_size": ("electra/embeddings/token_type_embeddings", 0),
            "hidden_size": (f"{scope}/encoder/layer_0/attention/self/query/bias", 0),
            "intermediate_size": (f"{scope}/encoder/layer_0/intermediate/dense/bias", 0),
        },
        counts={"num_hidden_layers": f"{scope}/encoder/layer_{{n}}/output/dense/bias"},
        written={"hidden_act": "gelu", "layer_norm_eps": 1e-12},
        ignored={**OPTIMIZER, f"tensors of the {other}": _OTHERS[other]},
        finish=finish,
    )


_OTHERS = {
    "generator": r"generator(_predictions)?/.*",
    "discriminator": r"(electra|discriminator_predictions)/.*",
}

DISCRIMINATOR = _layout(
    "electra",
    {
        **dense("discriminator_predictions.dense.", "discriminator_predictions/dense/"),
        **dense("discriminator_predictions.dense_prediction.", "discriminator_predictions/dense_1/"),
    },
    (("discriminator_predictions.dense.weight", "ElectraForPreTraining"), ("", "ElectraModel")),
    "generator",
    ACTIVATION,
)

GENERATOR = _layout(
    "generator",
    {
        **dense("generator_predictions.dense.", "generator_predictions/dense/"),
        **norm("generator_predictions.LayerNorm.", "generator_predictions/LayerNorm/"),
        "generator_lm_head.bias": "generator_predictions/output_bias",
    },
    (("generator_lm_head.bias", "ElectraForMaskedLM"), ("", "ElectraModel")),
    "discriminator",
    # The code's gelu has tanh here too, but transformers' head for ELECTRA always computes the exact one, and
    # published folders have it in the layers as well.
    {},
)
