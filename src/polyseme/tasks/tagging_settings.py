"""What a user chooses about tagging; torch-free for the help."""

from typing import Literal

from polyseme.records import Record


class TaggingSettings(Record, frozen=True):
    """How tagged texts are read, and what the tagger does with them."""

    format: Literal["auto", "columns", "parallel", "json", "text"] = "auto"
    """columns: a word and its tag a line, a blank line between sentences (CoNLL, character files); parallel:
    a file of words beside one of tags, seq.in and seq.out; json: an object a text, by lines or in a list,
    with tokens and tags or with ranges of characters (CLUENER, doccano, Label Studio); text: a text a line,
    to be answered; auto tells by name and content."""
    text_column: str | None = None
    """Column of the words by number from 0, or key of the text or the tokens; usually the first, or found by
    its name."""
    label_column: str | None = None
    """Column of the tags by number from 0, or key of tags or ranges; usually the last, or found by its
    name."""
    scheme: Literal["auto", "bio", "io", "bioes", "bmes", "bilou", "plain"] = "auto"
    """The tags that the network learns, whatever the file has; auto: those of the training file, IO as BIO.
    plain: a class a word, such as parts of speech."""
    tagger: Literal["linear", "crf"] = "linear"
    """Each word's tag by itself, or the best tags of the whole text by a conditional random field."""
    constrained: bool = True
    """The field lets no tags follow each other that the scheme forbids."""
    overlap: float = 0.25
    """Share of a window that the next one sees again, where a text is longer than the model."""
    encoding: str = "utf-8"
    """Encoding of the files, or `auto`."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not in the encoding."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must lie in [0, 1), got {self.overlap}")
