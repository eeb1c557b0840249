"""What a user chooses about the demo; torch-free for the help."""

from polyseme.records import Record


class DemoSettings(Record, frozen=True, kw_only=True):
    """Options of `polyseme demo`."""

    out: str = "polyseme-demo"
    """The folder of the result: index.html, report.json, the model and the classifier."""
    minutes: float = 2.0
    """How long the network is pre-trained; everything else takes about two minutes more on two cores."""
    seed: int = 0
    """Of weights, order and masks."""
    share: float = 1.0
    """Use only this share of the text that ships, for a quick look."""
    threads: int | None = None
    """Threads of the processor; None: as many as torch uses (`OMP_NUM_THREADS`), at most one a core."""

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"minutes must be above 0, got {self.minutes}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie above 0 and up to 1, got {self.share}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
