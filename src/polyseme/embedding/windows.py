"""Long texts by overlapping windows, of which each token uses the one that shows it the most context."""

from typing import NamedTuple


class Window(NamedTuple):
    """The tokens `start` to `stop` are read together; those from `own_start` to `own_stop` are kept."""

    start: int
    stop: int
    own_start: int
    own_stop: int


def windows(num_tokens: int, *, size: int, overlap: int) -> list[Window]:
    """Cover `num_tokens` by windows of at most `size`, neighbours sharing at least `overlap` tokens.

    Every token is owned once, by a window in which the distance to the nearer cut is greatest (the ends
    of the text are no cuts). The last window is moved back so that it is full. No tokens: one empty window.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be at least 0 and below the window's size {size}, got {overlap}")
    starts = [*range(0, max(num_tokens - size, 0), size - overlap), max(num_tokens - size, 0)]
    stops = [min(start + size, num_tokens) for start in starts]
    # The middle of what two neighbours share is where the nearer cut changes sides.
    cuts = [
        0,
        *((following + stop) // 2 for following, stop in zip(starts[1:], stops, strict=False)),
        num_tokens,
    ]
    return [
        Window(start, stop, own_start, own_stop)
        for start, stop, own_start, own_stop in zip(starts, stops, cuts[:-1], cuts[1:], strict=True)
    ]
