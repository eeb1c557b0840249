"""What a published family's folder looks like, as data; and the table of the families that are known."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import msgspec

from polyseme.checkpoints.model import POOL
from polyseme.checkpoints.rules import Rules
from polyseme.errors import CheckpointError
from polyseme.models.transformer.config import TransformerConfig
from polyseme.records import flat, nested

FORMATS = {
    "bert": "polyseme.checkpoints.bert:BERT",
    "ernie": "polyseme.checkpoints.ernie:ERNIE",
    "roberta": "polyseme.checkpoints.roberta:ROBERTA",
    "xlm-roberta": "polyseme.checkpoints.roberta:XLM_ROBERTA",
    "albert": "polyseme.checkpoints.albert:ALBERT",
    "electra": "polyseme.checkpoints.electra:ELECTRA",
    "distilbert": "polyseme.checkpoints.distilbert:DISTILBERT",
    "modernbert": "polyseme.checkpoints.modernbert:MODERNBERT",
    "gpt2": "polyseme.checkpoints.gpt2:GPT2",
    "openai-gpt": "polyseme.checkpoints.gpt:GPT",
    "t5": "polyseme.checkpoints.t5:T5",
    "mt5": "polyseme.checkpoints.t5:MT5",
    "transformer": "polyseme.checkpoints.transformer:TRANSFORMER",
    "transfo-xl": "polyseme.checkpoints.transfo_xl:TRANSFO_XL",
    "xlnet": "polyseme.checkpoints.xlnet:XLNET",
}
"""By the `model_type` of config.json."""

SAME = {"camembert": "roberta"}
"""Families that are another one by the tensors' names and by what is computed."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "swish": "silu",
}
"""The activations of config.json by our names; of several for one of ours, the first is written."""


def no_rules(config: TransformerConfig) -> Rules:
    """Where the rules are the same for every configuration."""
    return {}


@dataclass(frozen=True)
class Format:
    """How one family's folders say what our records and modules say."""

    family: str
    rules: Mapping[str, Rules]
    """For `backbone`, `pooler`, `decoder` and each head: foreign names to ours; heads' names start with the
    head's."""
    prefix: str
    """What foreign names of the backbone start with, except where it was saved alone."""
    roots: tuple[str, ...]
    """What the names of a backbone that was saved alone start with."""
    marks: Mapping[str, str]
    """For each head the one foreign tensor that only this head has."""
    architectures: Mapping[frozenset[str], str]
    """The name of transformers' class for a set of heads; a set that is not listed cannot be saved. A decoder
    counts as one of them."""
    names: Mapping[str, str]
    """Fields of `TransformerConfig`, nested ones as `outer.inner`, by the keys of config.json."""
    defaults: Mapping[str, Any]
    """What an absent key of config.json means."""
    fixed: Mapping[str, Any]
    """Fields of `TransformerConfig` that have only this value in the family, where it is not the default."""
    demanded: Mapping[str, tuple[Any, ...]]
    """Keys of config.json that change what is computed, and their values that we compute."""
    written: Mapping[str, Any]
    """Keys of config.json that we always write."""
    poolings: Mapping[str, Any]
    """How a classifier pools, and what is written into config.json for it."""
    classifier: Mapping[str, Any]
    """What else `ClassificationHead` is told in this family: its transform, whether it has a bias, and its
    dropout where it is not the layers'."""
    read_more: Callable[[dict[str, Any]], dict[str, Any]]
    """Further fields of `TransformerConfig`; raises `ValueError` for what we do not compute."""
    write_more: Callable[[TransformerConfig], dict[str, Any]]
    """Further keys of config.json."""
    ties: Mapping[str, str]
    """Foreign tensors that must equal another one, where both are stored."""
    masked_lm_activation: str | None = None
    """The activation inside the masked-lm head where it is always this one, whatever the layers have."""
    special_ids: Mapping[str, str] = field(default_factory=dict)
    """Keys of config.json for tokens of the tokenizer, by the role of the token."""
    old_names: tuple[tuple[str, str], ...] = ()
    """Endings of foreign names that older files spell differently."""
    buffers: tuple[str, ...] = ()
    """Foreign tensors that hold no weights and are not read; `{n}` stands for a layer's number."""
    aside: tuple[str, ...] = ()
    """Starts of foreign names that belong to heads of other tasks, which we do not have."""
    wrapper: str = ""
    """What some classes put before every name of the backbone, and others do not."""
    fresh_only: tuple[str, ...] = ()
    """Fields of `TransformerConfig` that matter for fresh weights only, and that config.json leaves out."""
    more_rules: Callable[[TransformerConfig], Rules] = no_rules
    """Rules of the backbone, decoder included, that hold for some configurations only."""
    untied: str = ""
    """A foreign tensor of `ties` that may differ from its other end: then the model is not tied."""
    activations: Mapping[str, str] = field(default_factory=lambda: ACTIVATIONS)
    """What the family's words for activations mean."""
    readings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What heads of tasks other than the classifier are told in this family, by the head; its own `pooling`
    where it does not pool as the classifier does."""

    @property
    def heads(self) -> frozenset[str]:
        """The heads that a folder of the family can hold."""
        return frozenset[str]().union(*self.architectures)

    def reading(self, head: str, pooling: str) -> dict[str, Any]:
        """What a head is told: keywords of its class; `pooling` for one that pools as the classifier does."""
        told = self.classifier if head == "classification" else self.readings.get(head, {})
        return {"pooling": pooling, **told} if head in POOL else dict(told)

    def reads_pooled(self, head: str) -> bool:
        """Whether a head that may read what a pooler makes does so in this family."""
        if head not in POOL:
            return True
        own = self.readings.get(head, {}).get("pooling")
        return "pooler" in self.poolings if own is None else bool(own == "pooler")

    @property
    def tied_heads(self) -> frozenset[str]:
        """Those of them without any tensor of their own."""
        return frozenset(head for head in self.heads if not self.rules[head])


def format_of(family: str) -> Format:
    """The format of a family, or a `CheckpointError` that lists the known ones."""
    if family not in FORMATS:
        hint = f"; it computes what {SAME[family]} does: set model_type to that" if family in SAME else ""
        raise CheckpointError(
            f"models of the family {family!r} cannot be read or written; known are {', '.join(FORMATS)}{hint}"
        )
    module, name = FORMATS[family].split(":")
    found = getattr(import_module(module), name)
    assert isinstance(found, Format)
    return found


def check_sayable(format: Format, config: TransformerConfig, heads: Iterable[str]) -> None:
    """Raise the `CheckpointError` that saving such a model would raise: before a long training, not after."""
    heads = tuple(heads)
    config_json(format, config)
    check_heads(format, config, heads)
    architecture_of(format, config, heads)


def architecture_of(format: Format, config: TransformerConfig, heads: Iterable[str]) -> str:
    """The name of transformers' class for these parts; `CheckpointError` where the family has none."""
    heads = {*heads, *({"decoder"} if config.decoder else ())}
    architecture = format.architectures.get(frozenset(heads))
    if architecture is None:
        known = " or ".join(", ".join(sorted(some)) for some in format.architectures if some)
        raise CheckpointError(
            f"a {format.family} folder cannot hold the heads {', '.join(sorted(heads))}; it holds {known}"
        )
    return architecture


