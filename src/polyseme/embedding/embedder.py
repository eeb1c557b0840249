"""Texts, words, tokens and ranges of characters to vectors: one class for all models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polyseme import progress
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.devices import pick_device, usable_cores
from polyseme.embedding.alignment import Ranges, check_ranges, cut_ranges, join_words, mean_by_range
from polyseme.embedding.layers import Layers
from polyseme.embedding.rows import TextRows, text_rows
from polyseme.embedding.settings import EmbedSettings
from polyseme.errors import CheckpointError, NotFiniteError, SettingsError
from polyseme.models.finite import naming_text, require_finite_rows
from polyseme.records import from_plain
from polyseme.runtime.encoder import Reading
from polyseme.runtime.gate import Gate
from polyseme.text.encoded import Int32s, Int64s
from polyseme.text.words import word_cutter

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Pieces:
    """The parts of one text (tokens, words or ranges) with a vector each."""

    texts: list[str]
    offsets: NDArray[np.int64]
    """Begin and end in the text, in characters: `[pieces, 2]`."""
    vectors: Vectors
    """`[pieces, width]`"""


class Embedder:
    """Vectors from a model. A text gives the same vector alone and in any batch.

    The model is compiled for inference with the weights that it has now; who trains it on makes a new
    embedder. In a lower precision than fp32 the first texts are read in both, and where they are too far
    apart, the better one is kept.

    Texts longer than the model are read by overlapping windows whose states are joined, each token
    from the window that shows it the most context; `long_texts="truncate"` cuts them instead, and
    says so once. An empty text is read as its special tokens alone, or as the token that fills rows.

    >>> embedder = Embedder.load("models/mini", pooling="mean")  # doctest: +SKIP
    >>> embedder.sentences(["程序已经启动", "按照法定程序"]).shape  # doctest: +SKIP
    (2, 256)
    """

    def __init__(self, model: Model, **options: Any) -> None:
        """`options` are those of `EmbedSettings`; what they leave open is as the model's card says."""
        if model.tokenizer is None:
            raise CheckpointError("this model has no tokenizer, so it cannot read text")
        self.settings = settings = from_plain(options, EmbedSettings, where="embedding")
        self.tokenizer = model.tokenizer
        card = model.card
        self.layers = Layers.of(settings.layers or "-1")
        self.pooling: str = settings.pooling or card.pooling or "mean"
        self.normalize = card.normalize if settings.normalize is None else settings.normalize
        usual = "windows" if card.max_length is None else "truncate"
        self.truncates = (settings.long_texts or usual) == "truncate"
        self.threads = settings.threads or usable_cores()
        torch.set_num_threads(self.threads)
        self.device = pick_device(settings.device)
        self._prompt = card.prompt
        self._config = model.backbone.config
        self.max_length = self._longest(settings.max_length, card.max_length)
        self._numbers = self.layers.numbers(self._config.num_layers)
        if self.pooling == "pooler":
            self._check_pooler()
        self._gate = Gate(
            model.backbone,
            settings.precision,
            threads=self.threads,
            device=self.device,
            tile_tokens=settings.batch_tokens,
        )
        self._said_cut = False

    @classmethod
    def load(cls, name_or_folder: str | Path, **options: Any) -> "Embedder":
        """The embedder of a folder or hub name, with the model's own pooling, scaling and length."""
        return cls(load(name_or_folder), **options)

    @property
    def width(self) -> int:
        """Numbers in the vector of one text."""
        return self.token_width * (2 if self.pooling == "mean-max" else 1)

    @property
    def token_width(self) -> int:
        """Numbers in the vector of one token, word or range."""
        return self._config.hidden_size * self.layers.width(self._config.num_layers)

    @property
    def precision(self) -> str:
        """In which precision products are computed; the first texts may still lead to a better one."""
        return self._gate.encoder.precision

    def sentences(self, texts: Sequence[str]) -> Vectors:
        """One vector a text, in the texts' order: `[len(texts), width]`."""
        try:
            return self.vectors(self.read(texts))
        except NotFiniteError as error:
            with naming_text(texts[error.number or 0]):
                raise

    def read(self, texts: Sequence[str]) -> TextRows:
        """Texts as the rows that the network reads; another thread may do it while `vectors` computes."""
        ids, _, counts = self.tokenizer.encode_joined([self._prompt + text for text in texts])
        return self._rows(ids, counts)

    def vectors(self, read: TextRows) -> Vectors:
        """One vector a text that was read: `[texts, width]`; `NotFiniteError` where one is not finite."""
        self.settle(read)
        vectors = self._joined(self._gate.encoder.vectors(read.rows, self._reading(self.pooling)), read)
        require_finite_rows(vectors, what=f"the vector in {self.precision}")
        if self.normalize:
            with np.errstate(over="ignore"):
                lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            require_finite_rows(lengths, what="the length of the vector")
            vectors /= np.maximum(lengths, 1e-12)
        return vectors

    def settle(self, read: TextRows) -> None:
        """Decide by the first of these texts whether the precision is good enough for them; only once.

        Whoever reads a file in parts settles with its beginning, wherever the work goes on.
        """
        self._gate.settle(read.rows, self._reading(self.pooling))

    def tokens(self, texts: Sequence[str]) -> list[Pieces]:
        """The vector of each token, special tokens left out."""
        encoded = [self.tokenizer.encode(text) for text in texts]
        states = self._token_states([one.ids for one in encoded])
        return [
            Pieces(
                self.tokenizer.tokens(one.ids)[: len(vectors)],
                one.offsets[: len(vectors)].astype(np.int64),
                vectors,
            )
            for one, vectors in zip(encoded, states, strict=True)
        ]

    def words(self, texts: Sequence[str | Sequence[str]], *, words: str = "rjieba") -> list[Pieces]:
        """The vector of each word: the mean of its tokens; zeros where it has none.

        A text is cut by the word cutter `words`; a list of words is taken as already cut, and its offsets
        count in the text that they make when joined.
        """
        cutter = word_cutter(words)
        joined = [
            (text, cut_ranges(text, cutter)) if isinstance(text, str) else join_words(text) for text in texts
        ]
        return self._pieces([text for text, _ in joined], [ranges for _, ranges in joined])

    def ranges(self, texts: Sequence[str], ranges: Sequence[Sequence[tuple[int, int]]]) -> list[Pieces]:
        """The vector of each range of characters (begin, end): the mean of the tokens that it touches."""
        checked = [
            check_ranges(text, of_text, number=number)
            for number, (text, of_text) in enumerate(zip(texts, ranges, strict=True))
        ]
        return self._pieces(texts, checked)

    def _pieces(self, texts: Sequence[str], ranges: Sequence[Ranges]) -> list[Pieces]:
        encoded = [self.tokenizer.encode(text) for text in texts]
        states = self._token_states([one.ids for one in encoded])
        return [
            Pieces(
                [text[begin:end] for begin, end in of_text.tolist()],
                of_text,
                mean_by_range(vectors, one.offsets[: len(vectors)], of_text),
            )
            for text, one, vectors, of_text in zip(texts, encoded, states, ranges, strict=True)
        ]

    def _token_states(self, ids: Sequence[Int32s]) -> list[Vectors]:
        """The states of each text's own tokens, `[tokens, token_width]`; fewer where the text was cut."""
        counts = np.asarray([len(of_text) for of_text in ids], dtype=np.int64)
        read = self._rows(np.concatenate([np.zeros(0, dtype=np.int32), *ids]), counts)
        self.settle(read)
        states = self._gate.encoder.states(read.rows, self._reading(None))
        frame, counted = self.tokenizer.frame, read.rows.counted
        assert counted is not None
        begins = read.rows.starts[:-1, None] + counted  # [rows, 2]
        found = []
        for first, last, tokens in zip(read.edges[:-1], read.edges[1:], read.tokens, strict=True):
            whole = np.concatenate([states[begin:end] for begin, end in begins[first:last]])
            # Where nothing stands around texts, an empty one was read as a token that is not its own.
            found.append(whole[len(frame.before) : len(whole) - len(frame.after)][:tokens])
            if not np.isfinite(found[-1]).all():
                raise NotFiniteError(f"the vectors of text {len(found)} in {self.precision} are not finite")
        return found

    def _reading(self, pooling: str | None) -> Reading:
        return Reading(self._numbers, self.layers.how, pooling)

    def _rows(self, ids: Int32s, counts: Int64s) -> TextRows:
        """Each text as one row, or as several windows that lie together."""
        frame = self.tokenizer.frame
        self._say_cut(int((counts > self.max_length - frame.size).sum()), len(counts))
        return text_rows(
            ids,
            counts,
            frame=frame,
            filling=self.tokenizer.filling_id,
            most=self.max_length,
            truncate=self.truncates,
        )

    def _joined(self, parts: Vectors, read: TextRows) -> Vectors:
        """One vector a text from those of its windows: `[texts, width]`."""
        if len(parts) == read.num_texts:
            return parts
        assert read.rows.counted is not None
        weights = np.diff(read.rows.counted, axis=1).astype(np.float32)  # [rows, 1]
        edges = read.edges
        vectors = parts[edges[:-1]]
        for text in np.flatnonzero(np.diff(edges) > 1):
            rows = slice(edges[text], edges[text + 1])
            vectors[text] = _JOINS[self.pooling](parts[rows], weights[rows])
        return vectors

    def _longest(self, asked: int | None, of_folder: int | None) -> int:
        positions: int = self._config.max_position_embeddings
        if asked is not None and asked > positions:
            raise SettingsError(
                f"max_length {asked} is more than the {positions} positions of this model; "
                "longer texts are read by windows anyway"
            )
        longest = asked or min(of_folder or positions, positions)
        if longest <= self.tokenizer.frame.size:
            raise SettingsError(
                f"max_length is {longest}, and the special tokens alone are {self.tokenizer.frame.size}; "
                "pass a larger max_length"
            )
        return longest

    def _check_pooler(self) -> None:
        if not self._config.pooler:
            raise SettingsError("this model has no pooler; choose pooling first, last, mean, max or mean-max")
        if self._numbers != (self._config.num_layers,):
            raise SettingsError(
                f"the pooler reads the last layer, not layers={self.settings.layers}; "
                "leave layers out, or choose another pooling"
            )

    def _say_cut(self, cut: int, total: int) -> None:
        if cut and self.truncates and not self._said_cut:
            self._said_cut = True
            progress.say(
                f"{cut} of the first {total} texts are longer than the {self.max_length} tokens read here "
                "and were cut; long_texts=windows reads them whole"
            )


def _weighted_mean(parts: Vectors, weights: Vectors) -> Vectors:
    mean: Vectors = (parts * weights).sum(axis=0) / weights.sum()
    return mean


def _mean_and_max(parts: Vectors, weights: Vectors) -> Vectors:
    half = parts.shape[1] // 2
    return np.concatenate([_weighted_mean(parts[:, :half], weights), parts[:, half:].max(axis=0)])


_JOINS = {
    "first": lambda parts, weights: parts[0],
    "last": lambda parts, weights: parts[-1],
    "mean": _weighted_mean,
    "max": lambda parts, weights: parts.max(axis=0),
    "mean-max": _mean_and_max,
    "pooler": _weighted_mean,
}
"""A text's vector from those of its windows, by pooling; of the pooler's, the mean."""
