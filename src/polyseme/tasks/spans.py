"""The best answers of a passage that was read by windows.

Devlin et al. 2018, section 4.2 and 4.3: a span's score is that of its first token as a beginning plus that of
its last token as an end; no answer has the score of the token before the texts in both roles.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from polyseme.tasks.task import ByToken

WINDOW, BEGIN, END, OWNED = range(4)
"""What stands in `Row.places`: number of the window; begin and end of the token in the passage, both -1 for
the place of no answer; whether the token counts as a beginning in this window."""


class Candidate(NamedTuple):
    """One possible answer, by its characters in the passage."""

    start: int
    stop: int
    score: float


def null_score(output: ByToken) -> float:
    """The score of no answer: the lowest of the windows, since one that holds an answer is enough."""
    null = output.places[:, BEGIN] < 0
    return float(output.tokens[null].astype(np.float64).sum(axis=-1).min())


def shifted(output: ByToken, by: float) -> ByToken:
    """The same where no answer scores higher by so much."""
    tokens = output.tokens.astype(np.float64)
    tokens[output.places[:, BEGIN] < 0] += by / 2
    return output._replace(tokens=tokens)


def best_spans(output: ByToken, passage: str, *, count: int, max_length: int) -> list[Candidate]:
    """The `count` best spans of all windows, the best first, no longer than `max_length` tokens.

    A span belongs to the window that shows its first token the most context. Blanks at its ends are left
    out; spans of the same characters are one.
    """
    found: list[Candidate] = []
    for window in np.unique(output.places[:, WINDOW]):
        inside = (output.places[:, WINDOW] == window) & (output.places[:, BEGIN] >= 0)
        found += _of_window(output.tokens[inside], output.places[inside], count, max_length)
    best: dict[tuple[int, int], Candidate] = {}
    for candidate in sorted(found, key=lambda one: (-one.score, one.start, one.stop)):
        text = passage[candidate.start : candidate.stop]
        start = candidate.start + len(text) - len(text.lstrip())
        stop = candidate.stop - len(text) + len(text.rstrip())
        if start < stop:
            best.setdefault((start, stop), Candidate(start, stop, candidate.score))
        if len(best) == count:
            break
    return list(best.values())


def _of_window(
    tokens: NDArray[np.floating], places: NDArray[np.int32], count: int, max_length: int
) -> list[Candidate]:
    if len(tokens) == 0:
        return []
    scores = tokens.astype(np.float64)
    begins = np.where(places[:, OWNED] > 0, scores[:, 0], -np.inf)
    width = min(max_length, len(scores))
    ends = np.pad(scores[:, 1], (0, width - 1), constant_values=-np.inf)
    sums = begins[:, None] + sliding_window_view(ends, width)  # [tokens, width]
    # A few more than asked for, since spans of the same characters become one.
    wanted = min(2 * count, sums.size)
    best = np.argpartition(-sums, wanted - 1, axis=None)[:wanted]
    return [
        Candidate(int(places[first, BEGIN]), int(places[first + more, END]), float(sums[first, more]))
        for first, more in zip(*np.unravel_index(best, sums.shape), strict=True)
        if np.isfinite(sums[first, more])
    ]
