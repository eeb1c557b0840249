"""Model folders into memory: every tensor of the file used, every tensor of the model filled, or an error."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from polyseme.checkpoints.cards import read_card
from polyseme.checkpoints.filling import Reading, read_tensors
from polyseme.checkpoints.formats import check_heads
from polyseme.checkpoints.hub import resolve
from polyseme.checkpoints.model import HEADS, NAMES_CLASSES, POOL, Card, Model
from polyseme.checkpoints.sentence_transformers import lowers_texts, read_after_pooling
from polyseme.checkpoints.source import Source
from polyseme.checkpoints.task_tensors import read_task_tensors
from polyseme.checkpoints.undrawn import compute_buffers, undrawn
from polyseme.checkpoints.weights import Stored
from polyseme.errors import CheckpointError, SettingsError
from polyseme.integrity import checking
from polyseme.models.initialising import initialise
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Pooler, Transformer
from polyseme.text.frames import Frame
from polyseme.text.sentencepiece import ENDING as SENTENCEPIECE
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.tokenizer_files import BYTE_PAIRS
from polyseme.threads import torch_threads

_TOKENIZERS = ("tokenizer.json", "vocab.txt", *BYTE_PAIRS)
"""Names of which one tells that a folder has a tokenizer; a SentencePiece model is told by its ending."""


@torch_threads()
def load(
    name_or_folder: str | Path,
    *,
    heads: Sequence[str] = (),
    fresh: Sequence[str] = (),
    labels: Sequence[str] = (),
    pooling: str | None = None,
    dtype: torch.dtype | None = None,
    ignore: Sequence[str] = (),
    verify: bool = True,
) -> Model:
    """The model of a folder or hub name, in evaluation mode, with the `heads` that are asked for.

    A name on a hub is `owner/name`, `owner/name@revision` (a branch, tag or commit), or either behind
    `modelscope:` or `huggingface:`; the environment variable `POLYSEME_HUB` names the hub of other names.

    `heads` come from the file; those in `fresh` start from random values (of torch's global generator)
    instead, and those in both only where the file has none. "pooler" may be named beside the heads. A fresh
    "classification" head needs the `labels`, and pools as `pooling` says. Weights become float32 unless
    `dtype` says otherwise. Tensors whose names in the file match a pattern in `ignore` ("crf.*") are
    left out. With `verify=False` the files of a folder of ours are not compared with the checksums in its
    polyseme.json. Raises `CheckpointError` for what is missing, left over, damaged or of a kind that we do
    not compute.

    >>> model = load("hfl/chinese-bert-wwm-ext", heads=["masked-lm"])  # doctest: +SKIP
    """
    folder = resolve(name_or_folder)
    with checking(verify):
        model, _ = read_model(
            folder, heads=heads, fresh=fresh, labels=labels, pooling=pooling, dtype=dtype, ignore=ignore
        )
    return model


def heads_in(
    folder: Path, *, layout: str | None = None, settings: Path | None = None, ignore: Sequence[str] = ()
) -> list[str]:
    """The heads that a model folder has weights for."""
    source = Source(folder, layout=layout, settings=settings, ignore=ignore)
    return [head for head in HEADS if head in source.parts]


def read_model(
    folder: Path,
    *,
    heads: Sequence[str] = (),
    fresh: Sequence[str] = (),
    labels: Sequence[str] = (),
    pooling: str | None = None,
    dtype: torch.dtype | None = None,
    layout: str | None = None,
    settings: Path | None = None,
    stored: dict[str, Stored] | None = None,
    ignore: Sequence[str] = (),
) -> tuple[Model, Reading]:
    """As `load`, with an account of the tensors; `folder` is one on this machine.

    `layout` says which project's folder it is where several fit, and `settings` names its settings file where
    that lies elsewhere. `stored` stands for weights that are not written yet; the model then has no
    tokenizer.
    """
    dtype = dtype or torch.float32
    source = Source(folder, layout=layout, settings=settings, stored=stored, ignore=ignore)
    if source.record is not None and stored is None:
        source.record.check_weights()
    read, drawn = source.choose(heads, fresh)
    config = source.config(pooler="pooler" in {*read, *drawn})
    check_heads(source.format, config, {*read, *drawn})
    classes = next((source.classes(head) for head in NAMES_CLASSES if head in read), None)
    card = read_card(folder, source.plain, classes=classes)
    if "classification" not in read:
        card = msgspec.structs.replace(card, problem=None)
    if not drawn.isdisjoint(NAMES_CLASSES):
        card = _with_labels(card, labels, judges_texts="classification" in drawn)
    stored_pooling = not read.isdisjoint(POOL)
    how = source.pooling() if stored_pooling else pooling or next(iter(source.format.poolings))
    reading_states = {head: source.format.reading(head, how) for head in HEADS}

    stored_heads = [head for head in HEADS if head in read]
    backbone, modules = _shapes(config, stored_heads, classes or 0, reading_states, source)
    wanted = {name: tensor for name, tensor in backbone.state_dict().items() if _is_read(name, read)}
    for head, module in modules.items():
        wanted |= {f"{head}.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors, reading = read_tensors(
        source.format,
        source.stored,
        wanted,
        parts=read,
        more=source.format.more_rules(config),
        where=source.folder,
        dtype=dtype,
    )
    left = source.opened.left | ({"ignored": source.ignored} if source.ignored else {})
    reading = replace(reading, layout=source.opened.layout, left=left)

    if "pooler" in drawn:
        backbone.pooler = _fresh_pooler(config, dtype)
        tensors |= {f"pooler.{name}": tensor for name, tensor in backbone.pooler.state_dict().items()}
    _fill(backbone, tensors, prefix="", of=backbone.state_dict())
    compute_buffers(backbone)
    for head, module in modules.items():
        _fill(module, tensors, prefix=f"{head}.", of=module.state_dict())
    for head in HEADS:
        if head in drawn:
            modules[head] = build_head(head, config, len(labels), reading_states[head]).to(dtype)
    for module in (backbone, *modules.values()):
        module.eval()
    model = Model(
        backbone=backbone,
        heads=modules,
        tokenizer=_tokenizer(source, config, lowers=lowers_texts(folder)) if stored is None else None,
        card=card,
        task_tensors=read_task_tensors(source.folder),
        after_pooling=read_after_pooling(folder, size=config.hidden_size),
    )
    return model, reading


def _shapes(
    config: TransformerConfig,
    heads: list[str],
    classes: int,
    reading: dict[str, dict[str, Any]],
    source: Source,
) -> tuple[Transformer, dict[str, nn.Module]]:
    """The modules without memory: a damaged file may claim any size, so shapes are compared first."""
    try:
        with undrawn():
            backbone = build(config)
            return backbone, {head: build_head(head, config, classes, reading[head]) for head in heads}
    except (RuntimeError, TypeError, OverflowError) as error:  # A number of more than 64 bits is a TypeError.
        raise CheckpointError(
            f"{source.opened.where} asks for sizes that no machine holds: hidden_size "
            f"{config.hidden_size}, vocab_size {config.vocab_size}"
        ) from error


def _is_read(name: str, read: set[str]) -> bool:
    return not name.startswith("pooler.") or "pooler" in read


def _with_labels(card: Card, labels: Sequence[str], *, judges_texts: bool) -> Card:
    if not labels:
        raise SettingsError('a fresh "classification" head needs the names of its classes; pass labels=')
    problem = (card.problem or "single") if judges_texts else None
    return msgspec.structs.replace(card, labels=list(labels), problem=problem)


def build_head(name: str, config: TransformerConfig, classes: int, reading: dict[str, Any]) -> nn.Module:
    """A fresh head by its name, told its `reading`; a classifier gives `classes` scores."""
    module, _, kind = HEADS[name].partition(":")
    make = getattr(import_module(module), kind)
    head: nn.Module = make(config, classes, **reading) if name in NAMES_CLASSES else make(config, **reading)
    return head


def _fresh_pooler(config: TransformerConfig, dtype: torch.dtype) -> Pooler:
    pooler = Pooler(config)
    initialise(pooler, config)
    return pooler.to(dtype)


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], *, prefix: str, of: Mapping[str, Tensor]) -> None:
    module.load_state_dict({name: tensors[prefix + name] for name in of}, assign=True)


def _tokenizer(source: Source, config: TransformerConfig, *, lowers: bool) -> Tokenizer | None:
    named = any((source.folder / name).exists() for name in _TOKENIZERS)
    if not named and not any(source.folder.glob(f"*{SENTENCEPIECE}")):
        return None
    tokenizer = Tokenizer.load(source.folder)
    if tokenizer.vocab_size > config.vocab_size:
        # Special tokens that the settings only name never stand in a text, unless they are kept.
        tokenizer = Tokenizer.load(source.folder, undeclared=False)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{source.folder}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"the model only {config.vocab_size}"
        )
    _check_frame(tokenizer.frame, config, source.folder)
    return tokenizer.lowering() if lowers else tokenizer


def _check_frame(frame: Frame, config: TransformerConfig, folder: Path) -> None:
    """What stands around texts must leave room for them, in segments that the model has."""
    if frame.pair_size + 2 > config.max_position_embeddings:
        raise CheckpointError(
            f"{folder}: the tokenizer puts {frame.pair_size} special tokens around a pair of texts, "
            f"and the model reads {config.max_position_embeddings} tokens"
        )
    first, of_first, of_second, last = frame.types
    alone = frame.single_types
    highest = max(*first, of_first, of_second, *last, *alone[0], alone[1], *alone[2])
    if config.tells_segments and config.type_vocab_size and highest >= config.type_vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer gives tokens the segment {highest}, "
            f"and the model has the segments 0 to {config.type_vocab_size - 1}"
        )
