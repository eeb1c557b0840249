"""What a user chooses about vectors, and what a model's folder has to say about its own."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from polyseme.embedding.layers import Layers
from polyseme.errors import CheckpointError
from polyseme.records import Record

Pooling = Literal["first", "last", "mean", "max", "mean-max", "pooler"]


class EmbedSettings(Record):
    """How vectors are made; what is left at None is as the model's folder says, or else the usual choice."""

    layers: str | None = None
    """Layers: one (-1), several joined (0,6,12 or -4:-1), or their mean (mean:-4:-1); usually -1."""
    pooling: Pooling | None = None
    """How a text's states become one vector; usually mean. `pooler` is BERT's trained layer over [CLS]."""
    normalize: bool | None = None
    """Scale vectors to length 1; usually not."""
    long_texts: Literal["windows", "truncate"] | None = None
    """Read texts longer than the model by overlapping windows (usual), or cut them."""
    max_length: int | None = None
    """Tokens that the model reads at once, [CLS] and [SEP] included; at most as many as it has positions."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers in which the network computes; bf16 is faster and agrees to about three digits."""
    batch_tokens: int = 4096
    """Tokens computed at once, padding included; more need more memory and keep a GPU busier."""
    threads: int | None = None
    """Threads of the processor; None leaves PyTorch's choice."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1 …; None takes a GPU where there is one."""
    encoding: str = "utf-8"
    """Encoding of the text file, or `auto`."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not in the encoding."""

    def __post_init__(self) -> None:
        if self.layers is not None:
            Layers.of(self.layers)
        if self.max_length is not None and self.max_length < 3:
            raise ValueError(
                f"max_length must be at least 3, [CLS] and [SEP] included, got {self.max_length}"
            )
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {self.batch_tokens}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")


class FolderSettings(Record):
    """What a folder of sentence-transformers says about its vectors; None where it says nothing."""

    pooling: Pooling | None = None
    normalize: bool | None = None
    long_texts: Literal["windows", "truncate"] | None = None
    max_length: int | None = None
    prompt: str = ""
    """Put before each text, as that library does."""


_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How older folders of theirs say it; several are joined in this order."""

_POOLINGS: dict[tuple[str, ...], Pooling] = {
    ("cls",): "first",
    ("lasttoken",): "last",
    ("mean",): "mean",
    ("max",): "max",
    ("mean", "max"): "mean-max",
}


def transformer_folder(folder: Path) -> Path:
    """Where the network lies: older sentence-transformers folders keep it one level down."""
    modules = _read(folder / "modules.json") or []
    return folder / modules[0].get("path", "") if modules else folder


def folder_settings(folder: Path) -> FolderSettings:
    """Pooling, scaling, length and prompt of a sentence-transformers folder; empty for any other folder.

    A `CheckpointError` names a module that we have no counterpart for: its vectors would be others.
    """
    modules = _read(folder / "modules.json")
    if not modules:
        return FolderSettings()
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise CheckpointError(
            f"{folder} makes its vectors by {', '.join(kinds)}; only Transformer, Pooling and Normalize are "
            "read here, and without the rest the vectors would be wrong"
        )
    pooling = _read(folder / modules[1]["path"] / "config.json") or {}
    reading = _read(transformer_folder(folder) / "sentence_bert_config.json") or {}
    prompts = _read(folder / "config_sentence_transformers.json") or {}
    length = reading.get("max_seq_length")
    return FolderSettings(
        pooling=_pooling(pooling, folder),
        normalize=kinds[2:] == ["Normalize"],
        long_texts="truncate",
        max_length=length,
        prompt=_prompt(prompts, pooling, folder),
    )


def _pooling(config: dict[str, Any], folder: Path) -> Pooling:
    modes = config.get("pooling_mode") or [mode for switch, mode in _SWITCHES.items() if config.get(switch)]
    names = (modes,) if isinstance(modes, str) else tuple(modes or ["mean"])
    if names not in _POOLINGS:
        raise CheckpointError(
            f"{folder} pools by {' + '.join(names)}, which is not read here; known are "
            + ", ".join(" + ".join(known) for known in _POOLINGS)
        )
    return _POOLINGS[names]


def _prompt(config: dict[str, Any], pooling: dict[str, Any], folder: Path) -> str:
    name = config.get("default_prompt_name")
    if name is None:
        return ""
    if not pooling.get("include_prompt", True):
        raise CheckpointError(
            f"{folder} leaves its prompt {name!r} out of the pooling, which is not read here"
        )
    return str(config.get("prompts", {}).get(name, ""))


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
