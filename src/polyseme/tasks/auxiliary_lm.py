"""The language model's own loss beside a task's: it keeps a fine-tuned GPT from forgetting the language.

Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.2, equation 5.
GPT puts new tokens around and between the texts (`_start_`, `_delimiter_`, `_classify_`); here the frame of
the tokenizer stands there, whose separator the model has met behind every document of its pre-training.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from polyseme.models.batch import IGNORED, Batch, States
from polyseme.models.transformer.model import Transformer
from polyseme.objectives.causal_lm import next_token_loss

Beside = Callable[[Tensor, Transformer, States, Batch], tuple[Tensor, dict[str, Tensor]]]
"""The task's loss to the total, and the parts of it that are not the task's."""


class WithLM:
    """The task's loss, and the mean loss of every real token that follows another."""

    def __init__(self, weight: float) -> None:
        self._weight = weight

    def __call__(
        self, own: Tensor, backbone: Transformer, states: States, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        labels = batch.input_ids
        if batch.attention_mask is not None:
            labels = labels.masked_fill(~batch.attention_mask.bool(), IGNORED)
        following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        loss = next_token_loss(states.last, backbone.embeddings.tokens.weight, following)
        return own + self._weight * loss, {"causal-lm": loss.detach()}


class TaskAlone:
    """The task's loss."""

    def __init__(self, weight: float) -> None:
        pass

    def __call__(
        self, own: Tensor, backbone: Transformer, states: States, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return own, {}


BESIDE: dict[bool, Callable[[float], Beside]] = {True: WithLM, False: TaskAlone}
"""By whether the language model's loss counts."""
