"""`prepare`: text, read once, becomes a token store: the same bytes on any number of processes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from polyseme import files, progress
from polyseme.errors import CheckpointError, DataError
from polyseme.integrity import read_checked, write_checked
from polyseme.records import Record, from_flat, to_json, to_plain
from polyseme.text.blocks import Blocks
from polyseme.text.marking import Marker
from polyseme.text.normalising import NormalisingSettings
from polyseme.text.parallel import in_order
from polyseme.text.phrase_counting import count_phrases
from polyseme.text.phrases import PhraseSettings
from polyseme.text.reading import TextSettings
from polyseme.text.sources import fingerprint
from polyseme.text.store import MANIFEST, ORIGIN, Manifest, Mark, Store
from polyseme.text.store_writing import StoreWriter
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.unit_sources import UnitSources, unit_sources

_MUCH_UNKNOWN = 0.01


class PrepareSettings(Record, frozen=True):
    """How text becomes a store. All but `workers` changes the result."""

    tokenizer: str
    """The folder of the tokenizer, or its `tokenizer.json` or `vocab.txt`."""
    words: str = "rjieba"
    """What cuts words: rjieba, jieba, blanks, characters, "module:callable"; none: no word marks."""
    dictionary: str | None = None
    """A file of words that rjieba and jieba shall know, one a line."""
    phrases: str = "none"
    """What marks phrases: a file of them, one a line; markup: {{phrase}} in the text, brackets left out;
    statistics: words that stand together often; none: no phrase marks."""
    entities: str = "none"
    """What marks entities: a file of them, one a line; markup: [[entity]] in the text, brackets left out."""
    statistics: PhraseSettings = PhraseSettings()
    turns: bool = False
    """Each line of a document (of JSON lines: each text of the list) is a turn of a dialogue."""
    sentences: bool = True
    """Cut lines into sentences; otherwise each line is one sentence."""
    text: TextSettings = TextSettings()
    normalising: NormalisingSettings = NormalisingSettings()
    workers: int = 1
    """The number of processes; the result is the same for any."""
    shard_tokens: int = 1 << 27
    """The number of tokens of a shard."""

    def __post_init__(self) -> None:
        for name in ("workers", "shard_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.words == "none" and self.dictionary is not None:
            raise ValueError('words="none" takes no dictionary')
        for name in ("phrases", "entities"):
            if self.words == "none" and getattr(self, name) != "none":
                raise ValueError(f'{name} are made of words, and words is "none"; choose a word cutter')
        if self.entities == "statistics":
            raise ValueError("entities cannot be told by statistics; name a file of them, or markup")


def prepare(
    texts: Sequence[str | Path],
    *,
    tokenizer: str | Path,
    out: str | Path,
    workers: int = 1,
    **options: Any,
) -> Store:
    """Read text once into a token store in the folder `out`, which appears when it is complete.

    A store that the same call wrote before is left alone.

    `texts` are files, folders, globs or "-"; `options` are the fields of `PrepareSettings`, and those of
    `TextSettings`, `NormalisingSettings` and `PhraseSettings` by their own names (`encoding="gb18030"`,
    `nfkc=True`). Raises `DataError` if the text cannot be read, has no token, or `out` exists.

    >>> store = prepare(["wiki.txt"], tokenizer="vocab", out="wiki.store", workers=2)  # doctest: +SKIP
    """
    named = {"tokenizer": tokenizer, "workers": workers, **options}
    settings = from_flat(named, PrepareSettings, where="prepare")
    return prepare_with(settings, texts, Path(out))


def prepare_with(settings: PrepareSettings, texts: Sequence[str | Path], out: Path) -> Store:
    """`prepare` for settings that are already a record."""
    tokenizer = Tokenizer.load(settings.tokenizer)
    if (there := _already_prepared(settings, tokenizer, texts, out)) is not None:
        progress.say(f"{out} is prepared already, from this text with these settings")
        return there
    with files.whole_folder(out) as building:
        origin = _origin(settings, texts)
        tokenizer.save(building / "tokenizer")
        manifest = _write(building, tokenizer, settings, texts)
        if not manifest.num_tokens:
            raise DataError(
                f"{', '.join(map(str, texts))}: no token in all the text; "
                "check the files and their format, nothing was written"
            )
        if origin is not None:
            write_checked(building / ORIGIN, to_json(origin))
    _tell(manifest)
    return Store.open(out)


def _write(
    folder: Path, tokenizer: Tokenizer, settings: PrepareSettings, texts: Sequence[str | Path]
) -> Manifest:
    units = _units(settings, texts)
    blocks = Blocks(texts, settings.text, settings.normalising, turns=settings.turns)
    make = functools.partial(
        Marker,
        folder / "tokenizer",
        words=None if settings.words == "none" else settings.words,
        dictionary=settings.dictionary,
        sentences=settings.sentences,
        normalising=settings.normalising,
        units=units,
    )
    unknown_id = tokenizer.unknown_id if "unknown" in tokenizer.special_tokens else None
    with (
        StoreWriter(
            folder,
            vocab_size=tokenizer.vocab_size,
            unknown_id=unknown_id,
            shard_tokens=settings.shard_tokens,
        ) as writer,
        progress.bar("prepare", total=blocks.num_bytes, unit="B") as bar,
        contextlib.closing(in_order(make, blocks, workers=settings.workers)) as results,
    ):
        last = (0, 0)
        read = characters = 0
        for marked in results:
            characters += marked.num_characters
            if len(marked.ids):
                writer.add(marked.ids, marked.marks_after(last))
                last = marked.last
            bar.advance(marked.bytes_read - read, tokens=f"{writer.num_tokens:,}")
            read = marked.bytes_read
        return writer.finish(settings=_kept(settings, tokenizer), num_characters=characters)


def _units(settings: PrepareSettings, texts: Sequence[str | Path]) -> UnitSources:
    """What marks phrases and entities; statistics are taken now, in readings of their own."""
    by_statistics = settings.phrases == "statistics"
    phrases = "none" if by_statistics else settings.phrases
    units = unit_sources(phrases, settings.entities, settings.normalising)
    if not by_statistics:
        return units
    table = count_phrases(
        texts,
        settings.statistics,
        text=settings.text,
        normalising=settings.normalising,
        words=settings.words,
        dictionary=settings.dictionary,
        markup=units.markup,
        workers=settings.workers,
    )
    return UnitSources(table, units.entities)


def _kept(settings: PrepareSettings, tokenizer: Tokenizer) -> dict[str, Any]:
    """The settings as the manifest keeps them: content instead of paths, and nothing of speed."""
    kept = to_plain(settings)
    for name in ("workers", "shard_tokens"):
        del kept[name]
    kept["tokenizer"] = hashlib.sha256(tokenizer.files()["tokenizer.json"]).hexdigest()
    if settings.dictionary is not None:
        kept["dictionary"] = files.sha256(Path(settings.dictionary))
    if settings.phrases != "statistics":
        del kept["statistics"]
    for name in ("phrases", "entities"):
        if kept[name] not in ("none", "markup", "statistics"):
            kept[name] = files.sha256(Path(kept[name]))
    return kept


def _origin(settings: PrepareSettings, texts: Sequence[str | Path]) -> dict[str, Any] | None:
    """What tells whether a store was made of this text, beside its settings; None where it is read only once.

    It stands in a file of its own: the manifest tells only what the store is, however its text was packed.
    """
    content = fingerprint(texts)
    return None if content is None else {"texts": content, "shard_tokens": settings.shard_tokens}


def _already_prepared(
    settings: PrepareSettings, tokenizer: Tokenizer, texts: Sequence[str | Path], out: Path
) -> Store | None:
    """The store in `out`, where the same command wrote it before."""
    if not (out / ORIGIN).is_file() or not (out / MANIFEST).is_file():
        return None
    try:
        store, origin = Store.open(out), msgspec.json.decode(read_checked(out / ORIGIN))
    except CheckpointError:
        return None  # damaged, or of another version: in the way, as anything else
    if msgspec.json.decode(msgspec.json.encode(_kept(settings, tokenizer))) != store.manifest.settings:
        return None
    return store if origin == _origin(settings, texts) else None


def _tell(manifest: Manifest) -> None:
    share = manifest.num_unknown / manifest.num_tokens
    words = f"{manifest.num_words:,} words, " if Mark.WORD.name in manifest.marks else ""
    progress.say(
        f"{manifest.num_tokens:,} tokens, {words}{manifest.num_sentences:,} sentences, "
        f"{manifest.num_documents:,} documents; {share:.2%} of the tokens are unknown"
    )
    if share > _MUCH_UNKNOWN:
        progress.warn(
            f"{share:.1%} of the tokens are unknown to this tokenizer; learn one from this text "
            "with `polyseme tokenizer learn`, or check --encoding"
        )
