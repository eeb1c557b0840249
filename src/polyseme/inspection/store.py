"""What a token store holds: counts, marks, frequent and unknown tokens, a look at its text."""

from pathlib import Path

import numpy as np

from polyseme.records import Record
from polyseme.seeding import generator
from polyseme.text.store import Mark, Store

SAMPLE_TOKENS = 60


class StoreSummary(Record, frozen=True, kw_only=True):
    """A store in numbers."""

    folder: str
    fingerprint: str
    bytes: int
    """Of all its files."""
    tokens: int
    words: int
    sentences: int
    documents: int
    characters: int
    vocab_size: int
    used: int
    """Tokens of the vocabulary that occur."""
    marks: list[str]
    unknown_share: float
    """Share of the tokens that the tokenizer does not know."""
    frequent: list[tuple[str, int]]
    """The most frequent tokens and how often they occur."""
    samples: list[str]
    """How some documents begin: tokens of a word together, words of a phrase joined by « · », those of an
    entity by « ‿ »."""


def show_store(store: str | Path, *, samples: int = 3, frequent: int = 20, seed: int = 0) -> StoreSummary:
    """A summary of a store, without reading more of it than the samples.

    >>> show_store("wiki.store").documents  # doctest: +SKIP
    1024
    """
    opened = Store.open(store)
    manifest = opened.manifest
    counts = opened.counts.astype(np.int64)
    order = np.argsort(-counts, kind="stable")[:frequent]
    chosen = generator(seed, "samples").permutation(opened.num_documents)[:samples]
    return StoreSummary(
        folder=str(store),
        fingerprint=opened.fingerprint,
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        tokens=opened.num_tokens,
        words=opened.num_words,
        sentences=opened.num_sentences,
        documents=opened.num_documents,
        characters=manifest.num_characters,
        vocab_size=opened.vocab_size,
        used=int((counts > 0).sum()),
        marks=list(manifest.marks),
        unknown_share=manifest.num_unknown / max(1, opened.num_tokens),
        frequent=[(opened.tokenizer.vocabulary[i], int(counts[i])) for i in order if counts[i]],
        samples=[_begin(opened, int(document)) for document in chosen],
    )


def _begin(store: Store, document: int) -> str:
    """The first tokens of a document, a blank between words, « | » between sentences."""
    start, end = (int(border) for border in store.document_starts[document : document + 2])
    ids, marks = store.gather(np.array([start]), np.array([min(end, start + SAMPLE_TOKENS)]))
    pieces: list[str] = []
    for token, bits in zip(store.tokenizer.tokens(ids), marks.tolist(), strict=True):
        if pieces and bits & Mark.SENTENCE:
            pieces.append(" | ")
        elif pieces and bits & Mark.WORD:
            pieces.append(_between(bits, store.marks_present))
        pieces.append(token.removeprefix("##"))
    return "".join(pieces) + (" …" if end - start > SAMPLE_TOKENS else "")


def _between(bits: int, present: Mark) -> str:
    """What stands before a word: a blank, or what says that a phrase or an entity goes on."""
    if Mark.ENTITY in present and not bits & Mark.ENTITY:
        return "‿"
    return "·" if Mark.PHRASE in present and not bits & Mark.PHRASE else " "
