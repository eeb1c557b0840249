"""Model folders out of memory, such that transformers and sentence-transformers read them too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
from torch import Tensor

from polyseme.checkpoints.cards import classifier_settings, named_classes
from polyseme.checkpoints.formats import Format, architecture_of, check_heads, config_json, format_of
from polyseme.checkpoints.model import NAMES_CLASSES, Card, Model
from polyseme.checkpoints.rules import Translation
from polyseme.checkpoints.sentence_transformers import pooling_files
from polyseme.checkpoints.task_tensors import task_tensor_files
from polyseme.errors import CheckpointError
from polyseme.files import whole_folder
from polyseme.integrity import RECORD, entry_of, entry_of_file, record_of, recorded
from polyseme.models.answering import MultipleChoiceHead
from polyseme.models.finite import first_not_finite
from polyseme.models.heads import ClassificationHead
from polyseme.models.tagging import TokenClassificationHead
from polyseme.records import to_json
from polyseme.threads import torch_threads

WEIGHTS = "model.safetensors"
_METADATA = {"format": "pt"}


@torch_threads()
def save(
    model: Model, folder: str | Path, *, replace: bool = False, more: Mapping[str, bytes] | None = None
) -> None:
    """Write a model folder, whole or not at all; an existing one only gives way with `replace`.

    `more` are further files of the folder, by name.

    Raises `CheckpointError` for what such a folder cannot say, before anything is written.
    """
    files = small_files_of(model) | dict(more or {})
    weights = _finite_weights(model)
    with whole_folder(Path(folder), replace=replace) as building:
        for name, content in files.items():
            path = building / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        # From the tensors' own memory: as bytes, the largest file would be there three times.
        safetensors.torch.save_file(weights, building / WEIGHTS, metadata=_METADATA)
        entries = {name: entry_of(content) for name, content in files.items()}
        entries[WEIGHTS] = entry_of_file(building / WEIGHTS)
        (building / RECORD).write_bytes(record_of(entries, to_json(card_of(model))))


def files_of(model: Model, *, more: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """What `save` writes, by name: for those who put the files in place themselves, in this order.

    polyseme.json lists the others and `more` with their hashes. It and config.json, without which nothing
    reads the folder, are the last, so that a folder that is not complete is not read.
    """
    files = small_files_of(model)
    weights = _finite_weights(model)
    files |= {WEIGHTS: safetensors.torch.save(weights, metadata=_METADATA), **(more or {})}
    files = recorded(files, to_json(card_of(model)))
    return files | {"config.json": files.pop("config.json")}


def _finite_weights(model: Model) -> dict[str, Tensor]:
    weights = published_weights(model, format_of(model.card.family))
    if wrong := first_not_finite(weights) or first_not_finite(model.task_tensors):
        raise CheckpointError(f"{wrong}, so the model is not saved; train it with a lower learning rate")
    return weights


def small_files_of(model: Model) -> dict[str, bytes]:
    """What `save` writes beside weights and record; raises `CheckpointError` for what cannot be said."""
    format = format_of(model.card.family)
    config = model.backbone.config
    files = {"config.json": to_json(published_settings(model, format))}
    if model.tokenizer is not None:
        files |= model.tokenizer.files(
            token_type_ids=config.tells_segments, max_length=config.max_position_embeddings
        )
    files |= task_tensor_files(model.task_tensors)
    if model.card.pooling is not None:
        files |= pooling_files(
            model.card,
            hidden_size=config.hidden_size,
            max_positions=config.max_position_embeddings,
            after_pooling=model.after_pooling,
        )
    return files


def card_of(model: Model) -> Card:
    """The card as it is written: without classes where no classifier is."""
    if not model.heads.keys().isdisjoint(NAMES_CLASSES):
        return model.card
    return msgspec.structs.replace(model.card, labels=None, problem=None)


def published_settings(model: Model, format: Format) -> dict[str, Any]:
    """The content of config.json."""
    architecture = architecture_of(format, model.backbone.config, model.heads)
    config = model.backbone.config
    check_heads(format, config, model.heads)
    plain = config_json(format, config) | {
        "architectures": [architecture],
        "dtype": str(next(model.backbone.parameters()).dtype).removeprefix("torch."),
        "tie_word_embeddings": config.embedding.tied,
    }
    if model.tokenizer is not None:
        plain |= _special_ids(model, format)
    choice = model.heads.get("multiple-choice")
    if isinstance(choice, MultipleChoiceHead):
        plain |= _choice_pooling(choice, format)
    head = model.heads.get("classification")
    if isinstance(head, ClassificationHead):
        plain |= classifier_settings(model.card) | _pooling(head, format)
        _check_classes(head.dense.out_features, model.card)
    tagger = model.heads.get("token-classification")
    if isinstance(tagger, TokenClassificationHead):
        plain |= named_classes(model.card)
        _check_classes(tagger.dense.out_features, model.card)
    return plain


def _check_classes(scores: int, card: Card) -> None:
    if scores != len(card.labels or ()):
        raise CheckpointError(
            f"the classifier gives {scores} scores, but the card names {len(card.labels or ())} classes"
        )


def _pooling(head: ClassificationHead, format: Format) -> dict[str, Any]:
    if head.pooling not in format.poolings:
        raise CheckpointError(
            f"a {format.family} folder cannot say that its classifier pools by {head.pooling!r}; "
            f"build the head with {' or '.join(map(repr, format.poolings))}"
        )
    if head.kind != format.classifier["transform"]:
        raise CheckpointError(
            f"a {format.family} folder cannot say that its classifier transforms by {head.kind!r}; "
            f"build the head with {format.classifier['transform']!r}"
        )
    written: dict[str, Any] = format.poolings[head.pooling]
    return written


def _choice_pooling(head: MultipleChoiceHead, format: Format) -> dict[str, Any]:
    if head.pooling != format.reading("multiple-choice", head.pooling)["pooling"]:
        raise CheckpointError(
            f"a {format.family} folder cannot say that its choices are pooled by {head.pooling!r}; "
            f"build the head with {format.readings['multiple-choice']['pooling']!r}"
        )
    written: dict[str, Any] = format.poolings.get(head.pooling, {})
    return written


def _special_ids(model: Model, format: Format) -> dict[str, int]:
    tokenizer, config = model.tokenizer, model.backbone.config
    assert tokenizer is not None
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model only {config.vocab_size}"
        )
    ids = {
        key: getattr(tokenizer, f"{role}_id")
        for key, role in format.special_ids.items()
        if role in tokenizer.special_tokens
    }
    # The mask says what is padding, whatever token stands there; many published folders have a pad_token_id
    # that is not their tokenizer's, and RoBERTa's positions count from it. Only where transformers looks for
    # the last token of a row does it go by this id and not by the mask.
    head = model.heads.get("classification")
    if (
        isinstance(head, ClassificationHead)
        and head.pooling == "last"
        and "padding" in tokenizer.special_tokens
    ):
        ids["pad_token_id"] = tokenizer.padding_id
    return ids


def published_weights(model: Model, format: Format, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """The content of model.safetensors: the tensors by the family's names; on demand, without numbers."""
    tensors: dict[str, Tensor] = dict(model.backbone.state_dict())
    parts = ["backbone", "pooler", "decoder", *model.heads]
    for head, module in model.heads.items():
        tensors |= {f"{head}.{name}": tensor for name, tensor in module.state_dict().items()}
    if shapes_only:
        tensors = {name: tensor.to("meta") for name, tensor in tensors.items()}
    tensors = {name: _own_rows(name, tensor, model) for name, tensor in tensors.items()}
    rules = {name: ours for part in parts for name, ours in format.rules.get(part, {}).items()}
    rules |= format.more_rules(model.backbone.config)
    return {
        name: joined if shapes_only else joined.detach().cpu().contiguous()
        for name, holding in Translation(rules).groups(tensors).items()
        for joined in (holding.join(tensors),)
    }


def _own_rows(name: str, tensor: Tensor, model: Model) -> Tensor:
    """The tensor without the rows that pad the vocabulary for speed."""
    if name in ("embeddings.tokens.weight", "masked-lm.bias", "seq2seq-lm.weight"):
        return tensor[: model.backbone.config.vocab_size]
    return tensor
