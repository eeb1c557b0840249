"""What a user chooses about vectors; torch-free for the help."""

from typing import Literal

from polyseme.devices import InferencePrecision
from polyseme.embedding.layers import Layers
from polyseme.records import Record

Pooling = Literal["first", "last", "mean", "max", "mean-max", "pooler"]
OutputPrecision = Literal["fp32", "fp16", "int8", "binary"]


class EmbedSettings(Record, frozen=True):
    """How vectors are made; what is left at None is as the model's folder says, or else the usual choice."""

    layers: str | None = None
    """Layers: one (-1), several joined (0,6,12 or -4:-1), or their mean (mean:-4:-1); usually -1."""
    pooling: Pooling | None = None
    """How a text's states become one vector; usually mean. `pooler` is BERT's trained layer over [CLS]."""
    normalize: bool | None = None
    """Scale vectors to length 1; usually not."""
    long_texts: Literal["windows", "truncate"] | None = None
    """Read texts longer than the model by overlapping windows, or cut them. Usually windows; cut where the
    folder has a length of its own, as those of sentence-transformers do."""
    max_length: int | None = None
    """Tokens that the model reads at once, [CLS] and [SEP] included; at most as many as it has positions."""
    precision: InferencePrecision = "fp32"
    """Numbers of the matrix products. auto takes bf16 where the processor has it; int8 is faster still. A
    sample of the texts is compared with fp32 first, and what is too far from it is not used."""
    dimensions: int | None = None
    """Keep the first so many numbers of each vector, of models trained to be shortened (Matryoshka: Kusupati
    et al. 2022); vectors of length 1 get length 1 again. None: all, or the folder's truncate_dim."""
    prompt_name: str | None = None
    """Put the prompt of this name, such as query or passage, before every text; the model's folder defines
    the prompts. Without it and prompt, the folder's default prompt, if it has one."""
    prompt: str | None = None
    """Text to put before every text, whatever the folder says; "" for none."""
    keep_special_tokens: tuple[str, ...] = ()
    """Special tokens that are recognised in the texts, such as the entity markers [E1] and [/E1]. All others
    are read as ordinary characters."""
    batch_tokens: int | None = None
    """Tokens computed at once by one thread; None: as many as stay in its cache, or suit a GPU."""
    threads: int | None = None
    """Threads of the processor; None: as many as torch uses (`OMP_NUM_THREADS`), at most one a core."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1 …; auto takes a GPU where there is one."""
    field: str = "text"
    """Of JSON lines, the field that holds the text."""
    encoding: str = "utf-8"
    """Encoding of the text file, or `auto`."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not in the encoding."""

    def __post_init__(self) -> None:
        if self.layers is not None:
            Layers.of(self.layers)
        if self.max_length is not None and self.max_length < 3:
            raise ValueError(
                f"max_length must be at least 3, [CLS] and [SEP] included, got {self.max_length}"
            )
        if self.dimensions is not None and self.dimensions < 1:
            raise ValueError(f"dimensions must be at least 1, got {self.dimensions}")
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("give prompt or prompt_name, one of the two")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {self.batch_tokens}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")


class OutputSettings(Record, frozen=True, kw_only=True):
    """What is kept of each vector."""

    output_precision: OutputPrecision = "fp32"
    """Numbers in the file: fp32, fp16, int8 (255 steps over the range of each dimension), or binary (signs,
    eight in a byte)."""
    calibration: str | None = None
    """Of int8: a file of texts whose vectors give the ranges; usually the first block of the texts does."""

    def __post_init__(self) -> None:
        if self.calibration is not None and self.output_precision != "int8":
            raise ValueError(
                f"calibration gives the ranges of int8, and output_precision is {self.output_precision!r}; "
                "leave it out, or choose int8"
            )
