"""Networks that are asked for one token after another, whatever they keep in between."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from polyseme.models.batch import Batch
from polyseme.models.transformer.cache import Cache, CachedTransformer
from polyseme.models.transformer.model import Transformer


class Stepper(Protocol):
    """A network read token by token. Its state is its own affair; nobody else looks inside.

    `start(batch)` reads what is given (prompts, or sources to be rewritten) and returns the tokens to be
    read first, `[rows]`. `step(tokens, state)` reads one token a row and says what may come next: logits
    `[rows, vocab_size]`, and the state after it. `reorder(state, rows)` is the state of the rows with these
    numbers: rows that are done fall away, and those of a beam may double.
    """

    def start(self, batch: Batch) -> tuple[Tensor, Any]: ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]: ...

    def reorder(self, state: Any, rows: Tensor) -> Any: ...


class CachedStepper:
    """A causal network that keeps keys and values."""

    def __init__(self, backbone: Transformer, head: nn.Module) -> None:
        self._network = CachedTransformer(backbone)
        self._table: Tensor = backbone.embeddings.tokens.weight
        self._head = head

    def start(self, batch: Batch) -> tuple[Tensor, Cache]:
        """Read all of each prompt but its last token; padding stands on the left."""
        ids, mask = _prompts(batch)
        _, cache = self._network(ids[:, :-1], attention_mask=mask[:, :-1])
        return ids[:, -1], cache

    def step(self, tokens: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        """Read one more token of each row."""
        states, cache = self._network(tokens[:, None], state)
        return self._head(states[:, -1], self._table), cache

    def reorder(self, state: Cache, rows: Tensor) -> Cache:
        """The cache of these rows."""
        return state.select(rows)


class RereadingStepper:
    """A causal network that keeps the tokens only, and reads all of them again for each new one."""

    def __init__(self, backbone: Transformer, head: nn.Module) -> None:
        self._backbone, self._head = backbone, head
        self._table: Tensor = backbone.embeddings.tokens.weight

    def start(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Read nothing yet; padding stands on the left."""
        ids, mask = _prompts(batch)
        return ids[:, -1], Batch(ids[:, :-1], attention_mask=mask[:, :-1])

    def step(self, tokens: Tensor, state: Batch) -> tuple[Tensor, Batch]:
        """Read everything."""
        assert state.attention_mask is not None
        ids = torch.cat((state.input_ids, tokens[:, None]), dim=1)
        mask = torch.cat((state.attention_mask, torch.ones_like(tokens, dtype=torch.bool)[:, None]), dim=1)
        position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
        states = self._backbone(Batch(ids, attention_mask=mask, position_ids=position_ids)).last
        return self._head(states[:, -1], self._table), Batch(ids, attention_mask=mask)

    def reorder(self, state: Batch, rows: Tensor) -> Batch:
        """The tokens of these rows."""
        assert state.attention_mask is not None
        return Batch(
            state.input_ids.index_select(0, rows), attention_mask=state.attention_mask.index_select(0, rows)
        )


STEPPERS: dict[bool, type[CachedStepper] | type[RereadingStepper]] = {
    True: CachedStepper,
    False: RereadingStepper,
}
"""By whether keys and values are kept."""


def _prompts(batch: Batch) -> tuple[Tensor, Tensor]:
    mask = batch.attention_mask
    mask = torch.ones_like(batch.input_ids, dtype=torch.bool) if mask is None else mask.bool()
    if not mask[:, -1].all():
        raise ValueError("prompts are padded on the left, so that the last token of every row is real")
    return batch.input_ids, mask
