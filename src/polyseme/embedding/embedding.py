"""The command `embed`: text of any size to a file of vectors, in flat memory, safe to stop and to repeat."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from polyseme import progress
from polyseme.checkpoints.fingerprints import reader_fingerprint
from polyseme.checkpoints.loading import load
from polyseme.devices import environment
from polyseme.embedding.embedder import Embedder
from polyseme.embedding.files import format_of
from polyseme.embedding.jobs import Job, begun, finished, mend, resumed, working
from polyseme.embedding.quantising import Vectors, ranges_of
from polyseme.embedding.settings import EmbedSettings, OutputSettings
from polyseme.errors import DataError
from polyseme.files import regular_output
from polyseme.records import Record, from_flat, to_plain
from polyseme.text.reading import TextSettings, expand, read_lines
from polyseme.text.surveying import survey
from polyseme.text.table_texts import TextColumnSettings

_TEXTS, _CHARACTERS = 4096, 1 << 19
"""A block ends with whichever comes first. It is what is held in memory, what lies together in the file, and
what a stop may cost; only the texts decide where it ends, so a job that goes on makes the same blocks."""


class _Settings(Record, frozen=True):
    """What `embed` is told beside its files."""

    reader: EmbedSettings = EmbedSettings()
    table: TextColumnSettings = TextColumnSettings()
    output: OutputSettings = OutputSettings()


def embed(
    text: str | Path, *, model: str | Path, out: str | Path, replace: bool = False, **options: Any
) -> int:
    """Write one vector for each line of `text` (a file, a folder, a pattern, or "-") and return their number.

    An empty line keeps its row. The suffix of `out` names the format: .npy, .parquet or .jsonl. The options
    are those of `EmbedSettings`, `OutputSettings` and, for text in a table, `TextColumnSettings`.

    Called again with the same words, a job that was stopped goes on where it was, and the file is the same
    byte for byte; a whole file is left alone. A job that was begun with other settings, another model or
    another text is refused with a `SettingsError`; `replace` begins anew.

    >>> embed("lines.txt", model="models/mini", out="vectors.npy", pooling="mean")  # doctest: +SKIP
    1000
    """
    settings = from_flat(options, _Settings, where="embed")
    path = regular_output(Path(out), command="embed")
    maker = format_of(path)
    expand([text])
    with working(path) as folder:
        work = _Work(text, model, settings)
        mend(path, folder)
        if not replace and (whole := finished(path, work.words)):
            progress.say(f"{path} is whole already, made of this text by this model with these settings")
            return whole.rows
        job = None if replace else resumed(path, folder, maker, work.words)
        if job is not None:
            work.say_what_is_new(job)
        return _fill(job, work, partial(begun, path, folder, maker))


def _fill(job: Job | None, work: "_Work", begin: Callable[..., Job]) -> int:
    """Block after block to the end of the text; the first one begins a job that is not there yet."""
    done = job.rows if job else 0
    try:
        with progress.bar(
            "embed", total=work.survey.lines - done if work.survey else None, unit="texts"
        ) as bar:
            for texts, vectors in work.blocks(skip=done):
                if job is None:
                    how, ranges = work.story | work.words, work.ranges(vectors)
                    job = begin(how, ranges=ranges, environment=environment())
                job.add(texts, job.packing.pack(vectors))
                bar.advance(len(texts))
        work.check_unchanged()
        assert job is not None, "a text without lines is refused where it is read"
        return job.finish()
    except BaseException as stop:
        if not isinstance(stop, Exception) and work.survey and job:
            progress.say(f"stopped: {job.rows:,} vectors are kept, and the same command goes on from there")
        raise
    finally:
        if job:
            job.close()


class _Work:
    """Texts read and made into vectors, and the words that tell this work from any other."""

    def __init__(self, text: str | Path, model: str | Path, settings: _Settings) -> None:
        self.text, self._settings = text, settings
        loaded = load(model)
        self._fingerprint = reader_fingerprint(loaded)
        self._embedder = Embedder(loaded, **to_plain(settings.reader))
        self._embedder.warns_once = True
        self.survey = survey(text)
        if self.survey is None:
            progress.say("the text can be read only once: a job that is stopped will have to begin anew")
        self._settle()
        self.story = {
            "polyseme": version("polyseme"),
            "torch": environment()["torch"],
            "model_name": str(model),
            "text_name": str(text),
        }

    def blocks(self, *, skip: int) -> Iterator[tuple[list[str], Vectors]]:
        """The texts from number `skip` on with their vectors, block by block."""
        lines = read_lines(self.text, self._reading())
        for block in _blocks(itertools.islice(lines, skip, None)):
            yield block, self._vectors(block)

    def ranges(self, first: Vectors) -> Vectors | None:
        """The ranges of int8, from the sample that was named or from the first block's vectors."""
        output = self._settings.output
        if output.output_precision != "int8":
            return None
        if output.calibration is None:
            return ranges_of(first)
        sample = _blocks(read_lines(output.calibration, self._reading()))
        return ranges_of(np.concatenate([ranges_of(self._vectors(block)) for block in sample]))

    def say_what_is_new(self, job: Job) -> None:
        """Where the job goes on, and what may change the last bits of its numbers."""
        progress.say(f"going on behind {job.rows:,} vectors that are done")
        for name, now in environment().items():
            if (then := job.about.environment.get(name)) != now:
                progress.warn(
                    f"{name} was {then} and is {now}: the job goes on, but not bit for bit as it would have"
                )

    def check_unchanged(self) -> None:
        """Refuse vectors of a text that was changed while it was read."""
        if self.survey and not self.survey.unchanged:
            raise DataError(f"{self.text} was changed while it was read; begin anew with --replace")

    def _settle(self) -> None:
        """Let the beginning of the text decide whether the precision will do, wherever the job goes on."""
        if self.survey is not None:
            first = next(_blocks(read_lines(self.text, self._reading(), announce=False)))
            self._embedder.settle(self._embedder.read(list(dict.fromkeys(first))))

    def _vectors(self, texts: list[str]) -> Vectors:
        """One vector a text; what stands there twice is computed once."""
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = self._embedder.sentences(list(numbers))
        return vectors[[numbers[text] for text in texts]]

    def _reading(self) -> TextSettings:
        reader = self._settings.reader
        return TextSettings(
            field=reader.field,
            encoding=reader.encoding,
            errors=reader.errors,
            **to_plain(self._settings.table),
        )

    @property
    def words(self) -> dict[str, Any]:
        """What decides the bytes of the file: another value of any of these makes another file."""
        embedder, reader, output = self._embedder, self._settings.reader, self._settings.output
        sample = survey(output.calibration) if output.calibration is not None else None
        return {
            "text": self.survey.sha256 if self.survey else None,
            "model": self._fingerprint,
            "layers": reader.layers or "-1",
            "pooling": embedder.pooling,
            "normalize": embedder.normalize,
            "long_texts": "truncate" if embedder.truncates else "windows",
            "max_length": embedder.max_length,
            "precision": embedder.precision,
            "batch_tokens": reader.batch_tokens,
            "field": reader.field,
            "encoding": reader.encoding,
            "errors": reader.errors,
            "table": to_plain(self._settings.table),
            "dimensions": embedder.width,
            "own_dimensions": reader.dimensions is None,
            "prompt": embedder.prompt,
            "keep_special_tokens": list(embedder.tokenizer.kept),
            "output_precision": output.output_precision,
            "calibration": sample.sha256 if sample else None,
            "block": [_TEXTS, _CHARACTERS],
        }


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    characters = 0
    for line in lines:
        block.append(line)
        characters += len(line)
        if len(block) == _TEXTS or characters >= _CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block
