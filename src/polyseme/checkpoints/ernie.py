"""ERNIE's folders (Sun et al. 2019), as transformers writes them: BERT's, but for what is named here."""

from dataclasses import replace
from typing import Any

from polyseme.checkpoints.bert import BERT
from polyseme.checkpoints.rules import Rules, renamed
from polyseme.models.transformer.config import TransformerConfig

_TASK_TYPES: Rules = {"ernie.embeddings.task_type_embeddings.": "embeddings.task_types."}


def _read_more(plain: dict[str, Any]) -> dict[str, Any]:
    used = plain.get("use_task_id", False)
    rows = plain.get("task_type_vocab_size", 3)
    if not isinstance(used, bool) or type(rows) is not int or (used and rows < 1):
        raise ValueError(
            "use_task_id must be true or false and task_type_vocab_size a number of rows, "
            f"got {used!r} and {rows!r}"
        )
    return {"embedding.task_type_vocab_size": rows if used else 0}


def _write_more(config: TransformerConfig) -> dict[str, Any]:
    rows = config.embedding.task_type_vocab_size
    sizes = {"task_type_vocab_size": rows} if rows else {}
    return BERT.write_more(config) | {"use_task_id": rows > 0} | sizes


_RULES = {part: renamed(rules, "bert.", "ernie.") for part, rules in BERT.rules.items()}

ERNIE = replace(
    BERT,
    family="ernie",
    # Later ERNIEs add a vector for the kind of task to every token.
    rules=_RULES | {"backbone": {**_RULES["backbone"], **_TASK_TYPES}},
    prefix="ernie.",
    architectures={heads: name.replace("Bert", "Ernie") for heads, name in BERT.architectures.items()},
    read_more=_read_more,
    write_more=_write_more,
    ties={
        "cls.predictions.decoder.weight": "ernie.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    buffers=("ernie.embeddings.position_ids", "ernie.embeddings.token_type_ids"),
)
