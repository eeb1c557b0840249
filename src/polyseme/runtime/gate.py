"""The gate before a lower precision: how near it stays to fp32, measured on the user's own texts."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from polyseme import progress
from polyseme.runtime.encoder import CompiledEncoder, Reading
from polyseme.runtime.packing import Rows
from polyseme.runtime.states import Precision

Vectors = NDArray[np.float32]

LOWEST: dict[Precision, float] = {"bf16": 0.9999, "int8": 0.99}
"""The cosine to fp32 below which no vector of the sample may fall."""
BETTER: dict[Precision, tuple[Precision, ...]] = {"fp32": (), "bf16": ("fp32",), "int8": ("bf16", "fp32")}
"""What is tried instead, the next better one first."""
ROWS, TOKENS = 32, 2048
"""The sample: so many of the first rows at most, and so many tokens unless the first row alone is longer."""


def settle(
    encoder: CompiledEncoder,
    again: Callable[[Precision], CompiledEncoder],
    rows: Rows,
    reading: Reading,
    *,
    bf16: bool = True,
) -> CompiledEncoder:
    """This encoder, or one of a better precision where its vectors of the first rows are too far from those
    of fp32; says once what was measured.

    `again` compiles the same network in another precision. Without `bf16` in hardware only fp32 is better.
    """
    if encoder.precision == "fp32":
        return encoder
    sample = rows.first(max(1, int((np.cumsum(rows.lengths[:ROWS]) <= TOKENS).sum())))
    exact = again("fp32")
    truth = exact.vectors(sample, reading)
    while encoder is not exact:
        precision = encoder.precision
        cosine = lowest_cosine(encoder.vectors(sample, reading), truth)
        told = f"cosine to fp32 at least {cosine:.5f} on {len(sample)} of the texts"
        if cosine >= LOWEST[precision]:
            progress.say(f"{precision}: {told}")
            return encoder
        better = next(one for one in BETTER[precision] if one == "fp32" or bf16)
        progress.say(
            f"warning: {precision} is not good enough for this model: {told}, below {LOWEST[precision]}; "
            f"{better} is used instead"
        )
        encoder = exact if better == "fp32" else again(better)
    return encoder


def lowest_cosine(vectors: Vectors, exact: Vectors) -> float:
    """The lowest cosine of a row to the same row of the other; of two rows of zeros it is 1."""
    ours, theirs = vectors.astype(np.float64), exact.astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    products = (ours * theirs).sum(axis=1)
    equal = (ours == theirs).all(axis=1).astype(np.float64)
    cosines = np.divide(products, lengths, out=equal, where=lengths > 0)
    return float(cosines.min(initial=1.0))
