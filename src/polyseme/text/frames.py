"""Frames: the special tokens around a text, and around and between the two texts of a pair.

A published family's frame is a part of its tokenizer; whoever lays out rows asks for it here and never
assumes `[CLS]` and `[SEP]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from polyseme.errors import CheckpointError

if TYPE_CHECKING:
    import tokenizers

    from polyseme.text.encoded import Int32s

FrameName = Literal["around", "doubled", "behind", "end", "none"]

FRAMES: dict[FrameName, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "around": (("first",), ("separator",), ("separator",)),
    "doubled": (("first",), ("separator", "separator"), ("separator",)),
    "behind": ((), ("separator",), ("separator", "first")),
    "end": ((), ("separator",), ("separator",)),
    "none": ((), (), ()),
}
"""By name: the roles of the tokens before a text, between the two of a pair, and after a text.

`around` is BERT's, `doubled` RoBERTa's, `behind` XLNet's, `end` T5's; GPT has none."""


class Frame(NamedTuple):
    """Special tokens by their ids."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[tuple[int, ...], int, int, tuple[int, ...]]
    """Segments of a pair: of what stands before, of the first text with what stands between, of the second
    text, and of what stands after."""
    single_types: tuple[tuple[int, ...], int, tuple[int, ...]] = ((), 0, ())
    """Segments of one text: of what stands before, of the text, and of what stands after."""

    @property
    def size(self) -> int:
        """Special tokens of one text."""
        return len(self.before) + len(self.after)

    @property
    def pair_size(self) -> int:
        """Special tokens of a pair."""
        return self.size + len(self.between)

    def single(self, ids: Int32s) -> Int32s:
        """The ids of a text inside its frame."""
        return np.concatenate([self.before, ids, self.after]).astype(np.int32)

    def segments(self, length: int) -> Int32s | None:
        """The segment of each of `length` tokens, one text in its frame; None where all are of segment 0.

        Only XLNet tells its last token from the text before it.
        """
        before, own, after = self.single_types
        if not any((*before, own, *after)):
            return None
        inside = np.full(length - len(before) - len(after), own)
        return np.concatenate([before, inside, after]).astype(np.int32)

    def pair(self, first: Int32s, second: Int32s) -> tuple[Int32s, Int32s]:
        """The ids of a pair inside its frame, and the segment of each."""
        before, first_type, second_type, after = self.types
        ids = np.concatenate([self.before, first, self.between, second, self.after]).astype(np.int32)
        types = np.concatenate(
            [
                before,
                np.full(len(first) + len(self.between), first_type),
                np.full(len(second), second_type),
                after,
            ]
        ).astype(np.int32)
        return ids, types


def frame_of(pipeline: tokenizers.Tokenizer) -> Frame:
    """The frame that a pipeline of the `tokenizers` library puts around texts, by asking it."""
    probe = next(
        (text for text in ("a", "的", *list(pipeline.get_vocab())[:50]) if _inside(pipeline, text)), None
    )
    if probe is None:  # a vocabulary of special tokens only
        return Frame((), (), (), ((), 0, 0, ()))
    encoding = pipeline.encode(probe, probe, add_special_tokens=True)
    rows = list(zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True))
    of_first = [place for place, row in enumerate(rows) if row[2] == 0]
    of_second = [place for place, row in enumerate(rows) if row[2] == 1]
    if not of_first or not of_second:
        raise CheckpointError("the tokenizer loses one of the two texts of a pair")
    before, after = rows[: of_first[0]], rows[of_second[-1] + 1 :]
    alone = pipeline.encode(probe, add_special_tokens=True)
    inside = [place for place, sequence in enumerate(alone.sequence_ids) if sequence == 0]
    return Frame(
        before=tuple(row[0] for row in before),
        between=tuple(row[0] for row in rows[of_first[-1] + 1 : of_second[0]]),
        after=tuple(row[0] for row in after),
        types=(
            tuple(row[1] for row in before),
            rows[of_first[0]][1],
            rows[of_second[0]][1],
            tuple(row[1] for row in after),
        ),
        single_types=(
            tuple(alone.type_ids[: inside[0]]),
            alone.type_ids[inside[0]],
            tuple(alone.type_ids[inside[-1] + 1 :]),
        ),
    )


def _inside(pipeline: tokenizers.Tokenizer, text: str) -> bool:
    return bool(pipeline.encode(text, add_special_tokens=False).ids)
