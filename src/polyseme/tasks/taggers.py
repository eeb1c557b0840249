"""From the scores of words to their tags: each word by itself, or all words of a text together."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.errors import SettingsError
from polyseme.models.batch import IGNORED, Batch, Loss, States
from polyseme.models.crf import CRF
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.tag_schemes import allowed, scheme_of
from polyseme.tasks.tagging_settings import TaggingSettings
from polyseme.tasks.task import ByToken, Outputs

Floats = NDArray[np.float32]
_WORDS = 1 << 14
"""Words, padding included, whose best tags are sought at once."""


class Chooser(nn.Module, ABC):
    """How tags are learned and chosen from the scores of words."""

    def __init__(self, labels: Sequence[str], settings: TaggingSettings) -> None:
        super().__init__()

    @abstractmethod
    def loss(self, emissions: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of the words with a label, from `[batch, length, tags]` and `[batch, length]`."""

    def weigh(self, weights: Tensor) -> None:
        """Let each tag count by its weight from now on: `[tags]`."""
        raise SettingsError(
            "class_weights are for tags that are learned one by one, and a field learns those of a text "
            "together; leave them out, or choose --tagger linear"
        )

    @abstractmethod
    def choose(self, emissions: Sequence[Floats]) -> list[Floats]:
        """Of each text `[words, tags]` to the number of each word's tag and its probability, `[words, 2]`."""


class EachWord(Chooser):
    """Every word's most probable tag."""

    weights: Tensor

    def __init__(self, labels: Sequence[str], settings: TaggingSettings) -> None:
        super().__init__(labels, settings)
        self.register_buffer("weights", torch.ones(len(labels)), persistent=False)

    def weigh(self, weights: Tensor) -> None:
        self.weights = weights.to(self.weights)

    def loss(self, emissions: Tensor, labels: Tensor) -> Tensor:
        scores, asked = emissions.flatten(0, 1), labels.flatten()
        total = F.cross_entropy(scores, asked, self.weights, ignore_index=IGNORED, reduction="sum")
        counted = self.weights[asked[asked != IGNORED]].sum()
        return total / counted.clamp(min=torch.finfo(counted.dtype).tiny)

    def choose(self, emissions: Sequence[Floats]) -> list[Floats]:
        chosen = []
        for scores in emissions:
            chances = torch.from_numpy(scores).softmax(-1).numpy()
            best = scores.argmax(-1)
            chosen.append(np.stack([best, chances[np.arange(len(best)), best]], axis=1).astype(np.float32))
        return chosen


class WholeText(Chooser):
    """The most probable tags of a text's words together; the probability is that of the tag at its place."""

    def __init__(self, labels: Sequence[str], settings: TaggingSettings) -> None:
        super().__init__(labels, settings)
        self.crf = CRF(len(labels))
        if settings.constrained:
            rules = allowed(labels, scheme_of(labels))
            self.crf.allow(
                first=torch.tensor(rules.first),
                between=torch.tensor(rules.between),
                last=torch.tensor(rules.last),
            )

    def loss(self, emissions: Tensor, labels: Tensor) -> Tensor:
        """Of the windows of a long text each is a chain of its own here, of the words that it asks for."""
        asked = labels != IGNORED
        counts = asked.sum(1)  # [batch]
        width = int(counts.max().clamp(min=1))
        order = (~asked).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]  # [batch, words]
        words = emissions.gather(1, order.unsqueeze(2).expand(-1, -1, emissions.shape[2]))
        mask = torch.arange(width, device=labels.device) < counts.unsqueeze(1)
        likelihood = self.crf.log_likelihood(words, labels.gather(1, order), mask)
        return -likelihood.sum() / counts.sum().clamp(min=1)

    def choose(self, emissions: Sequence[Floats]) -> list[Floats]:
        chosen: list[Floats] = [np.zeros((0, 2), dtype=np.float32)] * len(emissions)
        order = sorted(
            (n for n, scores in enumerate(emissions) if len(scores)), key=lambda n: len(emissions[n])
        )
        while order:
            longest = len(emissions[order[-1]])
            size = max(1, _WORDS // longest)
            numbers, order = order[-size:], order[:-size]
            for number, pairs in zip(numbers, self._choose([emissions[n] for n in numbers]), strict=True):
                chosen[number] = pairs
        return chosen

    def _choose(self, emissions: Sequence[Floats]) -> list[Floats]:
        device = self.crf.start.device
        counts = torch.tensor([len(scores) for scores in emissions])
        words = nn.utils.rnn.pad_sequence(
            [torch.from_numpy(scores) for scores in emissions], batch_first=True
        )
        words = words.to(device)  # [batch, words, tags]
        mask = (torch.arange(words.shape[1]) < counts.unsqueeze(1)).to(device)
        best = self.crf.best(words, mask)  # [batch, words]
        chances = self.crf.marginals(words, mask).gather(2, best.unsqueeze(2)).squeeze(2)
        pairs = torch.stack([best.float(), chances], dim=2).cpu().numpy()
        return [of_text[:count] for of_text, count in zip(pairs, counts.tolist(), strict=True)]


CHOOSERS: dict[str, type[Chooser]] = {"linear": EachWord, "crf": WholeText}
"""By `TaggingSettings.tagger`."""


class Tagger(OnBackbone):
    """A backbone with a head that scores tags, and the way of choosing among them."""

    def __init__(
        self, backbone: Transformer, head: nn.Module, labels: Sequence[str], settings: TaggingSettings
    ) -> None:
        super().__init__(backbone, head)
        self.chooser = CHOOSERS[settings.tagger](labels, settings)

    def weigh(self, weights: Tensor) -> None:
        """Let each tag count by its weight from now on: `[tags]`."""
        self.chooser.weigh(weights)

    def loss(self, states: States, batch: Batch) -> Loss:
        """The mean loss of the batch's words."""
        assert batch.token_labels is not None
        total = self.chooser.loss(self._emissions(states), batch.token_labels)
        return Loss(total, {"tagging": total.detach()}, int((batch.token_labels != IGNORED).sum()))

    def outputs(self, states: States, batch: Batch) -> ByToken:
        """`[batch, length, tags]`, before any softmax."""
        return ByToken(self._emissions(states))

    def settled(self, outputs: list[Outputs]) -> list[Outputs]:
        """The tags of each text's words, of all its windows together, with their probabilities."""
        said = [output for output in outputs if isinstance(output, ByToken)]
        chosen = self.chooser.choose([output.tokens for output in said])
        return [output._replace(tokens=pairs) for output, pairs in zip(said, chosen, strict=True)]

    def _emissions(self, states: States) -> Tensor:
        emissions: Tensor = self.head(states.last)
        return emissions.float()
