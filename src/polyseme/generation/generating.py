"""Texts that a model writes: prompts continued, or rewritten, one token after another."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyseme import progress
from polyseme.checkpoints.hub import resolve
from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.model import Model
from polyseme.devices import pick_device, pick_precision
from polyseme.errors import CheckpointError
from polyseme.generation.beams import beam_search
from polyseme.generation.choosing import Scores
from polyseme.generation.decoding import Decoded, decode
from polyseme.generation.settings import GenerateSettings
from polyseme.generation.steppers import Stepper
from polyseme.models.batch import Batch
from polyseme.models.finite import naming_text
from polyseme.records import Record, from_plain
from polyseme.seeding import generator
from polyseme.text.sequences import check_texts
from polyseme.threads import default_threads, with_own_threads

WRITERS = {
    "causal-lm": "polyseme.generation.continuing:Continuing",
    "seq2seq-lm": "polyseme.generation.rewriting:Rewriting",
}
"""What reads the given text, by the head that writes; import paths."""


class Writer(Protocol):
    """How one kind of model reads what it is given, and what its tokens add to it."""

    stepper: Stepper
    continues: bool
    """Whether what is written goes on where the text ends; else it is a text of its own."""

    def read(self, texts: Sequence[str]) -> list[NDArray[np.int32]]: ...

    def collate(self, rows: Sequence[NDArray[np.int32]]) -> Batch: ...

    def text(self, row: NDArray[np.int32], tokens: Sequence[int]) -> str: ...


class Answer(Record, frozen=True, kw_only=True):
    """One text that was written."""

    text: str
    """Without the prompt."""
    tokens: int
    score: float
    """Log probability of the tokens; in beam search divided by the power of the length."""
    finished: bool
    """Whether the text ended by itself, and not at `max_new_tokens`."""


class Generated(Record, frozen=True, kw_only=True):
    """What a prompt gave."""

    prompt: str
    answers: list[Answer]
    """The best first; of sample in the order of their lots."""
    continued: bool = True
    """Whether the answers go on where the prompt ends; else they are texts of their own."""


class Generator:
    """Continues texts, or rewrites them with an encoder–decoder.

    The same seed and prompt give the same text, alone and among others.

    >>> generator = Generator.load("models/gpt2-mini", strategy="sample", top_p=0.9)  # doctest: +SKIP
    >>> generator.generate(["根据中华人民共和国"])[0].answers[0].text  # doctest: +SKIP
    '刑法的规定，…'
    """

    def __init__(self, model: Model, **options: Any) -> None:
        """`options` are those of `GenerateSettings`."""
        self.settings = settings = from_plain(options, GenerateSettings, where="generate")
        if model.tokenizer is None:
            raise CheckpointError("this model has no tokenizer, so it cannot read or write text")
        self.tokenizer = model.tokenizer
        self.threads = settings.threads or default_threads()
        self.device = pick_device(settings.device)
        self._bf16 = pick_precision(settings.precision, self.device) == "bf16"
        model.backbone.to(self.device).eval()
        for head in model.heads.values():
            head.to(self.device).eval()
        self._writer = _writer(model, settings)
        stops = settings.stop and "separator" in self.tokenizer.special_tokens
        self._ends = frozenset([self.tokenizer.separator_id] if stops else [])
        self._scores = Scores(settings.repetition_penalty, self._forbidden(model.backbone.config.vocab_size))

    @classmethod
    def load(cls, name_or_folder: str | Path, **options: Any) -> "Generator":
        """The generator of a model folder or hub name."""
        folder = resolve(name_or_folder)
        return cls(load(folder, heads=[_head(folder)]), **options)

    @with_own_threads
    def generate(self, prompts: Sequence[str]) -> list[Generated]:
        """What each prompt gives, in their order."""
        check_texts(prompts, "prompts", each="prompt")
        rows = self._writer.read(prompts)
        found: list[Generated | None] = [None] * len(rows)
        with progress.bar("generate", total=len(rows), unit="texts") as work:
            for numbers in self._batches(rows):
                with naming_text(" | ".join(prompts[n] for n in numbers)):
                    answers = self._answers([prompts[n] for n in numbers], [rows[n] for n in numbers])
                for number, of_prompt in zip(numbers, answers, strict=True):
                    texts = [self._answer(rows[number], one) for one in of_prompt]
                    found[number] = Generated(
                        prompt=prompts[number], answers=texts, continued=self._writer.continues
                    )
                work.advance(len(numbers))
        return [one for one in found if one is not None]

    def _batches(self, rows: Sequence[NDArray[np.int32]]) -> Iterator[list[int]]:
        """Row numbers in batches of like length, the longest first."""
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
        for first in range(0, len(order), self.settings.batch_size):
            yield order[first : first + self.settings.batch_size]

    @torch.inference_mode()
    def _answers(self, prompts: Sequence[str], rows: Sequence[NDArray[np.int32]]) -> Iterator[list[Decoded]]:
        settings = self.settings
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            if settings.strategy == "beam":
                batch = self._writer.collate(rows).to(self.device)
                found = beam_search(
                    self._writer.stepper, batch, settings, scores=self._scores, ends=self._ends
                )
                return iter([of_prompt[: settings.answers] for of_prompt in found])
            count = settings.answers
            batch = self._writer.collate([row for row in rows for _ in range(count)]).to(self.device)
            texts = decode(
                self._writer.stepper,
                batch,
                settings,
                scores=self._scores,
                ends=self._ends,
                chance=self._chance(prompts),
            )
        return iter([texts[first : first + count] for first in range(0, len(texts), count)])

    def _chance(self, prompts: Sequence[str]) -> Tensor:
        """Numbers in [0, 1) that depend on the seed, the prompt and the answer's number only."""
        settings = self.settings
        streams = [
            generator(settings.seed, "generate", prompt, number).random(settings.max_new_tokens)
            for prompt in prompts
            for number in range(settings.answers)
        ]
        return torch.from_numpy(np.stack(streams)).to(self.device)

    def _answer(self, row: NDArray[np.int32], one: Decoded) -> Answer:
        text = self._writer.text(row, one.tokens)
        return Answer(text=text, tokens=len(one.tokens), score=one.score, finished=one.finished)

    def _forbidden(self, vocab_size: int) -> Tensor:
        """Special tokens but the separator, and rows of the table that no token has."""
        allowed = self.tokenizer.special_ids
        if "separator" in self.tokenizer.special_tokens:
            allowed = allowed - {self.tokenizer.separator_id}
        forbidden = torch.zeros(vocab_size, dtype=torch.bool)
        forbidden[sorted(allowed)] = True
        forbidden[self.tokenizer.vocab_size :] = True
        return forbidden.to(self.device)


