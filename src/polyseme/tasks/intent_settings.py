"""What a user chooses about intents and slots; torch-free for the help."""

from typing import Literal

from polyseme.records import Record


class UtteranceSettings(Record, frozen=True, kw_only=True):
    """How utterances with intents and slots are read."""

    format: Literal["auto", "parallel", "columns", "json", "text"] = "auto"
    """parallel: a folder with seq.in, seq.out and label; columns: a word and its slot a line, the intent on
    the last line, a blank line between utterances; json: an object an utterance; text: an utterance a line,
    to be answered; auto tells by name and content."""
    slot_column: int = 1
    """Of `columns`, the column of the slots, from 0."""
    several: bool = False
    """An utterance may have several intents, each answered by itself; otherwise `a#b` is one intent."""
    separator: str = "#"
    """What stands between several intents."""
    skip_label: str | None = None
    """Leave out the utterances with this intent, such as - where there is none; none: - and -1 are intents
    like any other."""
    unseen: Literal["refuse", "miss"] = "refuse"
    """What to do with an intent or slot that no training utterance has: name its line and stop, or count it
    as missed, as published scores do."""
    pooling: Literal["pooler", "first", "mean", "last"] | None = None
    """What the intent is read from; usually the pooler where the model has one, else the mean."""
    encoding: str = "utf-8"
    """Encoding of the files, or `auto`."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not in the encoding."""

    def __post_init__(self) -> None:
        if not self.separator:
            raise ValueError("separator must not be empty")
        if self.slot_column < 1:
            raise ValueError(
                f"slot_column must be at least 1, got {self.slot_column}; column 0 has the words"
            )


class IntentSettings(UtteranceSettings, frozen=True, kw_only=True):
    """How intents and slots are read and learned together."""

    slot_weight: float = 1.0
    """What the loss of the slots counts beside that of the intents."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slot_weight < 0:
            raise ValueError(f"slot_weight must not be negative, got {self.slot_weight}")


class FusedIntentSettings(UtteranceSettings, frozen=True, kw_only=True):
    """How an intent is learned from an utterance and the slots that are known of it."""

    tagger: str | None = None
    """The folder of a model of tagging or of intents that says the slots, in training as in answering; None:
    the files say them."""
    label_dropout: float = 0.1
    """In training, the share of words whose slot is hidden, since nobody knows every slot later."""
    label_size: int = 64
    """Numbers of a slot label's vector."""
    attention_size: int = 64
    """Numbers by which queries and labels are compared."""
    fusion: Literal["beside", "added"] = "beside"
    """What was found of the labels stands beside each state, or is added to it and normed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must lie in [0, 1), got {self.label_dropout}")
        if self.label_size < 1 or self.attention_size < 1:
            raise ValueError("label_size and attention_size must be at least 1")
