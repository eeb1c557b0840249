"""The card of a model folder: polyseme.json, together with what transformers' files say of the same."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from polyseme.checkpoints.json_files import read_object
from polyseme.checkpoints.model import FORMAT_VERSION, Card
from polyseme.checkpoints.sentence_transformers import read_pooling
from polyseme.errors import CheckpointError, SettingsError
from polyseme.integrity import FIELDS, RECORD, open_record
from polyseme.records import from_plain

CARD = RECORD

_PROBLEMS: dict[str, Literal["single", "multi", "regression"]] = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
    "regression": "regression",
}
"""`problem_type` of config.json; transformers takes an absent one for a number where there is one score,
else for single labels."""


def read_card(folder: Path, plain: dict[str, Any], *, classes: int | None) -> Card:
    """The card of a folder, made up from config.json (`plain`) where transformers wrote the folder.

    `classes` is the number of scores that the classifier gives; None where it is not read, and then the
    card names no classes.
    """
    card = _own_card(folder, plain)
    changes: dict[str, Any] = {"labels": None, "problem": None}
    if classes is not None:
        changes = {"labels": _labels(plain, classes, folder), "problem": _problem(plain, classes, folder)}
        if card.labels is not None and card.labels != changes["labels"]:
            raise CheckpointError(
                f"{folder}: {CARD} names the classes {card.labels}, but config.json {changes['labels']}; "
                "make them agree"
            )
    return msgspec.structs.replace(card, **changes, **read_pooling(folder))


class _Score(msgspec.Struct, frozen=True):
    """A score over all seeds, as a fine-tuned folder has it."""

    mean: float | None
    deviation: float | None
    of_seeds: list[float | None]
    """None where a score is not defined (NaN in memory)."""


class _OneTask(msgspec.Struct, frozen=True):
    """What a fine-tuned folder says of one of several tasks."""

    task: str
    task_settings: dict[str, Any]
    inventory: dict[str, Any]
    reading: dict[str, Any]
    examples: int = 0
    dev: dict[str, _Score] = {}
    test: dict[str, _Score] = {}


class _Made(msgspec.Struct, frozen=True):
    """The types of what other commands read of `Card.made`; everything else in it may be anything."""

    task: str | msgspec.UnsetType = msgspec.UNSET
    task_settings: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    inventory: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    reading: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    settings: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    max_length: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType | None = msgspec.UNSET
    tasks: dict[str, _OneTask] | msgspec.UnsetType = msgspec.UNSET
    command: str | msgspec.UnsetType = msgspec.UNSET
    seed: int | msgspec.UnsetType = msgspec.UNSET
    examples: int | msgspec.UnsetType = msgspec.UNSET
    dev: dict[str, _Score] | msgspec.UnsetType = msgspec.UNSET
    test: dict[str, _Score] | msgspec.UnsetType = msgspec.UNSET
    out_of_fold: dict[str, _Score] | msgspec.UnsetType = msgspec.UNSET
    left_out: list[str] | msgspec.UnsetType = msgspec.UNSET


def how_made(folder: Path) -> dict[str, Any]:
    """`Card.made` of a folder on this machine, before anything else of it is read; empty without a card.

    Raises `CheckpointError` where something that other commands read of it is of another type.
    """
    path = folder / CARD
    open_record(folder)  # refuses one that has changed
    made = read_object(path).get("made") if path.exists() else None
    if not isinstance(made, dict):
        return {}
    try:
        msgspec.convert(made, _Made)
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        raise CheckpointError(
            f"{path}: what it says of how the model was made is damaged: {error}"
        ) from error
    return made


def classifier_settings(card: Card) -> dict[str, Any]:
    """The keys of config.json that say what the scores of a classifier of texts mean."""
    problem = next(kind for kind, ours in _PROBLEMS.items() if ours == (card.problem or "single"))
    return named_classes(card) | {"problem_type": problem}


def named_classes(card: Card) -> dict[str, Any]:
    """The keys of config.json that name the classes."""
    if not card.labels:
        raise CheckpointError("a classifier is saved with the names of its classes; set labels in the card")
    return {
        "id2label": {str(index): label for index, label in enumerate(card.labels)},
        "label2id": {label: index for index, label in enumerate(card.labels)},
    }


def _own_card(folder: Path, plain: dict[str, Any]) -> Card:
    path = folder / CARD
    family = plain["model_type"]
    if not path.exists():
        return Card(family=family)
    content = {key: value for key, value in read_object(path).items() if key not in FIELDS}
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this polyseme reads up to {FORMAT_VERSION}; "
            "install a newer polyseme"
        )
    try:
        card = from_plain(content, Card, where=str(path))
    except SettingsError as error:
        raise CheckpointError(str(error)) from error
    if card.family != family:
        raise CheckpointError(f"{path} says family {card.family!r}, but config.json {family!r}")
    return card


def _labels(plain: dict[str, Any], classes: int, folder: Path) -> list[str]:
    names = plain.get("id2label") or {str(index): f"LABEL_{index}" for index in range(classes)}
    if not isinstance(names, dict) or sorted(names) != sorted(str(index) for index in range(classes)):
        raise CheckpointError(
            f"{folder}/config.json: id2label must name the classes 0 to {classes - 1} of the classifier"
        )
    labels = [names[str(index)] for index in range(classes)]
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) < classes:
        raise CheckpointError(f"{folder}/config.json: id2label must give every class a name of its own")
    return labels


def _problem(plain: dict[str, Any], classes: int, folder: Path) -> Literal["single", "multi", "regression"]:
    kind = plain.get("problem_type") or ("regression" if classes == 1 else "single_label_classification")
    if kind not in _PROBLEMS:
        raise CheckpointError(
            f"{folder}/config.json: problem_type is {kind!r}; polyseme reads {', '.join(_PROBLEMS)}"
        )
    if kind == "regression" and classes != 1:
        raise CheckpointError(
            f"{folder}/config.json: problem_type 'regression' with {classes} scores; polyseme reads one "
            "number of a text"
        )
    return _PROBLEMS[kind]
