"""Texts written token by token, one at a time for each row."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from polyseme.generation.choosing import CHOICES, Scores
from polyseme.generation.settings import GenerateSettings
from polyseme.generation.steppers import Stepper
from polyseme.models.batch import Batch


@dataclass(frozen=True)
class Decoded:
    """The tokens that were written."""

    tokens: list[int]
    """Without the one that ended the text."""
    score: float
    """Log probability of all tokens, the ending one included; of beam search divided by the length."""
    finished: bool
    """Whether the text ended by itself."""


def decode(
    stepper: Stepper,
    batch: Batch,
    settings: GenerateSettings,
    *,
    scores: Scores,
    ends: Collection[int],
    chance: Tensor,
) -> list[Decoded]:
    """Greedily or by lot, until each row has written one of `ends`, or `max_new_tokens`.

    `chance` holds numbers in [0, 1), `[rows, max_new_tokens]`; greedy choice does not look at them. A row
    that has ended is not computed any more.
    """
    choose = CHOICES[settings.strategy]
    tokens, state = stepper.start(batch)
    seen, real = seen_at_first(batch)
    live = torch.arange(len(tokens), device=tokens.device)
    written: list[list[int]] = [[] for _ in range(len(tokens))]
    totals, finished = [0.0] * len(written), [False] * len(written)
    for place in range(settings.max_new_tokens):
        logits, state = stepper.step(tokens, state)
        logits = scores(logits, seen, real)
        tokens = choose(logits, chance[live, place], settings)
        costs = logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
        going = []
        for number, (row, token, cost) in enumerate(
            zip(live.tolist(), tokens.tolist(), costs.tolist(), strict=True)
        ):
            totals[row] += cost
            finished[row] = token in ends
            if not finished[row]:
                written[row].append(token)
                going.append(number)
        if not going:
            break
        seen, real = grown(seen, real, tokens)
        if len(going) < len(live):
            kept = torch.tensor(going, device=live.device)
            live, tokens, seen, real = live[kept], tokens[kept], seen[kept], real[kept]
            state = stepper.reorder(state, kept)
    return [Decoded(*row) for row in zip(written, totals, finished, strict=True)]


def seen_at_first(batch: Batch) -> tuple[Tensor, Tensor]:
    """The tokens of the prompts, and which of them are no padding; of sources that are rewritten none but the
    one that stands before what is written."""
    if batch.decoder_input_ids is not None:
        return batch.decoder_input_ids, torch.ones_like(batch.decoder_input_ids, dtype=torch.bool)
    mask = batch.attention_mask
    real = torch.ones_like(batch.input_ids, dtype=torch.bool) if mask is None else mask.bool()
    return batch.input_ids, real


def grown(seen: Tensor, real: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The same with one more token in each row."""
    seen = torch.cat((seen, tokens[:, None]), dim=1)
    return seen, torch.cat((real, torch.ones_like(tokens, dtype=torch.bool)[:, None]), dim=1)
