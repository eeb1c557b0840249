"""Vocabularies learned from text: the same text and settings give the same bytes, always."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, groupby
from typing import Any

import tokenizers

from polyseme import progress
from polyseme.errors import DataError
from polyseme.records import Record
from polyseme.text.counting import count_words
from polyseme.text.frames import FRAMES, FrameName
from polyseme.text.merges import Merge, learn_merges, tokens_of
from polyseme.text.pipelines import (
    Kind,
    bpe_model,
    definition,
    lookup_model,
    normalizer,
    unigram_model,
    wordpiece_model,
)
from polyseme.text.sequences import check_texts
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.unigram import learn_pieces
from polyseme.text.words import word_cutter

Words = Counter[str]


class LearningSettings(Record, frozen=True, kw_only=True):
    """What vocabulary to learn."""

    kind: Kind = "wordpiece"
    """wordpiece, bpe, byte-bpe, unigram, characters, or words; WordPiece sets Chinese characters apart."""
    vocab_size: int = 8000
    """Tokens in all, special ones included; fewer if the text does not give as many."""
    lowercase: bool = True
    """Write everything in lower case."""
    strip_accents: bool | None = None
    """Drop accents and other marks; None does so where `lowercase` does."""
    min_count: int = 2
    """How often a character, a pair to merge, or a word must occur at least."""
    words: str = "rjieba"
    """Cuts words for bpe, byte-bpe, unigram and words: rjieba, jieba, blanks, characters, "module:name"."""
    dictionary: str | None = None
    """A file of words that rjieba and jieba shall know."""
    max_words: int = 1_000_000
    """How many distinct words are counted at a time; the rarest are forgotten when there are more."""
    padding_token: str = "[PAD]"
    """What fills a row up; an empty word for none, as for each of the four below."""
    unknown_token: str = "[UNK]"
    """What stands for a character that the vocabulary lacks; only byte-bpe can do without."""
    first_token: str = "[CLS]"
    """What stands before a text."""
    separator_token: str = "[SEP]"
    """What stands after each text of a row."""
    mask_token: str = "[MASK]"
    """What stands for a hidden token."""
    frame: FrameName = "around"
    """Where they stand: around ([CLS] A [SEP], as BERT), doubled (<s> A </s></s> B </s>, RoBERTa), behind
    (A [SEP] [CLS], XLNet), end (A </s>, T5), or none (GPT)."""
    sentinels: int = 0
    """Number of tokens <extra_id_0>, <extra_id_1> … that stand for hidden spans, for span corruption (T5:
    100). They are a part of vocab_size and lie at its end, the first one last."""

    def __post_init__(self) -> None:
        tokens = list(self.special_tokens.values())
        if len(set(tokens)) < len(tokens) or not all(token.strip() == token for token in tokens):
            raise ValueError(f"the special tokens must differ and have no blanks around, got {tokens}")
        if not self.unknown_token and self.kind != "byte-bpe":
            raise ValueError(f"{self.kind} needs an unknown_token; only byte-bpe can spell every text")
        for role in sorted({*chain(*FRAMES[self.frame])} - self.special_tokens.keys()):
            raise ValueError(f"frame {self.frame!r} needs a {role}_token; name it, or choose frame none")
        if self.sentinels < 0:
            raise ValueError(f"sentinels must be at least 0, got {self.sentinels}")
        for name in ("min_count", "max_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        least = len(tokens) + self.sentinels + (256 if self.kind == "byte-bpe" else 1)
        if self.vocab_size < least:
            raise ValueError(
                f"vocab_size must be at least {least} for {self.kind} "
                f"({len(tokens) + self.sentinels} special tokens and what to spell with), "
                f"got {self.vocab_size}"
            )

    @property
    def special_tokens(self) -> dict[str, str]:
        """Role to token, in the order of their ids; those that are absent are left out."""
        roles = ("padding", "unknown", "first", "separator", "mask")
        return {role: token for role in roles if (token := getattr(self, f"{role}_token"))}

    @property
    def sentinel_tokens(self) -> list[str]:
        """In the order of their ids."""
        return [f"<extra_id_{number}>" for number in reversed(range(self.sentinels))]


def learn(texts: Iterable[str], settings: LearningSettings | None = None) -> Tokenizer:
    """A tokenizer whose vocabulary comes from `texts`, which may be streamed and of any size.

    Ids: special tokens, then single characters, the most frequent first, then longer tokens in the order
    in which they were learned, then sentinels. Of what is equally frequent, the first by code points comes
    first. Every character that occurs `min_count` times is kept as far as `vocab_size` allows.

    >>> tokenizer = learn(["深度学习", "学习", "deep learning"], LearningSettings(min_count=1))
    >>> tokenizer.tokens(tokenizer.encode("学习 deep").ids)
    ['学', '习', 'deep']
    """
    settings = settings or LearningSettings()
    if isinstance(texts, str):
        check_texts(texts)
    kind, special = settings.kind, settings.special_tokens
    rules = normalizer(kind, lowercase=settings.lowercase, strip_accents=settings.strip_accents)
    words = _count(texts, rules, settings)
    if not words:
        raise DataError("the texts hold nothing to learn from: no character that is not blank")
    learned, rest = LEARNERS[kind](words, settings)
    if not learned:
        raise DataError(
            f"nothing in the texts occurs {settings.min_count} times; give more text, or a lower min_count"
        )
    sentinels = settings.sentinel_tokens
    everything = dict.fromkeys([*special.values(), *learned, *sentinels])
    ids = {token: index for index, token in enumerate(everything)}
    model = _model(kind, ids, rest, unknown=settings.unknown_token)
    whole = definition(
        kind, model, roles=special, ids=ids, normalizer=rules, frame=settings.frame, more=sentinels
    )
    return Tokenizer(whole, special)


def _count(texts: Iterable[str], rules: dict[str, Any], settings: LearningSettings) -> Words:
    """The words of the texts as the tokenizer's own normalizer and cut make them."""
    nothing = lookup_model({"": 0}, unknown="")
    steps = tokenizers.Tokenizer.from_str(
        json.dumps(definition(settings.kind, nothing, roles={}, ids={}, normalizer=rules))
    )
    cuts_itself = settings.kind in ("wordpiece", "characters")
    cutter = None if cuts_itself else word_cutter(settings.words, dictionary=settings.dictionary)
    return count_words(texts, steps.normalizer, steps.pre_tokenizer, cutter=cutter, most=settings.max_words)


