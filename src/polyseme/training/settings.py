"""What a training run is made of, as records; torch-free, so that help and recipes load fast."""

from typing import Any, Literal

from polyseme.checkpoints.formats import FORMATS
from polyseme.devices import Precision
from polyseme.records import Record, nearest

_LARGEST = 1e30
"""Far above every useful value, and far below where single precision overflows."""


class AdafactorSettings(Record, frozen=True, kw_only=True):
    """What Adafactor has beside a learning rate; the defaults are T5's."""

    exponent: float = 0.8
    """How the memory of squared gradients grows: at step t the newest counts for 1/t to this power."""
    clipping_threshold: float | None = 1.0
    """Largest root mean square of an update, before it is scaled. None: no clipping."""
    parameter_scaling: bool = True
    """Whether an update is relative to the root mean square of the parameter that it changes."""
    least_scale: float = 1e-3
    """What stands for a smaller root mean square of a parameter, so that zeros can be left."""
    least_factored: int = 32
    """Matrices with fewer rows or columns keep every second moment."""

    def __post_init__(self) -> None:
        if not 0 < self.exponent <= 1:
            raise ValueError(f"exponent must lie above 0 and up to 1, got {self.exponent}")
        if self.clipping_threshold is not None and self.clipping_threshold <= 0:
            raise ValueError(
                f"clipping_threshold must be above 0, got {self.clipping_threshold}; leave it out for none"
            )
        if not 0 < self.least_scale <= _LARGEST or self.least_factored < 1:
            raise ValueError(
                f"least_scale must be above 0 and least_factored at least 1, got {self.least_scale}, "
                f"{self.least_factored}"
            )


