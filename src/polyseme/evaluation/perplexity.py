"""How well a model predicts held-out text: perplexity, and pseudo-perplexity for masked models."""

import math
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polyseme import progress
from polyseme.checkpoints.hub import resolve
from polyseme.checkpoints.loading import heads_in, load
from polyseme.errors import CheckpointError, NotFiniteError
from polyseme.evaluation.causal_scores import CausalScorer
from polyseme.evaluation.masked_scores import MaskedScorer
from polyseme.evaluation.permutation_scores import PermutationScorer
from polyseme.evaluation.scoring import Scorer
from polyseme.evaluation.segment_scores import SegmentScorer
from polyseme.evaluation.settings import PerplexitySettings
from polyseme.evaluation.tokenized import TokenizedText, tokenized
from polyseme.evaluation.written_scores import SpanScorer
from polyseme.records import Record, from_flat
from polyseme.threads import default_threads, torch_threads

SCORERS: dict[str, type[Scorer]] = {
    "masked-lm": MaskedScorer,
    "causal-lm": CausalScorer,
    "seq2seq-lm": SpanScorer,
    "permutation-lm": PermutationScorer,
    "adaptive-lm": SegmentScorer,
}
"""By the head that predicts the tokens; of several in a model the first here is asked."""


class Perplexity(Record, frozen=True, kw_only=True):
    """What a text costs a model. Two models may be compared by the same kind of figure on the same text.

    A figure per token depends on the vocabulary: who cuts words into more tokens has easier ones. Those per
    word and per character do not, as long as few tokens are unknown, which a model gets for less than they
    are worth. A pseudo-perplexity sees both sides of a token and is never comparable to a perplexity.
    """

    kind: Literal["perplexity", "pseudo-perplexity"]
    per_token: float
    """e to the power of the nats per token."""
    per_word: float
    per_character: float
    """Blanks are not counted."""
    bits_per_character: float
    nats: float
    """−log p of all tokens together."""
    tokens: int
    """Those that were predicted; special ones are not."""
    words: int
    characters: int
    documents: int
    unknown: int
    """Tokens that stand for what the vocabulary lacks."""


def perplexity(file: str | Path, *, model: str | Path, **options: Any) -> Perplexity:
    """The perplexity of a model on a text file, pseudo-perplexity where the model is a masked one or writes
    hidden spans; of a file of pairs, for a model that rewrites, that of the second texts given the first.

    Every document is read from its own beginning; documents longer than the model by overlapping windows,
    each token in the one that shows it the most context. A masked model computes one row for each token, so
    that a text of n documents of length l costs l passes over it: `most_tokens` stops earlier. `options` are
    the fields of `PerplexitySettings` and of `TextSettings` by their own names.

    >>> perplexity("held-out.txt", model="models/mini").per_character  # doctest: +SKIP
    7.31
    """
    settings = from_flat(options, PerplexitySettings, where="perplexity")
    with torch_threads(settings.threads or default_threads()):
        return _perplexity(file, model, settings)


def _perplexity(file: str | Path, model: str | Path, settings: PerplexitySettings) -> Perplexity:
    folder = resolve(model)
    head = _head(folder)
    scorer = SCORERS[head].of(load(folder, heads=[head]), settings)
    texts = tokenized(file, scorer.tokenizer, settings, pairs=scorer.reads_pairs)
    total, done = 0.0, 0
    with progress.bar("perplexity", total=sum(len(text.ids) for text in texts), unit="tokens") as work:
        for nats in scorer.nats(texts):
            if not np.isfinite(nats).all():
                raise NotFiniteError(_first_not_finite(scorer, texts))
            total, done = total + float(nats.sum()), done + len(nats)
            work.advance(len(nats), per_token=_exp(total / done))
    known = "unknown" in scorer.tokenizer.special_tokens
    unknown = scorer.tokenizer.unknown_id if known else -1
    return _report(texts, scorer.kind, nats=total, tokens=done, unknown_id=unknown)


def _first_not_finite(scorer: Scorer, texts: list[TokenizedText]) -> str:
    """Which document it is, found by asking for each alone."""

    def is_finite(text: TokenizedText) -> bool:
        return all(np.isfinite(nats).all() for nats in scorer.nats([text]))

    number = next((number for number, text in enumerate(texts, 1) if not is_finite(text)), None)
    which = "a document" if number is None else f"document {number}"
    return (
        f"the loss of {which} is not finite; the model's weights are damaged, or too large for this "
        "precision (try --precision fp32)"
    )


def _report(
    texts: list[TokenizedText],
    kind: Literal["perplexity", "pseudo-perplexity"],
    *,
    nats: float,
    tokens: int,
    unknown_id: int,
) -> Perplexity:
    words = sum(text.num_words for text in texts)
    characters = sum(text.num_characters for text in texts)
    return Perplexity(
        kind=kind,
        per_token=_exp(nats / tokens),
        per_word=_exp(nats / max(1, words)),
        per_character=_exp(nats / max(1, characters)),
        bits_per_character=nats / max(1, characters) / math.log(2),
        nats=nats,
        tokens=tokens,
        words=words,
        characters=characters,
        documents=len(texts),
        unknown=sum(int((text.ids == unknown_id).sum()) for text in texts),
    )


def _head(folder: Path) -> str:
    found = heads_in(folder)
    for head in SCORERS:
        if head in found:
            return head
    raise CheckpointError(
        f"{folder} has no head that predicts tokens ({', '.join(SCORERS)}), only "
        f"{', '.join(found) or 'a backbone'}; name a model as it was pre-trained"
    )


def _exp(value: float) -> float:
    """e^value, and the largest number where that is larger."""
    try:
        return math.exp(value)
    except OverflowError:
        return sys.float_info.max
