"""A linear-chain conditional random field (Lafferty et al. 2001): tags of a sentence, judged together.

The score of a sequence of tags is the sum of every word's score for its tag (the emissions), of a score for
each two neighbours, and of scores for the first and the last tag. Its probability is the exponential of that
over the sum for all sequences, the partition, which the forward recursion computes in `length` steps of all
sentences at once (section 3 there).
"""

import torch
from torch import Tensor, nn

FORBIDDEN = -1e4
"""What is added for a transition that may not be: no sum of scores makes up for it, and it stays finite."""

Mask = Tensor
"""True where there is a word, `[batch, length]`; a sentence's words stand at its front."""


class CRF(nn.Module):
    """Scores of tags that follow each other, and the best tags under them.

    >>> crf = CRF(3)
    >>> crf.log_partition(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)).exp().round()
    tensor([9.], grad_fn=<RoundBackward0>)
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(num_labels, num_labels))  # [from, to]
        self.start = nn.Parameter(torch.zeros(num_labels))
        self.end = nn.Parameter(torch.zeros(num_labels))
        # Not stored: they follow from the names of the tags.
        self.register_buffer("first_forbidden", torch.zeros(num_labels), persistent=False)
        self.register_buffer("between_forbidden", torch.zeros(num_labels, num_labels), persistent=False)
        self.register_buffer("last_forbidden", torch.zeros(num_labels), persistent=False)

    first_forbidden: Tensor
    between_forbidden: Tensor
    last_forbidden: Tensor

    def allow(self, *, first: Tensor, between: Tensor, last: Tensor) -> None:
        """Let only those tags stand first and last, `[labels]`, and follow each other, `[from, to]`."""
        for name, allowed in {"first": first, "between": between, "last": last}.items():
            buffer = getattr(self, f"{name}_forbidden")
            buffer.copy_(torch.where(allowed.to(buffer.device), 0.0, FORBIDDEN))

    def log_likelihood(self, emissions: Tensor, labels: Tensor, mask: Mask) -> Tensor:
        """The logarithm of the probability of each sentence's `labels`, `[batch, length]`: `[batch]`."""
        return self.score(emissions, labels, mask) - self.log_partition(emissions, mask)

    def score(self, emissions: Tensor, labels: Tensor, mask: Mask) -> Tensor:
        """The score of the given tags: `[batch]`; what stands in `labels` beside the words does not count."""
        labels = labels.masked_fill(~mask, 0)
        start, between, end = self._scores()
        own = emissions.gather(2, labels.unsqueeze(2)).squeeze(2)  # [batch, length]
        steps = between[labels[:, :-1], labels[:, 1:]]  # [batch, length - 1]
        last = labels.gather(1, _last(mask).unsqueeze(1)).squeeze(1)  # [batch]
        total = (own * mask).sum(1) + (steps * mask[:, 1:]).sum(1) + start[labels[:, 0]] + end[last]
        return torch.where(mask.any(1), total, 0.0)

    def log_partition(self, emissions: Tensor, mask: Mask) -> Tensor:
        """The logarithm of the sum over all sequences of tags: `[batch]`; 0 for a sentence without words."""
        return self._closed(self._forward(emissions, mask)[-1], mask)

    @torch.no_grad()
    def marginals(self, emissions: Tensor, mask: Mask) -> Tensor:
        """The probability of every tag at every word: `[batch, length, labels]`; 0 beside the words."""
        _, between, end = self._scores()
        reached = self._forward(emissions, mask)  # what leads to each tag, and below what follows it
        following = [end.expand_as(reached[-1])]
        for step in range(emissions.shape[1] - 1, 0, -1):
            ways = between + (emissions[:, step] + following[-1]).unsqueeze(1)  # [batch, from, to]
            here = mask[:, step].unsqueeze(1)
            following.append(torch.where(here, torch.logsumexp(ways, dim=2), following[-1]))
        logs = torch.stack(reached, dim=1) + torch.stack(following[::-1], dim=1)
        logs = logs - self._closed(reached[-1], mask)[:, None, None]
        return logs.exp() * mask.unsqueeze(2)

    @torch.no_grad()
    def best(self, emissions: Tensor, mask: Mask) -> Tensor:
        """The tags of the highest score (Viterbi): `[batch, length]`; 0 beside the words."""
        start, between, end = self._scores()
        reached = emissions[:, 0] + start  # [batch, labels]
        came_from = []
        for step in range(1, emissions.shape[1]):
            scores, before = (reached.unsqueeze(2) + between).max(dim=1)  # [batch, to]
            here = mask[:, step].unsqueeze(1)
            reached = torch.where(here, scores + emissions[:, step], reached)
            came_from.append(torch.where(here, before, torch.arange(len(end), device=before.device)))
        tag = (reached + end).argmax(dim=1)
        tags = [tag]
        for before in reversed(came_from):
            tag = before.gather(1, tag.unsqueeze(1)).squeeze(1)
            tags.append(tag)
        return torch.stack(tags[::-1], dim=1).masked_fill(~mask, 0)

    def _forward(self, emissions: Tensor, mask: Mask) -> list[Tensor]:
        """What all sequences up to each tag of each word come to: `[batch, labels]` a step."""
        start, between, _ = self._scores()
        reached = [emissions[:, 0] + start]
        for step in range(1, emissions.shape[1]):
            ways = reached[-1].unsqueeze(2) + between  # [batch, from, to]
            onward = torch.logsumexp(ways, dim=1) + emissions[:, step]
            reached.append(torch.where(mask[:, step].unsqueeze(1), onward, reached[-1]))
        return reached

    def _closed(self, reached: Tensor, mask: Mask) -> Tensor:
        """The sum over the last tag: `[batch]`."""
        whole = torch.logsumexp(reached + self.end + self.last_forbidden, dim=1)
        return torch.where(mask.any(1), whole, 0.0)

    def _scores(self) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.start + self.first_forbidden,
            self.transitions + self.between_forbidden,
            self.end + self.last_forbidden,
        )


def _last(mask: Mask) -> Tensor:
    """The place of each sentence's last word: `[batch]`."""
    return (mask.sum(1) - 1).clamp(min=0)
