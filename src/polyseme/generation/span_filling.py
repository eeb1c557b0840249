"""Blanks in a text filled by an encoder–decoder that was trained on hidden spans, the likeliest texts first.

Each blank is read as a sentinel; what is written is each sentinel with its answer behind it, as in training
(Raffel et al. 2020, section 3.1.4).
"""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.devices import pick_device, pick_precision
from polyseme.errors import CheckpointError, DataError
from polyseme.generation.choosing import NEVER
from polyseme.generation.filling import BLANK, Filling
from polyseme.generation.rewriting import rewriter, sources
from polyseme.generation.settings import FillSettings
from polyseme.models.finite import naming_text, require_finite
from polyseme.records import from_plain
from polyseme.text.sequences import check_text
from polyseme.threads import default_threads, with_own_threads


@dataclass(frozen=True)
class _Answers:
    """What was written of the blanks so far."""

    tokens: tuple[tuple[int, ...], ...] = ((),)
    """Those of each blank that was begun."""
    total: float = 0.0
    """Log probability, the ends of the blanks included."""

    @property
    def per_token(self) -> float:
        """The mean over tokens and ends."""
        return self.total / sum(len(of_blank) + 1 for of_blank in self.tokens)

    def grown(self, token: int, cost: float) -> "_Answers":
        """With one more token in the last blank."""
        *before, last = self.tokens
        return _Answers((*before, (*last, token)), self.total + cost)

    def next(self, cost: float) -> "_Answers":
        """With the last blank closed, and another begun."""
        return _Answers((*self.tokens, ()), self.total + cost)


