"""What a folder of another framework looks like, as data; and the table of the layouts that are known.

A layout leads from foreign names to those that transformers publishes for the family. From there on the
family's `Format` reads them like any other folder, with every tensor accounted for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from polyseme.checkpoints.json_files import read_object
from polyseme.errors import CheckpointError
from polyseme.records import nearest

LAYOUTS = {
    "tensorflow-bert": "polyseme.checkpoints.foreign.bert:BERT",
    "tensorflow-albert": "polyseme.checkpoints.foreign.albert:ALBERT",
    "tensorflow-electra": "polyseme.checkpoints.foreign.electra:DISCRIMINATOR",
    "tensorflow-electra-generator": "polyseme.checkpoints.foreign.electra:GENERATOR",
    "tensorflow-xlnet": "polyseme.checkpoints.foreign.xlnet:XLNET",
    "tensorflow-gpt2": "polyseme.checkpoints.foreign.gpt2:GPT2",
    "tensorflow-t5": "polyseme.checkpoints.foreign.t5:T5",
    "tensorflow-transformer-xl": "polyseme.checkpoints.foreign.transformer_xl:TRANSFORMER_XL",
    "uer-albert": "polyseme.checkpoints.foreign.uer_more:ALBERT",
    "uer-gpt2": "polyseme.checkpoints.foreign.uer_more:GPT2",
    "uer-t5-gated": "polyseme.checkpoints.foreign.uer_t5:T5_GATED",
    "uer-t5": "polyseme.checkpoints.foreign.uer_t5:T5",
    "uer-bert": "polyseme.checkpoints.foreign.uer:BERT",
    "paddle-ernie": "polyseme.checkpoints.foreign.ernie:STATIC",
    "paddlenlp-ernie": "polyseme.checkpoints.foreign.ernie:DYNAMIC",
    "openai-gpt": "polyseme.checkpoints.foreign.openai_gpt:GPT",
}
"""By the name that a user may give; of those that fit a folder, the first is taken."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Held:
    """How foreign tensors hold one that transformers publishes.

    Several `sources` lie one under the other in the published tensor. What happens to them happens in the
    order of the fields.
    """

    sources: tuple[str, ...]
    squeezed: bool = False
    """A first dimension of 1 is left out."""
    by_layer: bool = False
    """The first dimension counts the layers, whose number is the published name's `{n}`."""
    from_row: int = 0
    """The rows before this one belong to nothing."""
    turned: bool = False
    """The matrix is written the other way round."""


Rules = Mapping[str, "str | Held"]
"""Foreign tensors by the published name: the same words in braces stand for the same number on both sides.

`{n:03}` is a number of three digits.
"""


@dataclass(frozen=True)
class Layout:
    """How one project's folders say what transformers' folders say."""

    family: str
    """The `model_type` that transformers gives to such a model."""
    container: str
    """The kind of file: one of the table of containers."""
    marks: tuple[str, ...]
    """Foreign tensors that together tell the layout from others in such a file."""
    rules: Rules
    architectures: tuple[tuple[str, str], ...]
    """The name of transformers' class by the published tensor that only it has; the last one is for all."""
    old_names: Mapping[str, str] = field(default_factory=dict)
    """Foreign names as older files spell them, by templates, and the names that the rules know."""
    settings: tuple[str, ...] = ()
    """Patterns of the name of the settings file, the best first; none where the shapes say everything."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Keys of config.json by the keys of the settings file, where they differ."""
    values: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    """For keys of config.json what a value in the settings file means."""
    sizes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Keys of config.json that are the size of a foreign tensor in some dimension."""
    counts: Mapping[str, str] = field(default_factory=dict)
    """Keys of config.json that count the foreign tensors of a name with `{n}`."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """Keys of config.json that all such folders have."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Regular expressions of foreign names that hold no weights of the model, by what they are."""
    read: Callable[[Path], dict[str, Any]] = read_object
    """Reads the settings file."""
    finish: Callable[[dict[str, Any], Shapes], dict[str, Any]] = lambda plain, shapes: {}
    """Further keys of config.json; raises `ValueError` for what we do not compute."""
    saved_as: str = ""
    """What the checkpoint is called when we write one; empty where we write none."""
    saved_settings: tuple[str, ...] = ()
    """The keys of the settings file, when we write one."""


def layout_of(name: str) -> Layout:
    """The layout of a name, or a `CheckpointError` that lists the known ones."""
    if name not in LAYOUTS:
        raise CheckpointError(
            f"there is no layout {name!r}{nearest(name, tuple(LAYOUTS))}; known are {', '.join(LAYOUTS)}"
        )
    module, attribute = LAYOUTS[name].split(":")
    found = getattr(import_module(module), attribute)
    assert isinstance(found, Layout)
    return found


def dense(published: str, foreign: str) -> dict[str, str | Held]:
    """Rules of a dense layer as TensorFlow writes it, its kernel inputs by outputs."""
    return {
        f"{published}weight": Held((f"{foreign}kernel",), turned=True),
        f"{published}bias": f"{foreign}bias",
    }


def norm(published: str, foreign: str) -> dict[str, str | Held]:
    """Rules of a layer norm with the names of the first papers' code."""
    return {f"{published}weight": f"{foreign}gamma", f"{published}bias": f"{foreign}beta"}


OPTIMIZER = {
    "optimizer slots": r".*/(adam_[mv]|Adam(_1)?|lamb_[mv]|Momentum|ExponentialMovingAverage)",
    "step counters": r"global_step|beta[12]_power|training/.*/(iter|decay|beta_[12]|learning_rate)",
    "loss scales": r"current_loss_scale|good_steps|loss_scale",
}
"""What optimizers in TensorFlow leave in a checkpoint beside the weights."""
