"""What a user chooses about finding answers in a passage, among choices, by rank; torch-free for the help."""

from typing import Literal

from polyseme.records import Record
from polyseme.tasks.tables import FileSettings


class ReadingSettings(Record, frozen=True):
    """How questions on passages are read and answered."""

    overlap: int = 128
    """Tokens that neighbouring windows of a long passage share; at most half a window."""
    max_question_length: int = 64
    """Tokens read of a question; the rest is cut."""
    max_answer_length: int = 50
    """The most tokens of an answer."""
    n_best: int = 20
    """How many of the best answers are written, and share the probabilities."""
    no_answer: Literal["auto", "yes", "no"] = "auto"
    """Whether a question may have no answer; auto: if a training question has none."""
    null_threshold: float | None = None
    """How far no answer must lie above the best answer to be given; None: as was best on dev."""
    rule: Literal["auto", "squad1", "squad2", "cmrc", "cjrc"] = "auto"
    """Whose official script scores; auto: by the script of the passages, and whether all have an answer."""
    encoding: str = "utf-8"
    """Encoding of the files, or `auto`."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not in the encoding."""

    def __post_init__(self) -> None:
        for name in ("max_question_length", "max_answer_length", "n_best"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.overlap < 0:
            raise ValueError(f"overlap must not be negative, got {self.overlap}")


class ChoiceSettings(Record, frozen=True):
    """How questions with choices are read and answered."""

    long_texts: Literal["truncate", "windows"] = "truncate"
    """Cut passages longer than the model, or read them by windows, of which a choice's best one counts."""
    overlap: int = 64
    """Tokens that neighbouring windows share; at most half a window."""
    encoding: str = "utf-8"
    """Encoding of the files, or `auto`."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not in the encoding."""

    def __post_init__(self) -> None:
        if self.overlap < 0:
            raise ValueError(f"overlap must not be negative, got {self.overlap}")


class RankingSettings(FileSettings, frozen=True, kw_only=True):
    """How queries and their candidates are read and ranked."""

    query_column: str | None = None
    """Column of the query, by name, or by number from 0 without a header; usually found by its name."""
    candidate_column: str | None = None
    """Column of the candidate."""
    label_column: str | None = None
    """Column of how well the candidate suits: 0 or 1, or a grade from 0 up."""
    skip_label: str | None = None
    """Leave out the pairs with this label, such as - or -1 where there is none."""
    loss: Literal["binary", "softmax"] = "binary"
    """What is learned: whether each pair suits, or which of a query's candidates suit better than others."""
