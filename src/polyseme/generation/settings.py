"""What a user chooses about texts that a model writes; torch-free for the help."""

from typing import Literal

from polyseme.devices import Precision
from polyseme.records import Record


class GenerateSettings(Record, frozen=True, kw_only=True):
    """How a text is continued, token by token."""

    strategy: Literal["greedy", "sample", "beam"] = "greedy"
    """greedy: always the likeliest token; sample: by lot; beam: the likeliest of several texts at a time."""
    max_new_tokens: int = 64
    """The most tokens to write."""
    stop: bool = True
    """End where the model writes the separator that ended texts in training; else go on behind it."""
    answers: int = 1
    """Texts for each prompt; greedy has one."""
    temperature: float = 1.0
    """Of sample: below 1 likely tokens become likelier, above 1 all become more alike."""
    top_k: int | None = None
    """Of sample: draw among so many of the likeliest tokens. None: among all."""
    top_p: float | None = None
    """Of sample: draw among the fewest tokens that have this probability together. None: among all."""
    repetition_penalty: float = 1.0
    """What was read or written before is so much less likely: positive scores are divided by it."""
    num_beams: int = 4
    """Of beam: texts that are carried on at a time."""
    length_penalty: float = 1.0
    """Of beam: a text's log probability is divided by its length to this power; above 0 favours long ones."""
    length_rule: Literal["power", "gnmt"] = "power"
    """Of beam: the length is n, the tokens written, or (5 + n) / 6 as Wu et al. 2016 have it."""
    early_stopping: bool = False
    """Of beam: end as soon as num_beams texts have ended; else once none that goes on can be better."""
    seed: int = 0
    """Of sample: the same seed and prompt give the same text, alone and among others."""
    cache: bool = True
    """Keep keys and values of what was read; else all is read again for each token, which gives the same."""
    batch_size: int = 16
    """Texts that are continued at a time."""
    precision: Precision = "fp32"
    """Numbers of the matrix products."""
    device: str = "auto"
    """Where to compute: cpu, cuda …; auto takes a GPU where there is one."""
    threads: int | None = None
    """Threads of the processor; None: as many as torch uses (`OMP_NUM_THREADS`), at most one a core."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "answers", "top_k", "num_beams", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("temperature", "repetition_penalty"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a probability above 0 and up to 1, got {self.top_p}")
        most = {"greedy": 1, "sample": None, "beam": self.num_beams}[self.strategy]
        if most is not None and self.answers > most:
            raise ValueError(
                f"answers {self.answers} is more than the {most} that {self.strategy} finds; "
                "choose strategy sample, or more beams"
            )
        of_sample = {"temperature": 1.0, "top_k": None, "top_p": None}
        if self.strategy != "sample":
            for name, usual in of_sample.items():
                if getattr(self, name) != usual:
                    raise ValueError(
                        f"{name} is for strategy sample, and this is {self.strategy}; change one"
                    )


class FillSettings(Record, frozen=True, kw_only=True):
    """How blanks are filled by a masked model."""

    answers: int = 5
    """Texts to give, the likeliest first."""
    most_tokens: int = 1
    """The most tokens in a blank; with more than 1 all numbers up to it are tried, and texts compared by
    their probability per token."""
    order: Literal["confidence", "left-to-right"] = "confidence"
    """Which of several hidden tokens is told first, and seen when the others are told."""
    width: int = 16
    """Texts that are carried on at a time, where several tokens are hidden."""
    precision: Precision = "fp32"
    """Numbers of the matrix products."""
    device: str = "auto"
    """Where to compute: cpu, cuda …; auto takes a GPU where there is one."""
    threads: int | None = None
    """Threads of the processor; None: as many as torch uses (`OMP_NUM_THREADS`), at most one a core."""

    def __post_init__(self) -> None:
        for name in ("answers", "most_tokens", "width", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
