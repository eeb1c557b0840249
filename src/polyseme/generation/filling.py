"""Blanks in a text filled by a masked model, the likeliest texts first."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyseme.checkpoints.hub import resolve
from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.model import Model
from polyseme.devices import pick_device, pick_precision
from polyseme.errors import CheckpointError, DataError
from polyseme.generation.choosing import NEVER
from polyseme.generation.settings import FillSettings
from polyseme.models.batch import Batch
from polyseme.models.finite import naming_text, require_finite
from polyseme.records import Record, from_plain
from polyseme.text.sequences import check_text
from polyseme.threads import default_threads, with_own_threads

BLANK: Final = r"_{3,}"
"""How a blank is written beside the tokenizer's own mask token."""
MOST_SHAPES = 64
"""The most numbers of tokens, of all blanks together, that are tried for one text."""


class Filling(Record, frozen=True, kw_only=True):
    """A text without blanks."""

    text: str
    answers: list[str]
    """What stands in each blank."""
    probability: float
    """Of all the hidden tokens together, each given those that were told before it."""
    tokens: int
    """How many tokens were hidden."""


@dataclass(frozen=True)
class _Row:
    """A text with blanks, some of whose tokens have been told."""

    input_ids: NDArray[np.int64]
    left: tuple[int, ...]
    """Places that are still hidden."""
    total: float = 0.0
    """Log probability of those that are not any more."""

    def told(self, place: int, token: int, cost: float) -> "_Row":
        ids = self.input_ids.copy()
        ids[place] = token
        left = tuple(other for other in self.left if other != place)
        return replace(self, input_ids=ids, left=left, total=self.total + cost)


