"""The gate before a lower precision: how near it stays to fp32, measured on the user's own texts."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from polyseme import progress
from polyseme.devices import InferencePrecision, Processor, pick_inference_precision
from polyseme.models.transformer.model import Transformer
from polyseme.runtime.encoder import Reading, compiled
from polyseme.runtime.packing import Rows
from polyseme.runtime.states import Precision, kernels
from polyseme.threads import torch_threads, with_own_threads

Vectors = NDArray[np.float32]

LOWEST: dict[Precision, float] = {"bf16": 0.9999, "int8": 0.99}
"""The cosine to fp32 below which no vector of the sample may fall."""
BETTER: dict[Precision, Precision] = {"bf16": "fp32", "int8": "bf16"}
"""What is tried instead."""
ROWS, TOKENS = 32, 2048
"""The sample: so many of the first rows at most, and so many tokens unless the first row alone is longer."""


class Gate:
    """A network compiled in the precision that is asked for, or the next best that this machine has
    instructions for; the first rows decide whether it stays."""

    def __init__(
        self,
        backbone: Transformer,
        precision: InferencePrecision,
        *,
        threads: int,
        device: torch.device,
        tile_tokens: int | None = None,
        on: Processor | None = None,
    ) -> None:
        """`on` is the processor to choose for, where that is not the one of this machine."""
        self._compile = partial(compiled, threads=threads, device=device, tile_tokens=tile_tokens)
        self._best = partial(
            pick_inference_precision, device=device, on=on, has_kernels=kernels(device) is not None
        )
        chosen = self._best(precision)
        if precision not in ("auto", chosen):
            progress.warn(f"{precision} is not faster than {chosen} on this CPU; using {chosen}")
        self.threads = threads
        with torch_threads(threads):
            self.encoder = self._compile(backbone, precision=chosen)
        self._backbone = None if chosen == "fp32" else backbone

    @with_own_threads
    def settle(self, rows: Rows, reading: Reading) -> None:
        """Keep the encoder, or take one of a better precision where its vectors of the first rows are too far
        from those of fp32; says what was measured. Only the first call does anything."""
        if self._backbone is None or not len(rows):
            return
        backbone, self._backbone = self._backbone, None  # Whose memory is free from here on.
        sample = rows.first(max(1, int((np.cumsum(rows.lengths[:ROWS]) <= TOKENS).sum())))
        exact = self._compile(backbone, precision="fp32")
        truth = exact.vectors(sample, reading)
        while self.encoder is not exact:
            precision = self.encoder.precision
            cosine = lowest_cosine(self.encoder.vectors(sample, reading), truth)
            told = f"cosine to fp32 at least {cosine:.5f} on {len(sample)} of the texts"
            if cosine >= LOWEST[precision]:
                progress.say(f"{precision}: {told}")
                return
            better = self._best(BETTER[precision])
            progress.warn(
                f"{precision} is not good enough for this model: {told}, below {LOWEST[precision]}; "
                f"{better} is used instead"
            )
            self.encoder = exact if better == "fp32" else self._compile(backbone, precision=better)


def lowest_cosine(vectors: Vectors, exact: Vectors) -> float:
    """The lowest cosine of a row to the same row of the other; of two rows of zeros it is 1."""
    ours, theirs = vectors.astype(np.float64), exact.astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    products = (ours * theirs).sum(axis=1)
    equal = (ours == theirs).all(axis=1).astype(np.float64)
    cosines = np.divide(products, lengths, out=equal, where=lengths > 0)
    return float(cosines.min(initial=1.0))
