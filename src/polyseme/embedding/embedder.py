"""Texts, words, tokens and ranges of characters to vectors: one class for all models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from polyseme import progress
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.devices import pick_device
from polyseme.embedding.alignment import Ranges, check_ranges, cut_ranges, join_words, mean_by_range
from polyseme.embedding.layers import Layers
from polyseme.embedding.projection import Step, size_after, steps_of, unit_length
from polyseme.embedding.quantising import shortened
from polyseme.embedding.rows import TextRows, text_rows, without_beginning
from polyseme.embedding.settings import EmbedSettings
from polyseme.errors import CheckpointError, NotFiniteError, SettingsError
from polyseme.models.finite import naming_text, require_finite_rows
from polyseme.records import from_plain
from polyseme.runtime.encoder import Reading
from polyseme.runtime.gate import Gate
from polyseme.text.encoded import Int32s, Int64s
from polyseme.text.sequences import check_cut_texts, check_texts
from polyseme.text.words import word_cutter
from polyseme.threads import default_threads

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
    from the window that shows it the most context; `long_texts="truncate"` cuts them instead, and each
    call that does so warns once. An empty text is read as its special tokens alone, or as the token that
    fills rows.

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
        if settings.keep_special_tokens:
            self.tokenizer = self.tokenizer.keeping(settings.keep_special_tokens)
        self._card = card = model.card
        self.layers = Layers.of(settings.layers or "-1")
        self.pooling: str = settings.pooling or card.pooling or "mean"
        self.normalize = card.normalize if settings.normalize is None else settings.normalize
        usual = "windows" if card.max_length is None else "truncate"
        self.truncates = (settings.long_texts or usual) == "truncate"
        self.threads = settings.threads or default_threads()
        self.device = pick_device(settings.device)
        self.prompt = self._chosen_prompt(settings.prompt, settings.prompt_name)
        """What is put before each text of `sentences`, unless a call asks for another prompt."""
        self._config = model.backbone.config
        self.max_length = self._longest(settings.max_length, card.max_length)
        self._numbers = self.layers.numbers(self._config.num_layers)
        if self.pooling == "pooler":
            self._check_pooler()
        self.warns_once = False
        """Warn of texts that were cut only the first time, not at each call: for a job of many calls."""
        self._warned = False
        self._projection = self._projected(model)
        self.dimensions = self._kept_dimensions(settings.dimensions, model.after_pooling)
        """How many of a vector's numbers are given."""
        self._gate = Gate(
            model.backbone,
            settings.precision,
            threads=self.threads,
            device=self.device,
            tile_tokens=settings.batch_tokens,
        )

    @classmethod
    def load(cls, name_or_folder: str | Path, **options: Any) -> "Embedder":
        """The embedder of a folder or hub name, with the model's own pooling, scaling and length."""
        return cls(load(name_or_folder), **options)

    @property
    def width(self) -> int:
        """Numbers in the vector of one text."""
        return self.dimensions

    @property
    def token_width(self) -> int:
        """Numbers in the vector of one token, word or range."""
        return self._config.hidden_size * self.layers.width(self._config.num_layers)

    @property
    def precision(self) -> str:
        """In which precision products are computed; the first texts may still lead to a better one."""
        return self._gate.encoder.precision

    def sentences(
        self, texts: Sequence[str], *, prompt_name: str | None = None, prompt: str | None = None
    ) -> Vectors:
        """One vector a text, in the texts' order: `[len(texts), width]`.

        `prompt_name` or `prompt` stand in the place of the embedder's own prompt for this call.
        """
        read = self.read(texts, prompt_name=prompt_name, prompt=prompt)
        self._warn_of_cuts(read)
        try:
            return self.vectors(read)
        except NotFiniteError as error:
            with naming_text(texts[error.number or 0]):
                raise

    def read(
        self, texts: Sequence[str], *, prompt_name: str | None = None, prompt: str | None = None
    ) -> TextRows:
        """Texts as the rows that the network reads; another thread may do it while `vectors` computes."""
        check_texts(texts)
        before = self._chosen_prompt(prompt, prompt_name)
        ids, _, counts = self.tokenizer.encode_joined([before + text for text in texts])
        read = self._rows(ids, counts)
        if before and not self._card.include_prompt:
            read = without_beginning(read, len(self.tokenizer.frame.before) + len(self._ids(before)))
        return read

    def vectors(self, read: TextRows) -> Vectors:
        """One vector a text that was read: `[texts, width]`; `NotFiniteError` where one is not finite."""
        self.settle(read)
        vectors = self._joined(self._gate.encoder.vectors(read.rows, self._reading(self.pooling)), read)
        for step in self._projection:
            vectors = step(vectors)
        require_finite_rows(vectors, what=f"the vector in {self.precision}")
        if self.normalize:
            with np.errstate(over="ignore"):
                lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            require_finite_rows(lengths, what="the length of the vector")
            vectors = unit_length(vectors)
        # A folder's own truncate_dim leaves its vectors shorter than 1, as in sentence-transformers.
        again = self.normalize and self.settings.dimensions is not None
        return shortened(vectors, self.dimensions, normalize=again)

    def settle(self, read: TextRows) -> None:
        """Decide by the first of these texts whether the precision is good enough for them; only once.

        Whoever reads a file in parts settles with its beginning, wherever the work goes on.
        """
        self._gate.settle(read.rows, self._reading(self.pooling))

    def tokens(self, texts: Sequence[str]) -> list[Pieces]:
        """The vector of each token, special tokens left out."""
        check_texts(texts)
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
        check_cut_texts(texts)
        cutter = word_cutter(words)
        joined = [
            (text, cut_ranges(text, cutter)) if isinstance(text, str) else join_words(text) for text in texts
        ]
        return self._pieces([text for text, _ in joined], [ranges for _, ranges in joined])

    def ranges(self, texts: Sequence[str], ranges: Sequence[Sequence[tuple[int, int]]]) -> list[Pieces]:
        """The vector of each range of characters (begin, end): the mean of the tokens that it touches."""
        check_texts(texts)
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
        self._warn_of_cuts(read)
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
        special = self.tokenizer.frame.size
        if longest <= special:
            raise SettingsError(
                f"max_length {longest} leaves no room for a text beside its {special} special tokens; "
                f"give max_length from {special + 1} to {positions}"
            )
        return longest

    def _chosen_prompt(self, prompt: str | None, name: str | None) -> str:
        """The prompt that a call or the settings ask for; else the embedder's, or the folder's."""
        if prompt is not None and name is not None:
            raise SettingsError("give prompt or prompt_name, one of the two")
        if prompt is not None:
            return prompt
        if name is None:
            return getattr(self, "prompt", self._card.prompt)
        if name not in self._card.prompts:
            known = ", ".join(self._card.prompts) or "none"
            raise SettingsError(f"this model has no prompt {name!r}; its folder names {known}")
        return self._card.prompts[name]

    def _ids(self, text: str) -> Int32s:
        return self.tokenizer.encode_batch([text])[0]

    def _projected(self, model: Model) -> list[Step]:
        """What the folder computes behind its own pooling of its last layer."""
        own = self._card.pooling or "mean"
        if model.after_pooling and (self.pooling != own or self._numbers != (self._config.num_layers,)):
            raise SettingsError(
                f"this model's folder projects the {own} of the last layer; "
                "leave pooling and layers out, or take a folder without Dense modules"
            )
        return steps_of(model.after_pooling)

    def _kept_dimensions(self, asked: int | None, modules: Sequence[nn.Module]) -> int:
        whole = size_after(modules, self.token_width * (2 if self.pooling == "mean-max" else 1))
        if asked is not None and asked > whole:
            raise SettingsError(f"dimensions={asked}, but the vectors of this model have {whole}")
        return asked or min(self._card.dimensions or whole, whole)

    def _warn_of_cuts(self, read: TextRows) -> None:
        if read.cut and not (self.warns_once and self._warned):
            self._warned = True
            progress.warn(
                f"{read.cut} of the {read.num_texts} texts read so far are longer than the {self.max_length} "
                "tokens read here and were cut; long_texts=windows reads them whole"
            )

    def _check_pooler(self) -> None:
        if not self._config.pooler:
            raise SettingsError("this model has no pooler; choose pooling first, last, mean, max or mean-max")
        if self._numbers != (self._config.num_layers,):
            raise SettingsError(
                f"the pooler reads the last layer, not layers={self.settings.layers}; "
                "leave layers out, or choose another pooling"
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
