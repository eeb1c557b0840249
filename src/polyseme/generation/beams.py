"""Beam search: the likeliest texts, of which several are carried on at a time.

The rules are those of transformers' `generate`: twice as many candidates as beams, so that enough are left
when texts end; only candidates among the first `num_beams` may end a text; a text's score is its log
probability over its length to a power (Wu et al. 2016, equation 14: `length_rule` gnmt).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polyseme.generation.choosing import NEVER, Scores
from polyseme.generation.decoding import Decoded, grown, seen_at_first
from polyseme.generation.settings import GenerateSettings
from polyseme.generation.steppers import Stepper
from polyseme.models.batch import Batch

LENGTHS: dict[str, Callable[[int], float]] = {"power": float, "gnmt": lambda length: (5 + length) / 6}
"""What stands for the length of a text of so many tokens."""


@dataclass
class _Search:
    """The beams of one text."""

    settings: GenerateSettings
    running: list[tuple[float, list[int]]] = field(default_factory=lambda: [(0.0, [])])
    """Log probability and tokens, the likeliest first."""
    ended: list[Decoded] = field(default_factory=list)
    """The best texts that have ended, the best first."""

    def scaled(self, total: float, length: int) -> float:
        scaled: float = total / LENGTHS[self.settings.length_rule](length) ** self.settings.length_penalty
        return scaled

    def advance(
        self, candidates: list[tuple[float, int, int]], ends: Collection[int], *, last: bool
    ) -> list[int]:
        """Take what may come next, (log probability, beam, token), the likeliest first; the beams that go on.

        `last` says that no token may follow.
        """
        size = self.settings.num_beams
        going: list[tuple[float, list[int]]] = []
        beams: list[int] = []
        for rank, (total, beam, token) in enumerate(candidates):
            before = self.running[beam][1]
            if token in ends or last:
                if rank < size:
                    tokens = before if token in ends else [*before, token]
                    self._end(Decoded(tokens, self.scaled(total, len(before) + 1), token in ends))
            elif len(going) < size:
                going.append((total, [*before, token]))
                beams.append(beam)
        self.running = going
        return beams

    def is_over(self) -> bool:
        """Whether nothing that goes on can be better than the worst that has ended."""
        if not self.running:
            return True
        if len(self.ended) < self.settings.num_beams:
            return False
        total, tokens = self.running[0]
        return self.settings.early_stopping or self.scaled(total, len(tokens)) <= self.ended[-1].score

    def _end(self, text: Decoded) -> None:
        self.ended.append(text)
        self.ended.sort(key=lambda one: -one.score)
        del self.ended[self.settings.num_beams :]


def beam_search(
    stepper: Stepper, batch: Batch, settings: GenerateSettings, *, scores: Scores, ends: Collection[int]
) -> list[list[Decoded]]:
    """For each row of the batch the best texts, at most `num_beams`, the best first."""
    tokens, state = stepper.start(batch)
    seen, real = seen_at_first(batch)
    searches = [_Search(settings) for _ in range(len(tokens))]
    live = list(range(len(searches)))
    for place in range(settings.max_new_tokens):
        logits, state = stepper.step(tokens, state)
        logs = scores(logits, seen, real).log_softmax(dim=-1)  # [beams of all texts, vocab_size]
        sizes = [len(searches[number].running) for number in live]
        rows: list[int] = []
        news: list[int] = []
        kept: list[int] = []
        first = 0
        for number, size, of_text in zip(live, sizes, torch.split(logs, sizes), strict=True):
            search = searches[number]
            candidates = _candidates(search, of_text, ends)
            beams = search.advance(candidates, ends, last=place + 1 == settings.max_new_tokens)
            if not search.is_over():
                rows += [first + beam for beam in beams]
                news += [tokens[-1] for _, tokens in search.running]
                kept.append(number)
            first += size
        live = kept
        if not live:
            break
        chosen = torch.tensor(rows, device=logs.device)
        tokens = torch.tensor(news, device=logs.device)
        state = stepper.reorder(state, chosen)
        seen, real = grown(seen[chosen], real[chosen], tokens)
    return [search.ended for search in searches]


def _candidates(search: _Search, logs: Tensor, ends: Collection[int]) -> list[tuple[float, int, int]]:
    """What may come next, the likeliest first: enough that `num_beams` are left where texts end."""
    totals = torch.tensor([total for total, _ in search.running], device=logs.device)
    together = (logs + totals[:, None]).flatten()
    count = max(2, 1 + len(ends)) * search.settings.num_beams
    best, places = together.topk(min(count, len(together)))
    vocab_size = logs.size(1)
    return [
        (total, place // vocab_size, place % vocab_size)
        for total, place in zip(best.tolist(), places.tolist(), strict=True)
        if total > NEVER
    ]
