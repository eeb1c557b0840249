"""GPT's folders (Radford et al. 2018), as transformers writes them: norms after the sublayers."""

from typing import Any

from polyseme.checkpoints.formats import Format
from polyseme.checkpoints.gpt2 import BLOCKS, BUFFERS, DEFAULTS, FIXED, NAMES, read_shared, write_shared


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    size = 4 * int(plain.get("n_embd") or DEFAULTS["n_embd"])
    return {"intermediate_size": size, **read_shared(plain, end=None)}


GPT = Format(
    family="openai-gpt",
    rules={
        "backbone": {
            "transformer.tokens_embed.weight": "embeddings.tokens.weight",
            "transformer.positions_embed.weight": "embeddings.positions.weight",
            **BLOCKS,
        },
        "pooler": {},
        "causal-lm": {},
        "classification": {"score.weight": "classification.dense.weight"},
        "token-classification": {"classifier.": "token-classification.dense."},
    },
    prefix="transformer.",
    roots=("tokens_embed.", "positions_embed.", "h."),
    marks={"classification": "score.weight", "token-classification": "classifier.weight"},
    architectures={
        frozenset(): "OpenAIGPTModel",
        frozenset({"causal-lm"}): "OpenAIGPTLMHeadModel",
        frozenset({"classification"}): "OpenAIGPTForSequenceClassification",
        # Named as the others are; transformers has no such class.
        frozenset({"token-classification"}): "OpenAIGPTForTokenClassification",
    },
    names={**NAMES, "activation": "afn"},
    defaults={"vocab_size": 40478, "n_positions": 512, "afn": "gelu", **DEFAULTS},
    fixed=FIXED,
    demanded={"tie_word_embeddings": (True,)},
    written={},
    poolings={"last": {}},
    classifier={"transform": "none", "bias": False},
    read_more=_read_more,
    write_more=write_shared,
    ties={"lm_head.weight": "transformer.tokens_embed.weight"},
    special_ids={"bos_token_id": "first", "eos_token_id": "separator"},
    buffers=(*BUFFERS, "transformer.position_ids"),
    aside=("multiple_choice_head.",),
    fresh_only=("initial.positions",),
    # The word "gelu" has always meant the approximation here.
    activations={"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"},
)