Learned = tuple[list[str], Any]
"""The tokens in the order of their ids, and what the model needs beside them (merges, scores)."""


def _wordpiece(words: Words, settings: LearningSettings) -> Learned:
    """Pairs are merged by count, as in BPE; the characters inside a word are symbols of their own, "##a"."""
    spelt = {(word[0], *(f"##{character}" for character in word[1:])): n for word, n in words.items()}
    kept = _characters(spelt, settings)
    merges = _merges(spelt, kept, settings, prefix="##")
    return [*kept, *tokens_of(merges, "##")], None


def _bpe(words: Words, settings: LearningSettings) -> Learned:
    spelt: Counter[tuple[str, ...]] = Counter()
    kept = _characters({tuple(word): n for word, n in words.items()}, settings)
    known = set(kept)
    for word, count in words.items():
        # What is not in the vocabulary is unknown and parts what is beside it.
        for inside, part in groupby(word, key=known.__contains__):
            if inside:
                spelt[tuple(part)] += count
    merges = _merges(spelt, kept, settings)
    return [*kept, *tokens_of(merges)], merges


def _byte_bpe(words: Words, settings: LearningSettings) -> Learned:
    """All 256 bytes come first, so that no text is unknown."""
    spelt = {tuple(word): n for word, n in words.items()}
    kept = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(spelt, kept, settings)
    return [*kept, *tokens_of(merges)], merges


def _unigram(words: Words, settings: LearningSettings) -> Learned:
    kept = _characters({tuple(word): n for word, n in words.items()}, settings)
    known = set(kept)
    whole = {word: count for word, count in words.items() if known.issuperset(word)}
    scores = learn_pieces(whole, kept, num_pieces=_room(settings) - len(kept), min_count=settings.min_count)
    longer = sorted(scores.keys() - known, key=lambda piece: (-scores[piece], piece))
    return [*kept, *longer], scores


def _whole(words: Words, settings: LearningSettings) -> Learned:
    """Words, or characters, as they are."""
    return _most_frequent(words, words, settings), None


LEARNERS: dict[Kind, Callable[[Words, LearningSettings], Learned]] = {
    "wordpiece": _wordpiece,
    "bpe": _bpe,
    "byte-bpe": _byte_bpe,
    "unigram": _unigram,
    "characters": _whole,
    "words": _whole,
}


def _model(kind: Kind, ids: dict[str, int], rest: Any, *, unknown: str) -> dict[str, Any]:
    match kind:
        case "wordpiece":
            return wordpiece_model(ids, unknown=unknown)
        case "bpe":
            return bpe_model(ids, rest, unknown=unknown)
        case "byte-bpe":
            return bpe_model(ids, rest, unknown=None)
        case "unigram":
            return unigram_model([(token, rest.get(token, 0.0)) for token in ids], unknown=ids[unknown])
        case "characters" | "words":
            return lookup_model(ids, unknown=unknown)


def _room(settings: LearningSettings) -> int:
    return settings.vocab_size - len(settings.special_tokens) - settings.sentinels


def _characters(spelt: Mapping[tuple[str, ...], int], settings: LearningSettings) -> list[str]:
    """The symbols of one character; a character counts as often as all of its symbols together."""
    symbols: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for word, count in spelt.items():
        for symbol in word:
            symbols[symbol] += count
    for symbol, count in symbols.items():
        characters[symbol[-1]] += count
    return _most_frequent(symbols, {symbol: characters[symbol[-1]] for symbol in symbols}, settings)


def _most_frequent(
    counts: Mapping[str, int], decisive: Mapping[str, int], settings: LearningSettings
) -> list[str]:
    """What is frequent enough by its `decisive` count, ordered by `counts`, as far as there is room."""
    often = [token for token in counts if decisive[token] >= settings.min_count]
    often.sort(key=lambda token: (-counts[token], token))
    room = _room(settings)
    if len(often) > room:
        progress.warn(
            f"{len(often) - room:,} of {len(often):,} tokens that occur {settings.min_count} times do not "
            f"fit into vocab_size={settings.vocab_size:,}; the rarest were left out"
        )
    return often[:room]


def _merges(
    spelt: Mapping[tuple[str, ...], int], kept: list[str], settings: LearningSettings, *, prefix: str = ""
) -> list[Merge]:
    """Merges over the words that can be spelt with what was kept."""
    known = set(kept)
    usable = {word: count for word, count in spelt.items() if len(word) > 1 and known.issuperset(word)}
    room = _room(settings) - len(kept)
    return list(learn_merges(usable, num_tokens=room, min_count=settings.min_count, prefix=prefix))