def generate(texts: Sequence[str], *, model: str | Path | Model, **options: Any) -> list[Generated]:
    """Continue each of `texts`; the options are those of `GenerateSettings`.

    >>> generate(["春眠不觉晓，"], model="models/gpt2-mini", strategy="beam")  # doctest: +SKIP
    [Generated(prompt='春眠不觉晓，', answers=[Answer(text='处处闻啼鸟。', …)])]
    """
    if isinstance(texts, str):
        texts = [texts]
    writer = Generator(model, **options) if isinstance(model, Model) else Generator.load(model, **options)
    return writer.generate(texts)


def _writer(model: Model, settings: GenerateSettings) -> Writer:
    head = next((head for head in WRITERS if head in model.heads), None)
    if head is None:
        raise CheckpointError(
            f"this model has no head that writes ({', '.join(WRITERS)}); load it with heads=[…]"
        )
    module, _, kind = WRITERS[head].partition(":")
    writer: Writer = getattr(import_module(module), kind)(model, settings)
    return writer


def _head(folder: Path) -> str:
    found = heads_in(folder)
    for head in WRITERS:
        if head in found:
            return head
    raise CheckpointError(
        f"{folder} has no head that writes ({', '.join(WRITERS)}), only {', '.join(found) or 'a backbone'}; "
        "a masked model fills blanks: polyseme fill"
    )
