"""GPT-2's folders (Radford et al. 2019), as transformers writes them."""

from typing import Any

from polyseme.checkpoints.formats import Format
from polyseme.checkpoints.rules import Rules, Transposed
from polyseme.models.transformer.config import TransformerConfig

BLOCKS: Rules = {
    "transformer.h.{n}.attn.c_attn.": Transposed(
        "layers.{n}.attention.query.",
        "layers.{n}.attention.key.",
        "layers.{n}.attention.value.",
    ),
    "transformer.h.{n}.attn.c_proj.": Transposed("layers.{n}.attention.output."),
    "transformer.h.{n}.ln_1.": "layers.{n}.attention_norm.",
    "transformer.h.{n}.mlp.c_fc.": Transposed("layers.{n}.feedforward.input."),
    "transformer.h.{n}.mlp.c_proj.": Transposed("layers.{n}.feedforward.output."),
    "transformer.h.{n}.ln_2.": "layers.{n}.feedforward_norm.",
}
"""The layers of GPT and of GPT-2; their matrices are written inputs by outputs."""

BUFFERS = ("transformer.h.{n}.attn.bias", "transformer.h.{n}.attn.masked_bias")
"""The causal mask, which older files hold once a layer."""

NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
    "dropout": "resid_pdrop",
    "attention_dropout": "attn_pdrop",
    "initial.range": "initializer_range",
}
DEFAULTS = {
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "layer_norm_epsilon": 1e-5,
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "initializer_range": 0.02,
}
FIXED = {"type_vocab_size": 0, "embedding.norm": False, "attention.causal": True}


def read_shared(plain: dict[str, Any], *, end: int | None) -> dict[str, Any]:
    """The dropout, which has two words, and what fills rows up where no token is named for it: the `end`."""
    first, other = plain.get("resid_pdrop"), plain.get("embd_pdrop")
    if (0.1 if first is None else first) != (0.1 if other is None else other):
        raise ValueError(
            f"embd_pdrop is {other!r} and resid_pdrop {first!r}; polyseme has one value for both"
        )
    filling = plain.get("pad_token_id")
    if filling is None:
        end = plain.get("eos_token_id", end)
        filling = end if isinstance(end, int) and end < plain.get("vocab_size", 0) else 0
    return {"padding_id": filling}


def write_shared(config: TransformerConfig) -> dict[str, Any]:
    """The keys of `read_shared`, in the words of the family."""
    return {"embd_pdrop": config.dropout, "pad_token_id": config.padding_id}


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    inner = plain.get("n_inner")
    size = 4 * int(plain.get("n_embd") or DEFAULTS["n_embd"]) if inner is None else inner
    return {"intermediate_size": size, **read_shared(plain, end=50256)}


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    return {"n_inner": config.intermediate_size, **write_shared(config)}


GPT2 = Format(
    family="gpt2",
    rules={
        "backbone": {
            "transformer.wte.weight": "embeddings.tokens.weight",
            "transformer.wpe.weight": "embeddings.positions.weight",
            **BLOCKS,
            "transformer.ln_f.": "final_norm.",
        },
        "pooler": {},
        "causal-lm": {},
        "classification": {"score.weight": "classification.dense.weight"},
        "token-classification": {"classifier.": "token-classification.dense."},
    },
    prefix="transformer.",
    roots=("wte.", "wpe.", "h.", "ln_f."),
    marks={"classification": "score.weight", "token-classification": "classifier.weight"},
    architectures={
        frozenset(): "GPT2Model",
        frozenset({"causal-lm"}): "GPT2LMHeadModel",
        frozenset({"classification"}): "GPT2ForSequenceClassification",
        frozenset({"token-classification"}): "GPT2ForTokenClassification",
    },
    names={**NAMES, "activation": "activation_function"},
    defaults={"vocab_size": 50257, "n_positions": 1024, "activation_function": "gelu_new", **DEFAULTS},
    fixed={**FIXED, "norm_position": "before", "final_norm": True, "initial.scaled_outputs": True},
    demanded={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    # Absent ids would mean GPT-2's own, which lie beyond a small vocabulary.
    written={"use_cache": True, "bos_token_id": None, "eos_token_id": None},
    poolings={"last": {}},
    classifier={"transform": "none", "bias": False},
    readings={"token-classification": {"dropout": 0.1}},
    read_more=_read_more,
    write_more=_write_more,
    ties={"lm_head.weight": "transformer.wte.weight"},
    special_ids={"bos_token_id": "first", "eos_token_id": "separator"},
    buffers=BUFFERS,
    aside=("multiple_choice_head.",),
    fresh_only=("initial.positions", "initial.scaled_outputs"),
)
