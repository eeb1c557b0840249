"""GPT's folder as OpenAI publishes it: params_0.npy to params_9.npy, params_shapes.json, the vocabulary.

The arrays are one long row of numbers, cut by the list of shapes; a tensor's name is its place in the list.
A head has 64 numbers.
"""

from typing import Any

from polyseme.checkpoints.foreign.gpt2 import layer_rules
from polyseme.checkpoints.foreign.layouts import Layout, Shapes

_HEAD_SIZE = 64


def _finish(plain: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    width = shapes["model/we"][-1]
    if "n_head" not in plain and width % _HEAD_SIZE:
        raise ValueError(
            f"n_embd is {width}, which is no multiple of {_HEAD_SIZE}; name a settings file with n_head"
        )
    return {"n_head": plain.get("n_head", width // _HEAD_SIZE)}


GPT = Layout(
    family="openai-gpt",
    container="arrays",
    marks=("model/we", "model/h0/attn/c_attn/w"),
    rules={
        "transformer.positions_embed.weight": "model/positions",
        "transformer.tokens_embed.weight": "model/we",
        **layer_rules("model/h{n}/"),
    },
    architectures=(("", "OpenAIGPTLMHeadModel"),),
    settings=("hparams.json",),
    names={"n_vocab": "vocab_size", "n_ctx": "n_positions"},
    sizes={
        "n_positions": ("model/positions", 0),
        "vocab_size": ("model/we", 0),
        "n_embd": ("model/we", 1),
    },
    counts={"n_layer": "model/h{n}/ln_1/g"},
    written={"afn": "gelu", "layer_norm_epsilon": 1e-5},
    finish=_finish,
)
