"""Texts laid out as the rows that a network reads: in their frame, and by windows where they are long."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from polyseme.embedding.windows import windows
from polyseme.runtime.packing import Rows, starts_of
from polyseme.text.encoded import Int32s, Int64s
from polyseme.text.frames import Frame


@dataclass(frozen=True)
class TextRows:
    """The rows of some texts; those of one text lie together, in the texts' order."""

    rows: Rows
    texts: Int64s
    """Of which text each row is: `[rows]`."""
    num_texts: int
    tokens: Int64s
    """Tokens of each text that its rows hold, special ones left out: `[texts]`."""
    cut: int = 0
    """How many texts lost their end."""

    @property
    def edges(self) -> Int64s:
        """Where the rows of each text begin, and where the last ones end: `[texts + 1]`."""
        return starts_of(np.bincount(self.texts, minlength=self.num_texts))


def text_rows(
    ids: Int32s, counts: Int64s, *, frame: Frame, filling: int, most: int, truncate: bool
) -> TextRows:
    """The rows of texts whose ids stand one behind the other, `counts` of them in each text.

    A row holds at most `most` tokens with its frame. Of a window those tokens count to which it gives the
    most context; behind [CLS] everything moves on by one, and the text's first [CLS] and its last [SEP]
    count too. What would be a row of no tokens is the one token `filling`.
    """
    if len(counts) == 1 and 0 < counts[0] <= most - frame.size and not _tells_segments(frame):
        return _one_row(ids, counts, frame)
    room, before, after = most - frame.size, len(frame.before), len(frame.after)
    kept = np.minimum(counts, room) if truncate else counts
    texts, own = _cut(kept, room)  # own: [rows, 4]
    start, stop, own_start, own_stop = own.T
    inside = stop - start
    lengths = np.maximum(inside + frame.size, 1)
    starts = starts_of(lengths)
    input_ids = np.full(starts[-1], filling, dtype=np.int32)
    to = _ranges(starts[:-1] + before, inside)
    input_ids[to] = ids[_ranges(starts_of(counts)[texts] + start, inside)]
    for place, token in enumerate(frame.before):
        input_ids[starts[:-1] + place] = token
    for place, token in enumerate(frame.after):
        input_ids[starts[1:] - after + place] = token
    begin = np.where(own_start == 0, 0, own_start - start + before)
    end = own_stop - start + before + np.where(own_stop == kept[texts], after, 0)
    counted = np.stack((begin, np.maximum(end, begin + 1)), axis=1)
    rows = Rows(input_ids, starts, _segments(frame, starts, to), counted)
    return TextRows(rows, texts, len(counts), kept, int((kept < counts).sum()))


def without_beginning(read: TextRows, tokens: int) -> TextRows:
    """The same rows, of which the first `tokens` of each text, special ones too, no longer stand for it.

    A row keeps one token at least: a prompt may fill it.
    """
    assert read.rows.counted is not None
    counted = read.rows.counted.copy()
    first = read.edges[:-1]
    counted[first, 0] = np.minimum(tokens, counted[first, 1] - 1)
    return replace(read, rows=replace(read.rows, counted=counted))


def _one_row(ids: Int32s, counts: Int64s, frame: Frame) -> TextRows:
    """What `text_rows` makes of one text that fits, without what many need."""
    row = frame.single(ids)
    edges = np.array([0, len(row)])
    return TextRows(Rows(row, edges, None, edges[None]), np.zeros(1, dtype=np.int64), 1, counts)


def _cut(counts: Int64s, room: int) -> tuple[Int64s, Int64s]:
    """Of which text each row is, and what it reads and keeps: start, stop, own start, own stop."""
    long = np.flatnonzero(counts > room)
    zeros = np.zeros_like(counts)
    whole = np.stack((zeros, counts, zeros, counts), axis=1)  # [texts, 4]
    if not len(long):
        return np.arange(len(counts)), whole
    parts = [np.asarray(windows(int(counts[text]), size=room, overlap=room // 4)) for text in long]
    short = np.flatnonzero(counts <= room)
    texts = np.concatenate((short, np.repeat(long, [len(part) for part in parts])))
    order = np.argsort(texts, kind="stable")
    return texts[order], np.concatenate((whole[short], *parts))[order]


def _segments(frame: Frame, starts: Int64s, inside: Int64s) -> NDArray[np.int32] | None:
    """The segment of each token, where a tokenizer tells that of single texts."""
    before, own, after = frame.single_types
    if not _tells_segments(frame):
        return None
    kinds = np.zeros(starts[-1], dtype=np.int32)
    kinds[inside] = own
    for place, kind in enumerate(before):
        kinds[starts[:-1] + place] = kind
    for place, kind in enumerate(after):
        kinds[starts[1:] - len(after) + place] = kind
    return kinds


def _tells_segments(frame: Frame) -> bool:
    """Whether any token of a single text is of another segment than 0."""
    before, own, after = frame.single_types
    return any((*before, own, *after))


def _ranges(begins: Int64s, lengths: Int64s) -> Int64s:
    """The numbers of several ranges, one behind the other."""
    ends = np.cumsum(lengths)
    return np.repeat(begins - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
