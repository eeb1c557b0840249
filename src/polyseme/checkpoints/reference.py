"""Our states beside those of transformers, where it happens to be installed, as proof of a conversion."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from polyseme.checkpoints.model import Model
from polyseme.models.batch import Batch

_ROWS, _LENGTH = 3, 24
_SEED = 0


def compared_with_transformers(model: Model, folder: Path) -> str:
    """The largest difference of the last states on random rows, or why there is none to tell.

    `folder` is one in transformers' layout. What transformers says while it loads is kept from the screen.
    """
    try:
        import transformers
    except ImportError:
        return "outputs not compared: transformers is not installed"
    batch = _rows(model)
    with _quiet(transformers), torch.inference_mode():
        try:
            theirs = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
            names = ("input_ids", "token_type_ids", "decoder_input_ids")
            given = {name: ids for name in names if (ids := getattr(batch, name)) is not None}
            last = theirs(**given).last_hidden_state
        except (ValueError, KeyError, ImportError) as error:
            first = (str(error) or type(error).__name__).splitlines()[0][:120]
            return f"outputs not compared: transformers {transformers.__version__} does not run it ({first})"
        states = model.backbone(batch)
    ours = (states.last if states.decoded is None else states.decoded).float()  # [rows, length, hidden_size]
    return (
        f"largest difference from transformers {transformers.__version__}: "
        f"{(ours - last).abs().max().item():.1e} where the states reach {last.abs().max().item():.2f}"
    )


def _rows(model: Model) -> Batch:
    """Random ids, all of them real: some families take the padding's for padding without a mask."""
    config = model.backbone.config
    generator = torch.Generator().manual_seed(_SEED)
    shape = (_ROWS, min(_LENGTH, config.max_position_embeddings))

    def below(limit: int) -> torch.Tensor:
        return torch.randint(limit, shape, generator=generator)

    def ids() -> torch.Tensor:
        drawn = below(config.vocab_size - 1)
        return drawn + (drawn >= config.padding_id).long()

    return Batch(
        input_ids=ids(),
        decoder_input_ids=ids() if config.decoder is not None else None,
        token_type_ids=below(config.type_vocab_size) if config.type_vocab_size else None,
    )


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep what transformers says while it loads from the screen."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
