"""From the scores of all tokens to the next one: the likeliest, or one by lot."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polyseme.generation.settings import GenerateSettings
from polyseme.models.finite import require_finite

NEVER = float("-inf")


@dataclass(frozen=True)
class Scores:
    """What is done to scores before a token is chosen, whatever the strategy."""

    repetition_penalty: float
    forbidden: Tensor | None
    """True for the tokens that are never written: `[vocab_size]`."""

    def __call__(self, logits: Tensor, seen: Tensor, real: Tensor) -> Tensor:
        """The logits, `[rows, vocab_size]`, in float32; `seen` and `real` are `[rows, length]`."""
        logits = logits.float()
        require_finite(logits, what="the scores of the next token")
        if self.repetition_penalty != 1.0:
            logits = penalised(logits, seen, real, self.repetition_penalty)
        if self.forbidden is not None:
            logits = logits.masked_fill(self.forbidden, NEVER)
        return logits


def penalised(logits: Tensor, seen: Tensor, real: Tensor, penalty: float) -> Tensor:
    """Tokens that were seen become less likely (Keskar et al. 2019, "CTRL", section 4.1): a positive score
    is divided by the penalty, a negative one multiplied. Padding was not seen."""
    old = torch.zeros_like(logits, dtype=torch.bool)
    rows = torch.arange(len(seen), device=seen.device)[:, None].expand_as(seen)
    old[rows[real], seen[real]] = True
    changed = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(old, changed, logits)


def likeliest(logits: Tensor, chance: Tensor, settings: GenerateSettings) -> Tensor:
    """The token with the highest score: `[rows]`."""
    return logits.argmax(dim=-1)


def by_lot(logits: Tensor, chance: Tensor, settings: GenerateSettings) -> Tensor:
    """A token of each row, where the row's number in [0, 1) falls among the probabilities: `[rows]`.

    Temperature, then the likeliest k (Fan et al. 2018, section 5), then the nucleus of probability p
    (Holtzman et al. 2020, section 3.1).
    """
    scores, tokens = (logits.double() / settings.temperature).sort(dim=-1, descending=True, stable=True)
    if settings.top_k is not None:
        scores[:, settings.top_k :] = NEVER
    probabilities = scores.softmax(dim=-1)
    reached = probabilities.cumsum(dim=-1)
    if settings.top_p is not None:
        probabilities = probabilities.masked_fill(reached - probabilities >= settings.top_p, 0.0)
        reached = probabilities.cumsum(dim=-1)
    mark = chance[:, None] * reached[:, -1:]
    place = (reached > mark).int().argmax(dim=-1, keepdim=True)
    return tokens.gather(1, place)[:, 0]


CHOICES: dict[str, Callable[[Tensor, Tensor, GenerateSettings], Tensor]] = {
    "greedy": likeliest,
    "sample": by_lot,
}
"""By strategy; beam search weighs texts and not tokens, and has a file of its own."""