def check_heads(format: Format, config: TransformerConfig, heads: Iterable[str]) -> None:
    """Refuse a head that the family computes otherwise than we do."""
    if "masked-lm" in heads and format.masked_lm_activation not in (None, config.activation):
        raise CheckpointError(
            f"the layers' activation is {config.activation!r}, but the masked-lm head of {format.family} "
            f"always has {format.masked_lm_activation!r}, and polyseme has one for both; "
            f"set activation to {format.masked_lm_activation!r}, or leave the head out"
        )


def read_config(
    format: Format, plain: dict[str, Any], *, where: str, pooler: bool, decoder: bool = False
) -> TransformerConfig:
    """Our record from the content of config.json; a `CheckpointError` names the value that does not fit.

    `pooler` and `decoder` say whether the model has these parts.
    """
    for key, allowed in format.demanded.items():
        if key in plain and plain[key] not in allowed:
            raise CheckpointError(
                f"{where}: {key} is {plain[key]!r}, which polyseme does not compute; "
                f"it reads {' or '.join(map(repr, allowed))}"
            )
    fields: dict[str, Any] = {**format.fixed, "pooler": pooler}
    for ours, theirs in format.names.items():
        value = plain.get(theirs)
        if value is None:
            value = format.defaults[theirs]
        if ours == "activation":
            if not isinstance(value, str) or value not in format.activations:
                raise CheckpointError(
                    f"{where}: {theirs} is {value!r}; polyseme computes {', '.join(format.activations)}"
                )
            value = format.activations[value]
        fields[ours] = value
    try:
        fields |= format.read_more(plain)
        if not decoder:
            fields = {name: value for name, value in fields.items() if not name.startswith("decoder.")}
        return msgspec.convert(nested(fields), TransformerConfig)
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
        message = str(error)
        for ours, theirs in format.names.items():
            message = message.replace(f"`$.{ours}`", theirs)
        message = re.sub(r"`\$\.(\S+)`", r"\1", message)
        raise CheckpointError(f"{where}: {message}") from error


def config_json(format: Format, config: TransformerConfig) -> dict[str, Any]:
    """The content of config.json; a `CheckpointError` names a choice that the family does not have."""
    fields = flat(config)
    plain: dict[str, Any] = {"model_type": format.family, **format.written}
    for ours, theirs in format.names.items():
        value = fields[ours]
        if ours == "activation":
            said = [name for name, activation in format.activations.items() if activation == value]
            if not said:
                raise CheckpointError(f"a {format.family} folder cannot say activation={value!r}")
            value = said[0]
        plain[theirs] = value
    try:
        plain |= format.write_more(config)
    except ValueError as error:
        raise CheckpointError(f"a {format.family} folder cannot say {error}") from error
    pooler = config.pooler and bool(format.rules["pooler"])
    decoder = config.decoder is not None and "decoder" in format.rules
    told = read_config(format, plain, where=f"a {format.family} folder", pooler=pooler, decoder=decoder)
    for name, value in flat(told).items():
        if fields.get(name) != value and name not in format.fresh_only:
            raise CheckpointError(
                f"a {format.family} folder cannot say {name}={fields.get(name)!r}; "
                f"in this family it is {value!r}"
            )
    return plain
