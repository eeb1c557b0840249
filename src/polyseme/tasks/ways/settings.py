"""What a user chooses about the ways of fine-tuning; torch-free for the help."""

from typing import Literal

from polyseme.devices import Precision
from polyseme.records import Record

LARGEST = 1e30
"""Of rates: far above every useful value, and far below where single precision overflows."""


class RateSettings(Record, frozen=True, kw_only=True):
    """Who learns how fast, and when."""

    embedding_learning_rate: float | None = None
    """Of the embeddings; None: as the layers say."""
    head_learning_rate: float | None = None
    """Of all that is new; None: as the layers, and 1e-3 while those rest."""
    layer_decay: float = 1.0
    """Each layer's rate is that of the layer above it times this; the highest one's, the head's."""
    warmup: float = 0.1
    """Steps of warm-up: below 1 a share of all steps, else their number."""
    schedule: Literal["linear", "cosine", "constant", "warmup-times-linear", "slanted-triangular"] = "linear"
    """How the learning rates go after the warm-up; slanted triangles are ULMFiT's."""

    def __post_init__(self) -> None:
        for name in ("embedding_learning_rate", "head_learning_rate", "warmup"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
            if value is not None and value > LARGEST:
                raise ValueError(f"{name} must be at most {LARGEST:g}, got {value}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie above 0 and up to 1, got {self.layer_decay}")


class StageSettings(Record, frozen=True, kw_only=True):
    """How long what is new learns before the rest does."""

    head_epochs: int = 20
    """Head first: the most epochs of the head alone."""
    head_patience: int = 3
    """Head first: the head has learned enough after so many epochs without a better score on dev."""
    stage_epochs: int = 1
    """Gradual: epochs before the next lower layer begins to learn."""

    def __post_init__(self) -> None:
        for name in ("head_epochs", "head_patience", "stage_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class FeatureSettings(Record, frozen=True, kw_only=True):
    """What is read of a frozen network, and by what."""

    layers: str = "-1"
    """Frozen: the layers that are read, 0 the embeddings, -1 the last: one (-2), several side by side
    (-4:-1), or their mean:, sum: or weighted: sum with learned weights (weighted:1:-1)."""
    feature_head: Literal["linear", "cnn", "bilstm"] = "linear"
    """Frozen: what reads the layers before the task's own linear head."""
    filters: int = 100
    """Filters of each of the CNN's three widths."""
    lstm_size: int = 256
    """Numbers in a state of the BiLSTM, in each direction (BERT's table: 768)."""
    lstm_layers: int = 2
    """Layers of the BiLSTM."""
    feature_cache: str | None = None
    """Frozen: a folder that keeps the computed features for later calls; None: they go when the call ends."""
    feature_precision: Literal["fp32", "fp16"] = "fp32"
    """Numbers of the features on disk."""

    def __post_init__(self) -> None:
        for name in ("filters", "lstm_size", "lstm_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


PATTERNS = {
    "review-zh": "{text}总的来说，很{blank}。",
    "news-zh": "下面是一则{blank}新闻：{text}",
    "topic-zh": "{text}这句话说的是{blank}。",
    "pair-zh": "{text}？{blank}，{pair}",
    "review": "{text} All in all, it was {blank}.",
    "news": "{blank} News: {text}",
    "pair": "{text}? {blank}, {pair}",
}
"""Texts with a blank, by name; the English ones are those of Schick and Schütze 2021, section 4."""


class FillingSettings(Record, frozen=True, kw_only=True):
    """A blank whose filling is the label."""

    pattern: str | None = None
    """Filling: what is read, with {text}, {blank} and for pairs {pair}; or review-zh, news-zh, topic-zh,
    pair-zh, review, news, pair."""
    label_words: tuple[str, ...] = ()
    """Filling: what stands in the blank for a label, as LABEL=WORD; the others stand there themselves."""

    def __post_init__(self) -> None:
        written = self.written
        if written is not None and (written.count("{blank}") != 1 or written.count("{text}") != 1):
            raise ValueError(
                f"pattern {self.pattern!r} must hold {{text}} and {{blank}} once each; "
                f"write it so, or name one of {', '.join(PATTERNS)}"
            )
        for entry in self.label_words:
            if not all(entry.partition("=")):
                raise ValueError(f"label_words {entry!r} is not LABEL=WORD")

    @property
    def written(self) -> str | None:
        """The pattern itself, where a name was given."""
        return None if self.pattern is None else PATTERNS.get(self.pattern, self.pattern)


class SubsetSettings(Record, frozen=True, kw_only=True):
    """A part of the training examples."""

    share: float | None = None
    """Use only this share of the training texts, each label alike."""
    limit: int | None = None
    """Use only so many training texts, each label alike."""
    subset_seed: int = 0
    """Chooses the texts of `share` and `limit`, apart from `seeds`, so that all runs see the same ones."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share must lie above 0 and up to 1, got {self.share}")
        if self.share is not None and self.limit is not None:
            raise ValueError("share and limit exclude each other; give one")


class MachineSettings(Record, frozen=True, kw_only=True):
    """Where and how to compute."""

    precision: Precision = "auto"
    """Numbers of the matrix products; auto takes bf16 where the hardware has it."""
    device: str = "auto"
    """Where to compute: cpu, cuda …; auto takes a GPU where there is one."""
    threads: int | None = None
    """Threads of the processor; None: as many as torch uses (`OMP_NUM_THREADS`), at most one a core."""
    batch_tokens: int = 8192
    """Tokens computed at once when answering, padding included."""
    memory: str | None = None
    """Fit into so much memory (11G, 800M): smaller parts of a batch, then layers computed twice, then
    frozen features; what a step learns from stays the same."""

    def __post_init__(self) -> None:
        for name in ("threads", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.memory is not None:
            in_bytes(self.memory)


def in_bytes(written: str) -> int:
    """A size such as 11G or 800M, in units of 1024.

    >>> in_bytes("1.5K")
    1536
    """
    number, unit = written[:-1], written[-1:].upper()
    try:
        size = float(number) * 1024 ** (1 + "KMGT".index(unit)) if unit else 0.0
    except ValueError:
        size = 0.0
    if not 0 < size < 2**63:
        raise ValueError(f"memory must be a size such as 11G or 800M, got {written!r}")
    return int(size)


class DataSettings(Record, frozen=True, kw_only=True):
    """How examples are taken from the files."""

    skip_bad: bool = False
    """Leave out examples that do not fit, count and list them, instead of stopping at the first."""
    keep_special_tokens: tuple[str, ...] = ()
    """Special tokens that are recognised in the texts, such as the entity markers [E1] and [/E1], also when
    the fine-tuned model is used. All others are read as ordinary characters."""


class SavingSettings(Record, frozen=True, kw_only=True):
    """How often a run keeps its exact state, from which the same command goes on."""

    save_every: float = 5.0
    """Minutes between two saved states."""
    save_steps: int | None = None
    """Steps between two saved states, instead of minutes."""
    skip_non_finite_steps: int = 0
    """How many steps of a seed may be skipped because their loss or gradient is NaN or infinite; the next
    such step stops it, and its last saved state is kept. 0: the first one does."""

    def __post_init__(self) -> None:
        if self.skip_non_finite_steps < 0:
            raise ValueError(f"skip_non_finite_steps must not be negative, got {self.skip_non_finite_steps}")
        if self.save_every <= 0 or (self.save_steps is not None and self.save_steps < 1):
            raise ValueError(
                f"save_every and save_steps must be above 0, got {self.save_every} and {self.save_steps}"
            )
