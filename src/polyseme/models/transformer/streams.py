"""Two streams: tokens that are read, and tokens that are asked for without being seen.

Yang et al. 2019, "XLNet", section 2.3. Both streams share all weights. The content stream is the row as it
is read; the query stream begins with one vector for all, `blank`, has only the tokens that are predicted,
and looks at the states of the content stream.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.models.batch import Batch, States
from polyseme.models.dropout import Dropout
from polyseme.models.initialising import initialise
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.memory import Memory, relative_view, remember
from polyseme.models.transformer.model import Transformer
from polyseme.models.transformer.relative import Surroundings, gathered

_WIDTHS = 8


def ask(
    backbone: Transformer,
    batch: Batch,
    targets: Tensor,
    *,
    hidden: Tensor | None = None,
    memory: Memory = (),
    every_layer: bool = False,
) -> tuple[States, States, Memory]:
    """The states of the tokens at `targets`, `[batch, asked]`, those of the row, and the memory after it.

    `hidden` is true where a token (last dimension) must not be seen by one before it, `[batch, length,
    length]`; without it the batch's `order` says so. Whom it hides from itself is not seen by its query, but
    always by its own content. The last layer's content is computed only with `every_layer`, since nothing
    reads it.
    """
    view = relative_view(backbone)
    remembered = memory[0].size(1) if memory else 0
    mask, around = view.within(batch, remembered=remembered)
    content_mask, query_mask = _masks(batch, targets, mask, hidden, remembered)
    asked = _asked(around, batch, targets, remembered)
    content = [backbone.projection(backbone.embeddings(batch))]
    blank = view.blank.expand(*targets.shape, -1)  # [batch, asked, hidden_size]
    query = [backbone.embeddings.dropout(blank)]
    for number, (layer, _) in enumerate(backbone.course):
        before = memory[number] if memory else None
        row = content[-1]
        query.append(
            backbone.layers[layer](query[-1], query_mask, asked._replace(remembered=before, content=row))
        )
        if every_layer or number < len(backbone.course) - 1:
            content.append(backbone.layers[layer](row, content_mask, around._replace(remembered=before)))
    after = remember(memory, content[: len(backbone.course)], view.memory)
    every = (tuple(query), tuple(content)) if every_layer else ((), ())
    return States(last=query[-1], layers=every[0]), States(last=content[-1], layers=every[1]), after


def grid(predicted: Tensor, *, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Flat indices into `rows × length`, ascending, as `targets` for `ask`, and where each stands there.

    Rows with fewer targets ask for their first token too, which nobody reads.
    """
    row = predicted // length
    counts = torch.bincount(row, minlength=rows)
    within = torch.arange(len(predicted), device=predicted.device) - (counts.cumsum(0) - counts)[row]
    most = int(counts.max()) if len(predicted) else 1
    width = -(-most // _WIDTHS) * _WIDTHS  # Shapes repeat, as everywhere on the processor.
    place = row * width + within
    targets = predicted.new_zeros(rows * width).index_copy(0, place, predicted % length)
    return targets.view(rows, width), place


def _masks(
    batch: Batch, targets: Tensor, mask: Tensor | None, hidden: Tensor | None, remembered: int
) -> tuple[Tensor, Tensor]:
    """Whom the tokens of the row see, and whom those that are asked for: `[batch, 1, queries, keys]` each."""
    if hidden is None:
        assert batch.order is not None
        rank, own = batch.order[:, None], batch.order[:, :, None]
        content, query = rank <= own, rank < own  # [batch, length, length]
    else:
        itself = torch.eye(hidden.size(1), dtype=torch.bool, device=hidden.device)
        content, query = ~hidden | itself, ~hidden
    real = batch.attention_mask
    if real is not None:
        query = query & real.bool()[:, None]
    query = query.gather(1, targets[:, :, None].expand(-1, -1, query.size(2)))  # [batch, asked, length]
    content, query = (F.pad(one, (remembered, 0), value=True)[:, None] for one in (content, query))
    return content if mask is None else content & mask, query


def _asked(around: Surroundings, batch: Batch, targets: Tensor, remembered: int) -> Surroundings:
    """The surroundings of the tokens at `targets`."""
    length = batch.input_ids.size(1)
    foreign = around.foreign
    if foreign is not None:
        foreign = foreign.gather(2, targets[:, None, :, None].expand(-1, -1, -1, foreign.size(3)))
    align = gathered(targets, length=length, keys=remembered + length)
    return around._replace(align=align, foreign=foreign)


class PermutationLMHead(nn.Module):
    """States of the query stream to the scores of every token; the decoder is the token table itself."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = Dropout(config.dropout)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))
        initialise(self, config)

    def forward(self, hidden_states: Tensor, table: Tensor) -> Tensor:
        """`[predictions, hidden_size]` states and the `[vocab_size, embedding_size]` table to logits."""
        return F.linear(self.dropout(hidden_states), table, self.bias)
