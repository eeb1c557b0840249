"""ERNIE's folders (Sun et al. 2019), as transformers writes them: BERT's, but for what is named here."""

from dataclasses import replace

from polyseme.checkpoints.bert import BERT
from polyseme.checkpoints.rules import renamed

ERNIE = replace(
    BERT,
    family="ernie",
    rules={part: renamed(rules, "bert.", "ernie.") for part, rules in BERT.rules.items()},
    prefix="ernie.",
    architectures={heads: name.replace("Bert", "Ernie") for heads, name in BERT.architectures.items()},
    # Later ERNIEs add a vector for the kind of task to every token.
    demanded={**BERT.demanded, "use_task_id": (False,)},
    written={**BERT.written, "use_task_id": False},
    ties={
        "cls.predictions.decoder.weight": "ernie.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    buffers=("ernie.embeddings.position_ids", "ernie.embeddings.token_type_ids"),
)