class Filler:
    """Fills blanks, written as the mask token or as three underscores or more.

    With several hidden tokens, they are told one after the other, each with those before it in sight, and
    the best `width` texts are carried on.

    >>> filler = Filler.load("models/mini", answers=3)  # doctest: +SKIP
    >>> filler.fill("人民___依法独立行使审判权。")[0].text  # doctest: +SKIP
    '人民法院依法独立行使审判权。'
    """

    def __init__(self, model: Model, **options: Any) -> None:
        """`options` are those of `FillSettings`."""
        self.settings = settings = from_plain(options, FillSettings, where="fill")
        if model.tokenizer is None:
            raise CheckpointError("this model has no tokenizer, so it cannot read text")
        self.tokenizer = model.tokenizer
        self._mask = self.tokenizer.mask_id
        self.threads = settings.threads or default_threads()
        self.device = pick_device(settings.device)
        self._bf16 = pick_precision(settings.precision, self.device) == "bf16"
        self._backbone = model.backbone.to(self.device).eval()
        self._head = model.heads["masked-lm"].to(self.device).eval()
        self._positions: int = model.backbone.config.max_position_embeddings
        self._blank = re.compile(f"{re.escape(self.tokenizer.special_tokens['mask'])}|{BLANK}")
        # SentencePiece and byte vocabularies spell the blank before a word as a part of the word.
        self._carries_blanks = self.tokenizer.kind in ("bpe", "byte-bpe", "unigram")
        self._never, self._never_first = self._forbidden(model.backbone.config.vocab_size)

    @classmethod
    def load(cls, name_or_folder: str | Path, **options: Any) -> "Filler":
        """The filler of a masked model's folder or hub name."""
        return cls(load(name_or_folder, heads=["masked-lm"]), **options)

    @with_own_threads
    def fill(self, text: str) -> list[Filling]:
        """The best texts, at most `answers`, the likeliest first."""
        check_text(text)
        parts = self._blank.split(text)
        blanks = len(parts) - 1
        if not blanks:
            raise DataError(
                f"there is no blank in {text[:40]!r}; write ___ or "
                f"{self.tokenizer.special_tokens['mask']} where a word is missing"
            )
        if self.settings.most_tokens**blanks > MOST_SHAPES:
            raise DataError(
                f"{blanks} blanks of up to {self.settings.most_tokens} tokens are "
                f"{self.settings.most_tokens**blanks} shapes, and at most {MOST_SHAPES} are tried; "
                "leave fewer blanks, or lower most_tokens"
            )
        if self._carries_blanks:
            parts = [part.removesuffix(" ") for part in parts[:-1]] + parts[-1:]
        ids = self.tokenizer.encode_batch(parts)
        found: dict[tuple[int, ...], tuple[float, Filling]] = {}
        for counts in itertools.product(range(1, self.settings.most_tokens + 1), repeat=blanks):
            with naming_text(text):
                filled = list(self._filled(parts, ids, counts))
            for row, places in filled:
                filling = self._written(parts, row, places)
                found[tuple(row.input_ids.tolist())] = row.total / sum(counts), filling
        best = sorted(found.values(), key=lambda one: -one[0])
        return [filling for _, filling in best[: self.settings.answers]]

    def _filled(
        self, parts: Sequence[str], ids: Sequence[NDArray[np.int32]], counts: Sequence[int]
    ) -> Iterator[tuple[_Row, list[range]]]:
        """The best rows with so many tokens in each blank, and where each blank stands in them."""
        whole, places = [ids[0]], []
        for of_part, count in zip(ids[1:], counts, strict=True):
            begin = len(self.tokenizer.frame.before) + sum(map(len, whole))
            places.append(range(begin, begin + count))
            whole += [np.full(count, self._mask, dtype=np.int32), of_part]
        row = self.tokenizer.frame.single(np.concatenate(whole)).astype(np.int64)
        if len(row) > self._positions:
            raise DataError(
                f"the text has {len(row)} tokens with its blanks, but this model reads at most "
                f"{self._positions}; cut it around the blanks"
            )
        inside = {
            place
            for of_blank, part in zip(places, parts, strict=False)
            for place in self._open(of_blank, part)
        }
        rows = [_Row(row, tuple(itertools.chain(*places)))]
        while rows[0].left:
            rows = self._tell(rows, inside)
        return ((row, places) for row in rows)

    def _open(self, blank: range, before: str) -> range:
        """The places of a blank that may go on a word: all but the first, unless it touches a word."""
        return blank if before and before[-1].isascii() and before[-1].isalnum() else blank[1:]

    def _tell(self, rows: Sequence[_Row], inside: set[int]) -> list[_Row]:
        """Tell one more token of each row; the best rows, each once."""
        logs = self._logs(rows)  # [rows, hidden, vocab_size]
        width = max(self.settings.width, self.settings.answers)
        grown: dict[tuple[int, ...], _Row] = {}
        for row, of_row in zip(rows, logs, strict=True):
            banned = torch.stack(
                [self._never if place in inside else self._never_first for place in row.left]
            )
            of_row = of_row[: len(row.left)].masked_fill(banned, NEVER)
            number = int(of_row.amax(dim=-1).argmax()) if self.settings.order == "confidence" else 0
            costs, tokens = of_row[number].topk(min(width, of_row.size(-1)))
            for cost, token in zip(costs.tolist(), tokens.tolist(), strict=True):
                if cost > NEVER:
                    new = row.told(row.left[number], token, cost)
                    grown.setdefault(tuple(new.input_ids.tolist()), new)
        return sorted(grown.values(), key=lambda row: -row.total)[:width]

    @torch.inference_mode()
    def _logs(self, rows: Sequence[_Row]) -> Tensor:
        """Log probabilities of all tokens at the hidden places, which are as many in every row."""
        ids = torch.from_numpy(np.stack([row.input_ids for row in rows])).to(self.device)
        places = torch.tensor([row.left for row in rows], device=self.device)  # [rows, hidden]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            states = self._backbone(Batch(ids)).last
            hidden = states.gather(1, places[..., None].expand(-1, -1, states.size(-1)))
            logits: Tensor = self._head(hidden.flatten(0, 1), self._backbone.embeddings.tokens.weight)
        require_finite(logits, what="the scores of the hidden tokens")
        return logits.float().log_softmax(dim=-1).view(*places.shape, -1)

    def _written(self, parts: Sequence[str], row: _Row, places: Sequence[range]) -> Filling:
        answers = [
            self.tokenizer.decode(row.input_ids[place.start : place.stop]).removeprefix("##")
            for place in places
        ]
        pieces = itertools.chain.from_iterable(zip(parts, [*answers, ""], strict=True))
        return Filling(
            text="".join(pieces),
            answers=[answer.strip() for answer in answers],
            probability=math.exp(row.total),
            tokens=sum(map(len, places)),
        )

    def _forbidden(self, vocab_size: int) -> tuple[Tensor, Tensor]:
        """Tokens that no blank holds, and those that none begins with: the middle of a word."""
        never = torch.zeros(vocab_size, dtype=torch.bool)
        never[sorted(self.tokenizer.special_ids)] = True
        never[self.tokenizer.vocab_size :] = True
        first = never.clone()
        if self.tokenizer.kind == "wordpiece":
            middles = [n for n, token in enumerate(self.tokenizer.vocabulary) if token.startswith("##")]
            first[middles] = True
        return never.to(self.device), first.to(self.device)


def fill(text: str, *, model: str | Path | Model, **options: Any) -> list[Filling]:
    """The best texts for a text with blanks; the options are those of `FillSettings`.

    >>> fill("春眠不觉___", model="models/mini", answers=2)  # doctest: +SKIP
    [Filling(text='春眠不觉晓', answers=['晓'], probability=0.62, tokens=1), …]
    """
    return filler_of(model, **options).fill(text)


class Fills(Protocol):
    """What fills the blanks of a text."""

    def fill(self, text: str) -> list[Filling]: ...


FILLERS = {
    "masked-lm": "polyseme.generation.filling:Filler",
    "seq2seq-lm": "polyseme.generation.span_filling:SpanFiller",
}
"""By the head that is asked; of several in a model the first here. Import paths."""


def filler_of(model: str | Path | Model, **options: Any) -> Fills:
    """What fills blanks with a model, or with that of a folder or hub name."""
    source = model if isinstance(model, Model) else resolve(model)
    found = list(source.heads) if isinstance(source, Model) else heads_in(source)
    head = next((head for head in FILLERS if head in found), "masked-lm")
    model = source if isinstance(source, Model) else load(source, heads=[head])
    module, _, kind = FILLERS[head].partition(":")
    filler: Fills = getattr(import_module(module), kind)(model, **options)
    return filler
