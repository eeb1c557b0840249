"""What a user chooses about perplexity; torch-free for the help."""

from typing import Literal

from polyseme.devices import Precision
from polyseme.records import Record
from polyseme.text.reading import TextSettings


class PerplexitySettings(Record, frozen=True, kw_only=True):
    """How a text is scored."""

    hide: Literal["token", "rest-of-word"] = "token"
    """What a masked model does not see of the token it predicts: the token alone, or also what follows in
    its word, so that the tokens of a rare word do not give each other away."""
    words: str = "rjieba"
    """What cuts words, for the figure per word: rjieba, jieba, blanks, characters, "module:callable"."""
    dictionary: str | None = None
    """A file of words that rjieba and jieba shall know, one a line."""
    most_tokens: int | None = None
    """Stop at the end of the line in which so many tokens are reached. None: the whole text."""
    max_length: int | None = None
    """Tokens that the model reads at once, special ones included; at most as many as it has positions."""
    text: TextSettings = TextSettings()
    """How the text is read."""
    precision: Precision = "fp32"
    """Numbers of the matrix products; bf16 is faster and agrees to about three digits."""
    batch_tokens: int = 8192
    """Tokens computed at once, padding included."""
    threads: int | None = None
    """Threads of the processor; None: as many as torch uses (`OMP_NUM_THREADS`), at most one a core."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1 …; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        for name in ("most_tokens", "batch_tokens", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.max_length is not None and self.max_length < 3:
            raise ValueError(f"max_length must be at least 3, special tokens included, got {self.max_length}")
