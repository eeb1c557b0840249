"""A text of words as one row of tokens: each word is asked at its first token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polyseme.models.batch import IGNORED
from polyseme.tasks.tagged_texts import TaggedText
from polyseme.tasks.task import Row
from polyseme.text.tokenizer import Tokenizer


def word_row(
    tagged: TaggedText,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    label: NDArray[np.float32] | NDArray[np.int64] | None = None,
    word_labels: Sequence[int] | None = None,
    word_hints: Sequence[int] | None = None,
) -> Row:
    """The whole text, cut at its end where it is longer; `Row.places` are the numbers of the words asked.

    A word whose characters the tokenizer drops, or that was cut, has no token and is not asked. Labels
    count at a word's first token, hints at all of its tokens.
    """
    encoded = tokenizer.encode(tagged.text, starts=tagged.words[:, 0])
    room = max_length - tokenizer.frame.size
    input_ids = tokenizer.framed(encoded.ids[:room])
    before = len(tokenizer.frame.before)
    words = encoded.words[:room]
    places, first = np.unique(words[words >= 0], return_index=True)
    asked = np.flatnonzero(words >= 0)[first] + before
    token_labels = token_hints = None
    if word_labels is not None:
        token_labels = np.full(len(input_ids), IGNORED, dtype=np.int64)
        token_labels[asked] = np.asarray(word_labels, dtype=np.int64)[places]
    if word_hints is not None:
        token_hints = np.zeros(len(input_ids), dtype=np.int64)
        inside = np.flatnonzero(words >= 0)
        token_hints[inside + before] = np.asarray(word_hints, dtype=np.int64)[words[inside]]
    return Row(
        input_ids,
        tokenizer.frame.segments(len(input_ids)),
        label,
        max(len(encoded.ids) - room, 0),
        token_labels,
        token_hints,
        asked.astype(np.int64),
        places.astype(np.int64),
    )