class SpanFiller:
    """Fills blanks, written as three underscores or more; each gets 1 to `most_tokens` tokens.

    The answers are written from left to right, each with those before it in sight, and the best `width` are
    carried on; a blank ends where the model writes the next sentinel.

    >>> filler = SpanFiller.load("models/t5-mini", most_tokens=4)  # doctest: +SKIP
    >>> filler.fill("人民___依法独立行使___。")[0].text  # doctest: +SKIP
    '人民法院依法独立行使审判权。'
    """

    def __init__(self, model: Model, **options: Any) -> None:
        """`options` are those of `FillSettings`."""
        self.settings = settings = from_plain(options, FillSettings, where="fill")
        if model.tokenizer is None:
            raise CheckpointError("this model has no tokenizer, so it cannot read text")
        self.tokenizer = model.tokenizer
        if not self.tokenizer.sentinel_ids:
            raise CheckpointError(
                "this model has no sentinels (<extra_id_0> …) to stand for blanks; "
                "name one that was trained on hidden spans"
            )
        self.threads = settings.threads or default_threads()
        self.device = pick_device(settings.device)
        self._bf16 = pick_precision(settings.precision, self.device) == "bf16"
        model.backbone.to(self.device).eval()
        model.heads["seq2seq-lm"].to(self.device).eval()
        self._stepper = rewriter(model, cache=True)
        self._config = model.backbone.config
        self._never = torch.zeros(self._config.vocab_size, dtype=torch.bool)
        self._never[sorted(self.tokenizer.special_ids)] = True
        self._never[self.tokenizer.vocab_size :] = True

    @classmethod
    def load(cls, name_or_folder: str | Path, **options: Any) -> "SpanFiller":
        """The filler of a folder or hub name."""
        return cls(load(name_or_folder, heads=["seq2seq-lm"]), **options)

    @with_own_threads
    @torch.inference_mode()
    def fill(self, text: str) -> list[Filling]:
        """The best texts, at most `answers`, the likeliest per token first."""
        check_text(text)
        parts = re.split(BLANK, text)
        blanks = len(parts) - 1
        if not 1 <= blanks <= len(self.tokenizer.sentinel_ids):
            raise DataError(
                f"there are {blanks} blanks in {text[:40]!r}; write ___ where words are missing, at least "
                f"once and at most {len(self.tokenizer.sentinel_ids)} times"
            )
        autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16)
        with naming_text(text), autocast:
            found = self._written(self._row(parts), blanks)
        best = sorted(found, key=lambda one: -one.per_token)[: self.settings.answers]
        return [self._filling(parts, answers) for answers in best]

    def _row(self, parts: Sequence[str]) -> np.ndarray[Any, Any]:
        """The text with a sentinel in each blank; the blank before a word is a part of the answer."""
        trimmed = [part.removesuffix(" ") for part in parts[:-1]] + [parts[-1]]
        ids = self.tokenizer.encode_batch(trimmed)
        sentinels = [np.array([sentinel]) for sentinel in self.tokenizer.sentinel_ids[: len(parts) - 1]]
        inside = [one for one in itertools.chain(*itertools.zip_longest(ids, sentinels)) if one is not None]
        row = self.tokenizer.frame.single(np.concatenate(inside).astype(np.int32))
        if len(row) > self._config.max_position_embeddings:
            raise DataError(
                f"the text has {len(row)} tokens with its blanks, but this model reads at most "
                f"{self._config.max_position_embeddings}; cut it around the blanks"
            )
        return row

    def _written(self, row: np.ndarray[Any, Any], blanks: int) -> list[_Answers]:
        """All answers that the search has finished."""
        width = max(self.settings.width, self.settings.answers)
        closers = [*self.tokenizer.sentinel_ids[1:blanks], self.tokenizer.separator_id]
        batch = sources([row], padding=self._config.padding_id, most=self._config.max_position_embeddings)
        tokens, state = self._stepper.start(batch.to(self.device))
        _, state = self._stepper.step(tokens, state)  # the first sentinel is given, whatever it would write
        running, done = [_Answers()], []
        tokens = torch.tensor([self.tokenizer.sentinel_ids[0]], device=self.device)
        while running:
            logits, state = self._stepper.step(tokens, state)
            require_finite(logits, what="the scores of the next token")
            grown: list[tuple[_Answers, int, int]] = []  # what, from which row, by which token
            for number, (answers, logs) in enumerate(
                zip(running, logits.float().log_softmax(-1), strict=True)
            ):
                for token, cost in self._next(answers, logs, closers, width):
                    if token != closers[len(answers.tokens) - 1]:
                        grown.append((answers.grown(token, cost), number, token))
                    elif len(answers.tokens) == blanks:
                        done.append(_Answers(answers.tokens, answers.total + cost))
                    else:
                        grown.append((answers.next(cost), number, token))
            grown = sorted(grown, key=lambda one: -one[0].total)[:width]
            running = [answers for answers, _, _ in grown]
            if running:
                state = self._stepper.reorder(
                    state, torch.tensor([n for _, n, _ in grown], device=self.device)
                )
                tokens = torch.tensor([token for _, _, token in grown], device=self.device)
        return done

    def _next(
        self, answers: _Answers, logs: Tensor, closers: Sequence[int], width: int
    ) -> Iterator[tuple[int, float]]:
        """The likeliest tokens that may follow, with their log probabilities."""
        last, closer = answers.tokens[-1], closers[len(answers.tokens) - 1]
        if last:
            yield closer, float(logs[closer])
        if len(last) < self.settings.most_tokens:
            costs, tokens = logs.masked_fill(self._never.to(logs.device), NEVER).topk(min(width, len(logs)))
            for token, cost in zip(tokens.tolist(), costs.tolist(), strict=True):
                if cost > NEVER:
                    yield token, cost

    def _filling(self, parts: Sequence[str], answers: _Answers) -> Filling:
        written = [self.tokenizer.decode(of_blank) for of_blank in answers.tokens]
        pieces = itertools.chain.from_iterable(zip(parts, [*written, ""], strict=True))
        return Filling(
            text="".join(pieces),
            answers=[answer.strip() for answer in written],
            probability=math.exp(answers.total),
            tokens=sum(map(len, answers.tokens)),
        )