class TrainingSettings(Record, frozen=True, kw_only=True):
    """How a model is trained."""

    length: int = 128
    """Tokens in a row, special ones included."""
    batch_size: int = 32
    """Rows in a batch."""
    accumulation: int = 1
    """Batches whose gradients are added up before a step."""
    steps: int = 1_000_000
    """Steps when neither --steps nor --minutes is given."""
    optimizer: Literal["adamw", "muon", "lamb", "adafactor", "adagrad", "sgd"] = "adamw"
    """muon: Muon for the matrices inside layers, AdamW for the rest; lamb: for very large batches."""
    learning_rate: float = 1e-4
    """At its highest; with Muon, that of AdamW for the rest."""
    matrix_learning_rate: float = 1e-3
    """Of Muon, at its highest; its updates are scaled to AdamW's size."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two averages of AdamW and LAMB."""
    epsilon: float = 1e-8
    """The small number in the denominator of AdamW, LAMB and Adagrad."""
    bias_correction: bool | Literal["rate"] = True
    """Of AdamW's and LAMB's averages. False: none, as BERT and ALBERT have it; rate: AdamW's rate is
    corrected instead, as GPT has it."""
    adafactor: AdafactorSettings = AdafactorSettings()
    """What Adafactor has beside a learning rate."""
    initial_accumulator: float = 0.1
    """What Adagrad's sums of squares begin with."""
    weight_decay: float = 0.01
    """Decoupled from the gradient, but with SGD and Adagrad a part of it; biases and norms are left out."""
    schedule: Literal[
        "linear",
        "cosine",
        "warmup-stable-decay",
        "constant",
        "noam",
        "inverse-root",
        "warmup-times-linear",
        "slanted-triangular",
    ] = "linear"
    """How the learning rate goes after its warm-up."""
    warmup: float = 0.01
    """Steps of warm-up: below 1 a share of all steps, else their number."""
    cooldown: float = 0.4
    """Share of the steps over which warmup-stable-decay falls to 0 (as 1 − √)."""
    clip: float | None = 1.0
    """Largest norm of the gradient. 0: no clipping."""
    held_out: float = 0.005
    """Share of the documents kept for the held-out loss, at most 2,000 rows of them."""

    def __post_init__(self) -> None:
        for name in ("length", "batch_size", "accumulation", "steps"):
            if not 1 <= getattr(self, name) < 1 << 40:
                raise ValueError(f"{name} must be at least 1 and below 2^40, got {getattr(self, name)}")
        if self.length < 8:
            raise ValueError(f"length must be at least 8 tokens, got {self.length}")
        for name in ("learning_rate", "matrix_learning_rate", "epsilon"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
            if getattr(self, name) > _LARGEST:
                raise ValueError(f"{name} must be at most {_LARGEST:g}, got {getattr(self, name)}")
        for name in ("warmup", "weight_decay", "initial_accumulator", "clip"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
            if (getattr(self, name) or 0) > _LARGEST:
                raise ValueError(f"{name} must be at most {_LARGEST:g}, got {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie from 0 to below 1, got {self.betas[0]} and {self.betas[1]}")
        if self.bias_correction == "rate" and self.optimizer not in ("adamw", "muon"):
            raise ValueError(
                f"bias_correction 'rate' is a form of AdamW, and the optimizer is {self.optimizer}; "
                "set it to true or false"
            )
        if not 0 < self.cooldown <= 1:
            raise ValueError(f"cooldown is a share of the steps, above 0 and up to 1, got {self.cooldown}")
        if not 0 <= self.held_out < 0.5:
            raise ValueError(f"held_out is a share from 0 to below 0.5, got {self.held_out}")


class Paper(Record, frozen=True, kw_only=True):
    """Where a system was published."""

    authors: str
    year: int
    title: str
    url: str


class Recipe(Record, frozen=True, kw_only=True):
    """One published system: everything from tokenizer to training, as its TOML file says it."""

    title: str
    """What it is, in one line."""
    paper: Paper
    notes: str = ""
    """What a user should know before choosing it."""
    tokenizer: dict[str, Any]
    """Settings for `polyseme tokenizer learn`."""
    family: str
    """The layout on disk: one of the table of formats."""
    model: dict[str, Any]
    """Fields of the model that all sizes share."""
    sizes: dict[str, dict[str, Any]]
    """Fields of the model that make a size; what they say of a nested record is added to the model's. Two
    names are not the model's: a table `training` changes the recipe's, and `objectives` replace them."""
    default_size: str
    """The size when none is asked for."""
    objectives: list[dict[str, Any]]
    """Each with its `name` and settings; several share one pass."""
    training: TrainingSettings

    def __post_init__(self) -> None:
        if self.default_size not in self.sizes:
            raise ValueError(f"default_size {self.default_size!r} is not among the sizes {list(self.sizes)}")
        if self.family not in FORMATS:
            raise ValueError(
                f"there is no family {self.family!r}{nearest(self.family, list(FORMATS))}; "
                f"choose one of {', '.join(FORMATS)}"
            )
        if not self.objectives:
            raise ValueError("objectives must name at least one objective")


class PretrainSettings(Record, frozen=True, kw_only=True):
    """Options of `polyseme pretrain`."""

    size: str | None = None
    """tiny, mini, small, base …: a size of the recipe. None: its default."""
    steps: int | None = None
    """Train for so many steps. None: as the recipe says."""
    minutes: float | None = None
    """Train for about so long instead; the number of steps follows from the speed of this machine."""
    seed: int = 0
    """Of weights, order and masks: the same seed gives the same run."""
    from_model: str | None = None
    """Go on from this model (folder or hub name) instead of random weights: domain adaptation."""
    layers: tuple[int, ...] | None = None
    """Of the model to go on from, keep these layers only: 0 1 2 for the first three. None: all."""
    change: tuple[str, ...] = ()
    """Changes to the recipe, such as training.length=256 or objectives.0.rate=0.3."""
    precision: Precision = "auto"
    """fp32, bf16, or auto: bf16 where the hardware has it."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is a card."""
    threads: int | None = None
    """Threads of computation. None: one for each core this process may use."""
    save_every: float = 5.0
    """Minutes between two saved states."""
    save_steps: int | None = None
    """Steps between two saved states, instead of minutes."""
    skip_non_finite_steps: int = 0
    """How many steps of the run may be skipped because their loss or gradient is NaN or infinite; the next
    such step stops the run, whose last saved state is kept. 0: the first one does."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.minutes is not None:
            raise ValueError("steps and minutes exclude each other; give one of them")
        if self.layers is not None and self.from_model is None:
            raise ValueError(f"layers {list(self.layers)} are taken from a model; name it in from_model")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes must be above 0, got {self.minutes}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.skip_non_finite_steps < 0:
            raise ValueError(f"skip_non_finite_steps must not be negative, got {self.skip_non_finite_steps}")
        if self.save_every <= 0 or (self.save_steps is not None and self.save_steps < 1):
            raise ValueError("save_every and save_steps must be above 0")
