"""Held-out text: the same batches at every report, and what word frequencies alone would score on them."""

from collections.abc import Sequence

import numpy as np

from polyseme.models.batch import IGNORED, Batch
from polyseme.objectives.samples import in_sequence
from polyseme.text.store import Store
from polyseme.training.loader import Loader

MOST_BATCHES = 16


def held_out_batches(loader: Loader) -> list[Batch]:
    """The first batches of the loader's documents, corrupted as at the end of training."""
    samples = loader.corruption.plan(
        loader.store, loader.documents, length=loader.length, seed=loader.seed, epoch=0
    )
    numbers = in_sequence(samples, batch_size=loader.batch_size)[: MOST_BATCHES * loader.batch_size]
    return [
        loader.batch(samples, chosen, epoch=0, progress=1.0)
        for chosen in np.array_split(numbers, -(-len(numbers) // loader.batch_size) or 1)
    ]


def unigram_level(store: Store, batches: Sequence[Batch]) -> float | None:
    """Cross-entropy of the batches' targets under the store's word frequencies (add-one), in nats."""
    labels = [
        batch.labels.numpy().reshape(-1)
        for batch in batches
        if batch.labels is not None and (batch.predicted is not None or batch.labels.dim() == 2)
    ]
    if not labels:
        return None
    targets = np.concatenate(labels)
    targets = targets[targets != IGNORED]
    # Sentinels say nothing of the text, and no frequency tells which comes next.
    targets = targets[~np.isin(targets, store.tokenizer.sentinel_ids)]
    counts = store.counts.astype(np.float64) + 1
    if "separator" in store.tokenizer.special_tokens and store.tokenizer.separator_id in targets:
        # A store has none; a stream of its documents, or what is written of each, has one behind each.
        counts[store.tokenizer.separator_id] += store.num_documents
    logs = np.log(counts / counts.sum())
    return float(-logs[targets].mean())
