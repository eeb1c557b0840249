"""What a user chooses about fine-tuning and about reading labelled files; torch-free for the help."""

from typing import Literal

from polyseme.devices import InferencePrecision
from polyseme.records import Record
from polyseme.tasks.tables import FileSettings
from polyseme.tasks.ways.settings import (
    LARGEST,
    DataSettings,
    FeatureSettings,
    FillingSettings,
    MachineSettings,
    RateSettings,
    SavingSettings,
    StageSettings,
    SubsetSettings,
)

Way = Literal["full", "frozen", "head-first", "gradual", "filling"]


class ColumnSettings(FileSettings, frozen=True, kw_only=True):
    """Where a file of texts has what."""

    text_column: str | None = None
    """Column of the text, by name, or by number from 0 without a header; usually found by its name."""
    pair_column: str | None = None
    """Column of the second text of a pair."""
    label_column: str | None = None
    """Column of the label; without a header the last one."""
    skip_label: str | None = None
    """Leave out the examples with this label, such as - or -1 where annotators did not agree; none: - and -1
    are labels like any other."""


class WholeTextSettings(ColumnSettings, frozen=True, kw_only=True):
    """How texts and pairs of texts are read by columns, and by the network."""

    long_texts: Literal["truncate", "windows"] = "truncate"
    """Cut texts longer than the model, or read them by windows and average what they say. Pairs are cut."""
    pooling: Literal["pooler", "first", "mean", "last"] | None = None
    """What the head reads; usually the pooler where the model has one, else the mean; the last token in
    models that read from the left."""


class ClassificationSettings(WholeTextSettings, frozen=True, kw_only=True):
    """How labelled texts are read and classified."""

    several: bool = False
    """Each text may have several labels, or none."""
    separator: str | None = None
    """What stands between several labels; usually |, and # in doccano's CSV. JSON lines may have a list."""
    label_first: bool = False
    """Each line is a label, a blank and the text, as in SST and TREC, or begins with one or several
    __label__NAME, as in fastText's files, which are known by that."""
    label_until: str | None = None
    """A label counts only up to this sign: of TREC's DESC:manner, with ":", DESC."""
    label_smoothing: float = 0.0
    """Share of the target that goes to all labels alike."""
    lm_weight: float = 0.0
    """What predicting the text's own next tokens counts beside the labels, in models that read from the
    left (GPT: 0.5); 0 for not at all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.separator == "":
            raise ValueError("separator must not be empty")
        if self.label_until == "":
            raise ValueError("label_until must not be empty")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        if self.lm_weight < 0:
            raise ValueError(f"lm_weight must not be negative, got {self.lm_weight}")


class RegressionSettings(WholeTextSettings, frozen=True, kw_only=True):
    """How scored texts are read; the column of the score is --label-column."""


class FinetuneSettings(Record, frozen=True):
    """How a model is fine-tuned."""

    preset: str | None = None
    """A published fine-tuning: bert, bert-features, elmo-features, textcnn, ulmfit, electra, gpt, head-first
    or pet; what is said beside it goes before."""
    way: Way = "full"
    """What learns when: all at once (full); what reads the features of a frozen network; the new head
    first, then all; the layers one after the other, from above (gradual); all at once, but the label fills
    a blank, for few examples (filling)."""
    learning_rate: float = 1e-4
    """Of the layers, at its highest."""
    epochs: int = 4
    """Times that every training text is seen; the best epoch on dev is kept."""
    batch_size: int = 32
    """Texts in a step."""
    seeds: tuple[int, ...] = (1,)
    """One run each; the scores are their mean and deviation, and the best on dev is saved."""
    max_length: int | None = None
    """Tokens read of a text, special ones included; None: as many as the model has positions."""
    weight_decay: float = 0.01
    """Decoupled; biases and norms are left out."""
    clip: float | None = 1.0
    """Largest norm of the gradient; 0: no clipping."""
    dropout: float | None = None
    """Dropout while fine-tuning, of attention too; None: as the model's folder says."""
    patience: int | None = None
    """Stop after so many epochs without a better score on dev, once there is one above 0."""
    metric: str | None = None
    """The score that chooses the best epoch; None: the task's first."""
    fresh: bool = False
    """Start the same network from random weights: what a comparison must beat."""
    class_weights: tuple[str, ...] = ()
    """What each label counts in the loss: balanced, or LABEL=WEIGHT for some of them."""
    adversarial: float = 0.0
    """Count the loss also where the tokens' vectors are moved against it, by so much a text (FGM: 1)."""
    folds: int | None = None
    """Train so many times for a seed, each time without another part of the training texts, and score what
    is said of these parts."""
    rates: RateSettings = RateSettings()
    stages: StageSettings = StageSettings()
    features: FeatureSettings = FeatureSettings()
    filling: FillingSettings = FillingSettings()
    data: DataSettings = DataSettings()
    subset: SubsetSettings = SubsetSettings()
    machine: MachineSettings = MachineSettings()
    saving: SavingSettings = SavingSettings()

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "adversarial"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
            if getattr(self, name) > LARGEST:
                raise ValueError(f"{name} must be at most {LARGEST:g}, got {getattr(self, name)}")
        if self.clip is not None and self.clip < 0:
            raise ValueError(f"clip must not be negative, got {self.clip}; 0 is no clipping")
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or several different numbers, got {list(self.seeds)}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.max_length is not None and self.max_length < 4:
            raise ValueError(f"max_length must be at least 4, got {self.max_length}")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")


class PredictSettings(Record, frozen=True):
    """How a fine-tuned model answers."""

    precision: InferencePrecision = "fp32"
    """Numbers of the matrix products. auto takes bf16 where the processor has it; int8 is faster still. The
    first texts are compared with fp32, and what is too far from it is not used."""
    device: str = "auto"
    """Where to compute: cpu, cuda …; auto takes a GPU where there is one."""
    threads: int | None = None
    """Threads of the processor; None: as many as torch uses (`OMP_NUM_THREADS`), at most one a core."""
    batch_tokens: int = 8192
    """Tokens computed at once, padding included."""
    skip_bad: bool = False
    """Leave out examples that do not fit, count and list them, instead of stopping at the first."""

    def __post_init__(self) -> None:
        for name in ("threads", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
