"""The settings files of sentence-transformers: what each key means here.

As beside a tokenizer, a key is honoured, known to change no vector, or refused by its name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from polyseme.errors import CheckpointError


class Keys(NamedTuple):
    """The keys of one kind of file."""

    honoured: frozenset[str]
    harmless: Mapping[str, str] = {}
    """With the reason."""
    usual: Mapping[str, tuple[Any, ...]] = {}
    """Keys of which only these values are computed."""


_ALL_INPUTS = ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},)

TRANSFORMER = Keys(
    honoured=frozenset({"max_seq_length", "do_lower_case"}),
    harmless={
        "unpad_inputs": "rows are read without padding anyway",
        "backend": "the other library's way to compute the same",
    },
    usual={
        "transformer_task": ("feature-extraction",),
        "modality_config": _ALL_INPUTS,
        "module_output_name": ("token_embeddings",),
        "processing_kwargs": ({}, {"text": {}}, {"text": {"truncation": True}}),
        "query_length": (),
        "document_length": (),
        "query_expansion": (),
        "tokenizer_name_or_path": (),
        "model_name_or_path": (),
        "model_args": ({},),
        "model_kwargs": ({},),
        "config_args": ({},),
        "config_kwargs": ({},),
        "tokenizer_args": ({},),
        "processor_kwargs": ({},),
        "cache_dir": (),
    },
)
"""sentence_bert_config.json, and the names that it had for other families."""

MODEL = Keys(
    honoured=frozenset({"prompts", "default_prompt_name", "truncate_dim"}),
    harmless={
        "__version__": "what wrote the file",
        "requirements": "packages of the other library",
        "similarity_fn_name": "how vectors are compared, not how they are made",
    },
    usual={"model_type": ("SentenceTransformer",)},
)
"""config_sentence_transformers.json."""

MODULE = Keys(
    honoured=frozenset({"type", "path"}),
    harmless={"idx": "the list is in order", "name": "the list is in order"},
    usual={"kwargs": ([],)},
)
"""An entry of modules.json."""

POOLING = Keys(
    honoured=frozenset(
        {
            "embedding_dimension",
            "word_embedding_dimension",
            "pooling_mode",
            "include_prompt",
            "pooling_mode_cls_token",
            "pooling_mode_mean_tokens",
            "pooling_mode_max_tokens",
            "pooling_mode_mean_sqrt_len_tokens",
            "pooling_mode_weightedmean_tokens",
            "pooling_mode_lasttoken",
        }
    )
)

_OF_TEXTS = {"module_input_name": ("sentence_embedding",), "module_output_name": ("sentence_embedding",)}

DENSE = Keys(
    honoured=frozenset({"in_features", "out_features", "bias", "activation_function"}),
    usual=_OF_TEXTS | {"use_residual": (False,)},
)
NORMALIZE = Keys(honoured=frozenset(), usual=_OF_TEXTS)
DROPOUT = Keys(honoured=frozenset(), harmless={"dropout": "only training drops anything"})


def check_keys(settings: Mapping[str, Any], keys: Keys, path: Path) -> None:
    """Refuse what would change the vectors and is not computed."""
    for key, value in settings.items():
        if key in keys.honoured or key in keys.harmless or value is None:
            continue
        if key not in keys.usual:
            raise CheckpointError(
                f"{path} has the key {key[:60]!r}, which polyseme does not know; if it says nothing of how "
                "vectors are made, take it out"
            )
        if value not in keys.usual[key] and _without_trust(value) not in keys.usual[key]:
            shown = type(value).__name__ if isinstance(value, int) and abs(value) >> 64 else f"{value!r:.60}"
            usual = f"; computed is {keys.usual[key][0]!r}" if keys.usual[key] else ""
            raise CheckpointError(f"{path}: {key} is {shown}, which is not computed{usual}")


def _without_trust(value: Any) -> Any:
    """Arguments without the leave to run code, which nobody has here."""
    if not isinstance(value, dict):
        return value
    return {key: inner for key, inner in value.items() if key != "trust_remote_code"}
