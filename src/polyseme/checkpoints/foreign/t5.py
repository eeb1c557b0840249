"""T5's folders as Google publishes them: model.ckpt in the names of Mesh TensorFlow, operative_config.gin.

All sizes follow from the tensors; the settings file adds the dropout, and may not contradict them.
"""

import re
from pathlib import Path
from typing import Any

from polyseme.checkpoints.foreign.layouts import Held, Layout, Rules, Shapes
from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer

_LARGEST = 1 << 20
_MACRO = re.compile(r"^(?:\w+/)?(\w+)\s*=\s*([0-9][0-9.e+-]*)\s*$", re.MULTILINE)
_SIZES = ("d_model", "d_ff", "d_kv", "num_heads", "num_layers")


def read_gin(path: Path) -> dict[str, Any]:
    """The numbers that a gin file gives to names."""
    refuse_lfs_pointer(path, CheckpointError)
    try:
        if path.stat().st_size > _LARGEST:
            raise CheckpointError(f"{path} is larger than {_LARGEST >> 20} MB, which no settings file is")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as text: {error}") from error
    plain: dict[str, Any] = {}
    for name, number in _MACRO.findall(text):
        try:
            plain[name] = int(number) if number.isdigit() else float(number)
        except ValueError as error:
            raise CheckpointError(f"{path}: {name} is {number!r}, which is no number") from error
    return {name: plain[name] for name in (*_SIZES, "dropout_rate") if name in plain}


def _attention(stack: str, place: int, kind: str) -> dict[str, str | Held]:
    theirs, ours = f"{stack}/block_{{n:03}}/layer_{place:03}/", f"{stack}.block.{{n}}.layer.{place}."
    return {f"{ours}{kind}.{name}.weight": Held((f"{theirs}{kind}/{name}",), turned=True) for name in "qkvo"}


def _feedforward(stack: str, place: int) -> dict[str, str | Held]:
    theirs = f"{stack}/block_{{n:03}}/layer_{place:03}/DenseReluDense/"
    ours = f"{stack}.block.{{n}}.layer.{place}.DenseReluDense."
    return {
        f"{ours}{name}.weight": Held((f"{theirs}{name}/kernel",), turned=True)
        for name in ("wi", "wi_0", "wi_1", "wo")
    }


def _around(stack: str) -> dict[str, str | Held]:
    """What a stack has beside attention and feed-forward: norms, and the biases of distances."""
    theirs, ours = f"{stack}/block_{{n:03}}/layer_", f"{stack}.block.{{n}}.layer."
    bias = f"{theirs}000/SelfAttention/relative_attention_bias"
    return {
        f"{ours}{{m}}.layer_norm.weight": f"{theirs}{{m:03}}/layer_norm/scale",
        f"{ours}0.SelfAttention.relative_attention_bias.weight": Held((bias,), turned=True),
        f"{stack}.final_layer_norm.weight": f"{stack}/final_layer_norm/scale",
    }


RULES: Rules = {
    "shared.weight": "shared/embedding",
    **_attention("encoder", 0, "SelfAttention"),
    **_feedforward("encoder", 1),
    **_around("encoder"),
    **_attention("decoder", 0, "SelfAttention"),
    **_attention("decoder", 1, "EncDecAttention"),
    **_feedforward("decoder", 2),
    **_around("decoder"),
    "lm_head.weight": Held(("decoder/logits/kernel",), turned=True),
}

_OLD = {
    f"{stack}/{old}/scale": f"{stack}/{new}/scale"
    for stack in ("encoder", "decoder")
    for old, new in (
        ("rms_norm", "final_layer_norm"),
        ("block_{n:03}/layer_{m:03}/rms_norm", "block_{n:03}/layer_{m:03}/layer_norm"),
    )
}


_BIAS = "encoder/block_000/layer_000/SelfAttention/relative_attention_bias"
_INNER = "encoder/block_000/layer_001/DenseReluDense/"


def _finish(plain: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    """What follows from which tensors there are; raises for a settings file that says something else."""
    query = shapes.get("encoder/block_000/layer_000/SelfAttention/q", ())
    heads = shapes.get(_BIAS, ())
    if len(query) != 2 or len(heads) != 2 or not heads[0] or query[1] % heads[0]:
        raise ValueError("the attention of the first layer has no sizes that fit together")
    gated = f"{_INNER}wi_0/kernel" in shapes
    inner = shapes.get(f"{_INNER}{'wi_0' if gated else 'wi'}/kernel", ())
    if len(inner) != 2:
        raise ValueError("the first layer has no feed-forward matrix")
    found = {"num_heads": heads[0], "d_kv": query[1] // heads[0], "d_ff": inner[1]}
    for name, size in found.items():
        if plain.get(name, size) != size:
            raise ValueError(f"{name} is {plain[name]} in the settings file and {size} in the tensors")
    return {
        **found,
        "relative_attention_num_buckets": heads[1],
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "tie_word_embeddings": "decoder/logits/kernel" not in shapes,
    }


T5 = Layout(
    family="t5",
    container="tensorflow",
    marks=("shared/embedding", _BIAS),
    rules=RULES,
    old_names=_OLD,
    architectures=(("", "T5ForConditionalGeneration"),),
    settings=("operative_config.gin", "*.gin"),
    sizes={
        "vocab_size": ("shared/embedding", 0),
        "d_model": ("shared/embedding", 1),
    },
    counts={
        "num_layers": "encoder/block_{n:03}/layer_000/SelfAttention/q",
        "num_decoder_layers": "decoder/block_{n:03}/layer_000/SelfAttention/q",
    },
    written={
        "layer_norm_epsilon": 1e-6,
        "relative_attention_max_distance": 128,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "is_encoder_decoder": True,
    },
    ignored={"optimizer slots": r".*_slot_(v|vr|vc|m)", "step counters": r"global_step"},
    read=read_gin,
    finish=_finish,
)
