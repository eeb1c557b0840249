"""Rows in batches: by length and shuffled for training, by a budget of tokens for answers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polyseme import progress
from polyseme.errors import NotFiniteError
from polyseme.models.batch import IGNORED, Batch
from polyseme.models.batching import batches_by_length, pad
from polyseme.models.transformer.config import TransformerConfig
from polyseme.tasks.task import ByToken, Outputs, Row, TaskModule
from polyseme.training.loop import autocast

_POOL = 16
"""Batches among which rows are exchanged so that each holds rows of like length."""


def collate(rows: Sequence[Row], *, padding: int, config: TransformerConfig) -> Batch:
    """The rows as one batch for a model of this kind, each with those that stand beside it."""
    rows = side_by_side(rows)
    most = config.max_position_embeddings
    matrix, real = pad([row.input_ids for row in rows], padding=padding, most=most)
    types = None
    if config.tells_segments and any(row.token_type_ids is not None for row in rows):
        kinds = [_zeros(row) if row.token_type_ids is None else row.token_type_ids for row in rows]
        types = torch.from_numpy(pad(kinds, padding=0, most=most)[0])
    labels = [row.label for row in rows if row.label is not None]
    width = matrix.shape[1]
    return Batch(
        input_ids=torch.from_numpy(matrix),
        attention_mask=None if real.all() else torch.from_numpy(real),
        token_type_ids=types,
        labels=torch.from_numpy(np.stack(labels)) if labels else None,
        token_labels=by_token([row.token_labels for row in rows], width, filling=IGNORED),
        token_hints=by_token([row.token_hints for row in rows], width, filling=0),
    )


def side_by_side(rows: Iterable[Row]) -> list[Row]:
    """Every row, followed by those beside it."""
    return [one for row in rows for one in (row, *row.beside)]


def by_token(rows: Sequence[NDArray[np.int64] | None], width: int, *, filling: int) -> torch.Tensor | None:
    """Numbers of tokens as a matrix; None where no row has any."""
    if all(row is None for row in rows):
        return None
    matrix = np.full((len(rows), width), filling, dtype=np.int64)
    for number, row in enumerate(rows):
        if row is not None:
            matrix[number, : len(row)] = row
    return torch.from_numpy(matrix)


def _zeros(row: Row) -> NDArray[np.int32]:
    return np.zeros_like(row.input_ids)


def shuffled_batches(
    lengths: NDArray[np.int64], *, batch_size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Row numbers in batches of `batch_size` (the last may be smaller), every row once, in random order.

    Rows are sorted by length inside pools of 16 batches: little is padded, and a batch still mixes rows
    from all over the file.
    """
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), _POOL * batch_size):
        pool = order[start : start + _POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    return [batches[n] for n in rng.permutation(len(batches))]


@torch.inference_mode()
def outputs_of(
    module: TaskModule,
    rows_of_examples: Sequence[Sequence[Row]],
    *,
    padding: int,
    batch_tokens: int,
    precision: str,
    device: torch.device,
) -> list[Outputs]:
    """What the network says of each example, in the examples' order."""
    rows_of_examples = [
        [replace(row, beside=()) for row in side_by_side(of_example)] for of_example in rows_of_examples
    ]
    rows = [row for of_example in rows_of_examples for row in of_example]
    outputs: list[Outputs] = [np.zeros(0, dtype=np.float32)] * len(rows)
    module.eval()
    for numbers in batches_by_length([len(row.input_ids) for row in rows], max_tokens=batch_tokens):
        batch = collate([rows[n] for n in numbers], padding=padding, config=module.backbone.config).to(device)
        with autocast("bf16" if precision == "bf16" else "fp32", device):
            said = module.outputs(module.backbone(batch), batch)
        for number, output in zip(numbers, of_rows(said, [rows[n] for n in numbers]), strict=True):
            outputs[number] = output
    of_examples = list(_grouped(outputs, [len(of_example) for of_example in rows_of_examples]))
    check_finite(of_examples)
    return module.settled(of_examples)


def check_finite(outputs: Sequence[Outputs]) -> None:
    """Raise `NotFiniteError` with the number of the first example for which something is not finite."""
    for number, output in enumerate(outputs):
        parts = (output.tokens, output.text) if isinstance(output, ByToken) else (output,)
        if not all(part is None or np.isfinite(part).all() for part in parts):
            raise NotFiniteError(
                f"the outputs for example {number + 1} are not finite; the model's weights are damaged, or "
                "too large for this precision (try --precision fp32)",
                number=number,
            )


def of_rows(said: torch.Tensor | ByToken, rows: Sequence[Row]) -> Iterator[Outputs]:
    """What a batch's outputs say of each of its rows."""
    if isinstance(said, torch.Tensor):
        yield from said.float().cpu().numpy()
        return
    tokens = said.tokens.float().cpu().numpy()
    texts = [None] * len(rows) if said.text is None else said.text.float().cpu().numpy()
    for row, of_tokens, of_text in zip(rows, tokens, texts, strict=True):
        asked = row.asked if row.asked is not None else slice(len(row.input_ids))
        yield ByToken(of_tokens[asked], of_text, row.places)


def _grouped(outputs: Sequence[Outputs], counts: Sequence[int]) -> Iterator[Outputs]:
    start = 0
    for count in counts:
        yield joined(outputs[start : start + count])
        start += count


def joined(of_rows: Sequence[Any]) -> Outputs:
    """The outputs of one example's rows as those of the example."""
    if not isinstance(of_rows[0], ByToken):
        return np.stack(of_rows)
    texts = None if of_rows[0].text is None else np.stack([row.text for row in of_rows])
    places = None if of_rows[0].places is None else np.concatenate([row.places for row in of_rows])
    return ByToken(np.concatenate([row.tokens for row in of_rows]), texts, places)


def count_cut(rows_of_examples: Sequence[Sequence[Row]]) -> int:
    """How many examples did not fit into their rows."""
    return sum(any(row.cut for row in of_example) for of_example in rows_of_examples)


def say_cut(cut: int, *, total: int, max_length: int, name: str) -> None:
    """Say how many examples were cut, if any; `name` tells which examples these are."""
    if cut:
        progress.warn(
            f"{name}: {cut} of {total} texts are longer than the {max_length} tokens read and were cut; "
            "long_texts=windows reads them whole"
        )
