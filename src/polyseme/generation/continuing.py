"""Prompts for a causal model: what it reads of a text before it goes on."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from polyseme import progress
from polyseme.checkpoints.model import Model
from polyseme.errors import CheckpointError, SettingsError
from polyseme.generation.settings import GenerateSettings
from polyseme.generation.steppers import STEPPERS, Stepper
from polyseme.models.batch import Batch


class Continuing:
    """The text goes on where the prompt ends."""

    continues = True

    def __init__(self, model: Model, settings: GenerateSettings) -> None:
        assert model.tokenizer is not None
        self.tokenizer = model.tokenizer
        self.stepper: Stepper = STEPPERS[settings.cache](model.backbone, model.heads["causal-lm"])
        positions: int = model.backbone.config.max_position_embeddings
        # The last token written is never read.
        self.room = positions - settings.max_new_tokens + 1
        if self.room < 1:
            raise SettingsError(
                f"max_new_tokens {settings.max_new_tokens} leaves no room for a prompt in the {positions} "
                "positions of this model; ask for fewer"
            )

    def read(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The tokens of each prompt. Of a prompt that is too long the end is read.

        A prompt without a token is the separator alone, after which texts begin in training.
        """
        before = np.asarray(self.tokenizer.frame.before, dtype=np.int32)
        rows = [np.concatenate([before, ids]) for ids in self.tokenizer.encode_batch(texts)]
        if any(not len(row) for row in rows) and "separator" not in self.tokenizer.special_tokens:
            raise CheckpointError(
                "an empty prompt is read as the separator, but this tokenizer has none; give some text"
            )
        cut = sum(len(row) > self.room for row in rows)
        if cut:
            progress.warn(
                f"{cut} of {len(rows)} prompts are longer than the {self.room} tokens that leave room for "
                "what is to be written; their ends were read"
            )
        return [
            row[-self.room :] if len(row) else np.asarray([self.tokenizer.separator_id], dtype=np.int32)
            for row in rows
        ]

    def collate(self, rows: Sequence[NDArray[np.int32]]) -> Batch:
        """The prompts as one batch, padded on the left."""
        longest = max(map(len, rows))
        real = np.arange(longest) >= longest - np.asarray([len(row) for row in rows])[:, None]
        matrix = np.full(real.shape, self.tokenizer.filling_id, dtype=np.int64)
        matrix[real] = np.concatenate(rows)
        return Batch(torch.from_numpy(matrix), attention_mask=torch.from_numpy(real))

    def text(self, row: NDArray[np.int32], tokens: Sequence[int]) -> str:
        """What the tokens add to the prompt's text."""
        before = self.tokenizer.decode(row)
        whole = self.tokenizer.decode([*row.tolist(), *tokens])
        return whole[len(before) :] if whole.startswith(before) else self.tokenizer.decode(tokens)
