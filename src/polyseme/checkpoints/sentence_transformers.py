"""The files that make a model folder an embedding model of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from polyseme.checkpoints.json_files import read_array, read_object
from polyseme.checkpoints.model import Card
from polyseme.checkpoints.sentence_transformers_keys import (
    MODEL,
    MODULE,
    NORMALIZE,
    POOLING,
    TRANSFORMER,
    Keys,
    check_keys,
)
from polyseme.errors import CheckpointError
from polyseme.records import to_json

if TYPE_CHECKING:
    from torch import nn

POOLINGS = {"cls": "first", "mean": "mean", "max": "max", "lasttoken": "last"}
"""Pooling modes of sentence-transformers by our names."""

_SWITCHES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""The same modes as releases before 5 spell them: a switch each, and all still read them."""

SETTINGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names of the network's settings; older releases had one for each family."""

_OWN = "sentence_transformers."
_COMPUTED = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")


def transformer_folder(folder: Path) -> Path:
    """Where the network of an embedding model lies: older releases gave it a folder of its own."""
    for module in _modules(folder):
        if module["type"].endswith(".Transformer"):
            return folder / _inside(module["path"], folder)
    return folder


def read_pooling(folder: Path) -> dict[str, Any]:
    """The fields of a card that the folder of an embedding model decides; else nothing.

    Raises `CheckpointError` for what would change the vectors and we do not compute.
    """
    modules = _modules(folder)
    if not modules:
        return {}
    kinds = [_kind(module, folder) for module in modules]
    used = [kind for kind in kinds if kind != "Dropout"]
    if used[:2] != ["Transformer", "Pooling"] or not {*used[2:]} <= {"Dense", "Normalize"}:
        raise CheckpointError(
            f"{folder}/modules.json makes vectors by {', '.join(kinds)}; "
            "polyseme computes Transformer, Pooling and, after them, Dense and Normalize"
        )
    pooling = _settings_of(modules[kinds.index("Pooling")], POOLING, folder)
    network = transformer_folder(folder)
    settings, path = _network_settings(network)
    check_keys(settings, TRANSFORMER, path)
    return {
        "pooling": _pooling(pooling, folder),
        "normalize": used[-1] == "Normalize",
        "max_length": _max_length(settings, network),
        **_prompts(folder),
        "include_prompt": pooling.get("include_prompt") is not False,
    }


def lowers_texts(folder: Path) -> bool:
    """Whether the folder of an embedding model has its texts in lower case before they are tokenised."""
    if not _modules(folder):
        return False
    settings, path = _network_settings(transformer_folder(folder))
    lowers = settings.get("do_lower_case") or False
    if not isinstance(lowers, bool):
        raise CheckpointError(f"{path}: do_lower_case is a {type(lowers).__name__}; it is true or false")
    return lowers


def read_after_pooling(folder: Path, *, size: int) -> list[nn.Module]:
    """What a folder computes behind its pooling, up to the last Normalize, which the card tells.

    `size` is that of the states.
    """
    from polyseme.checkpoints.dense import read_dense  # Cards are read for the help too, without torch.
    from polyseme.models.projection import UnitLength

    found: list[nn.Module] = []
    modules = [module for module in _modules(folder) if _kind(module, folder) != "Dropout"]
    for place, module in enumerate(modules):
        kind = _kind(module, folder)
        if kind == "Pooling":
            settings = _settings_of(module, POOLING, folder)
            told = settings.get("embedding_dimension", settings.get("word_embedding_dimension", size))
            if told != size:
                raise CheckpointError(
                    f"{folder}/{module['path']}: it pools vectors of another size than the model's {size}"
                )
        elif kind == "Dense":
            dense = read_dense(folder / _inside(module["path"], folder), size=size)
            size = dense.linear.out_features
            found.append(dense)
        elif kind == "Normalize":
            _settings_of(module, NORMALIZE, folder)
            found += [UnitLength()] if place < len(modules) - 1 else []
    return found


def pooling_files(
    card: Card, *, hidden_size: int, max_positions: int, after_pooling: Sequence[nn.Module] = ()
) -> dict[str, bytes]:
    """The files beside the model's own, by name, for a card that names its pooling."""
    from polyseme.checkpoints.dense import dense_files
    from polyseme.models.projection import Dense

    modes = {ours: theirs for theirs, ours in POOLINGS.items()}
    if card.pooling not in modes:
        raise CheckpointError(
            f"a sentence-transformers folder cannot say pooling {card.pooling!r}; it says {', '.join(modes)}"
        )
    switches = {switch: mode == modes[card.pooling] for mode, switch in _SWITCHES.items()}
    pooling = {"word_embedding_dimension": hidden_size, **switches, "include_prompt": card.include_prompt}
    parts: list[tuple[str, dict[str, bytes]]] = [
        ("Transformer", {}),
        ("Pooling", {"config.json": to_json(pooling)}),
    ]
    for module in after_pooling:
        own = dense_files(module) if isinstance(module, Dense) else {"config.json": to_json({})}
        parts.append(("Dense" if isinstance(module, Dense) else "Normalize", own))
    if card.normalize:
        parts.append(("Normalize", {"config.json": to_json({})}))
    paths = ["", *(f"{index}_{kind}" for index, (kind, _) in enumerate(parts[1:], start=1))]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"{_OWN}models.{kind}"}
        for index, (path, (kind, _)) in enumerate(zip(paths, parts, strict=True))
    ]
    network = {"max_seq_length": card.max_length or max_positions, "do_lower_case": False}
    files = {
        "modules.json": msgspec.json.format(msgspec.json.encode(modules), indent=2) + b"\n",
        "sentence_bert_config.json": to_json(network),
    }
    for path, (_, own) in zip(paths, parts, strict=True):
        files |= {f"{path}/{name}": content for name, content in own.items()}
    if model := _model_settings(card):
        files["config_sentence_transformers.json"] = to_json(model)
    return files


def _model_settings(card: Card) -> dict[str, Any]:
    """The content of config_sentence_transformers.json; empty where it would say nothing."""
    prompts = dict(card.prompts)
    name = next((name for name, prompt in prompts.items() if prompt == card.prompt), None)
    if card.prompt and name is None:
        name = "default"
        prompts[name] = card.prompt
    settings: dict[str, Any] = {}
    if prompts:
        settings = {"prompts": prompts, "default_prompt_name": name if card.prompt else None}
    return settings | ({} if card.dimensions is None else {"truncate_dim": card.dimensions})


def _modules(folder: Path) -> list[dict[str, str]]:
    path = folder / "modules.json"
    if not path.exists():
        return []
    modules = read_array(path)
    for module in modules:
        if not isinstance(module, dict) or not all(
            isinstance(module.get(key), str) for key in ("path", "type")
        ):
            raise CheckpointError(f"{path} must list modules with a type and a path each")
        check_keys(module, MODULE, path)
    return modules


def _kind(module: Mapping[str, str], folder: Path) -> str:
    """The class of a module without its package, where it is the other library's own and computed."""
    kind = module["type"].rpartition(".")[2]
    if not module["type"].startswith(_OWN) or kind not in _COMPUTED:
        raise CheckpointError(
            f"{folder}/modules.json names the module {module['type'][:80]}, which is not computed; "
            f"{', '.join(_COMPUTED)} of sentence_transformers are"
        )
    return kind


def _settings_of(module: Mapping[str, str], keys: Keys, folder: Path) -> dict[str, Any]:
    path = folder / _inside(module["path"], folder) / "config.json"
    if keys is NORMALIZE and not path.exists():  # Older releases wrote none.
        return {}
    settings = read_object(path)
    check_keys(settings, keys, path)
    return settings


def _network_settings(folder: Path) -> tuple[dict[str, Any], Path]:
    """The first of the files that says anything, and which it is."""
    for name in SETTINGS:
        path = folder / name
        if path.exists() and (settings := read_object(path)):
            return settings, path
    return {}, folder / SETTINGS[0]


def _inside(path: str, folder: Path) -> str:
    if Path(path).name != path:
        raise CheckpointError(
            f"{folder}/modules.json names the path {path!r}, which lies outside of its folder"
        )
    return path


def _pooling(config: Mapping[str, Any], folder: Path) -> str:
    modes = config.get("pooling_mode") or [mode for mode, switch in _SWITCHES.items() if config.get(switch)]
    modes = [modes] if isinstance(modes, str) else modes or ["mean"]
    if not isinstance(modes, list) or modes not in ([name] for name in POOLINGS):
        raise CheckpointError(f"{folder} pools by {_named(modes)}; polyseme reads {' or '.join(POOLINGS)}")
    return POOLINGS[modes[0]]


def _named(modes: Any) -> str:
    if isinstance(modes, list) and all(isinstance(mode, str) for mode in modes):
        return " and ".join(modes)[:100]
    return f"a {type(modes).__name__}"


def _max_length(settings: Mapping[str, Any], folder: Path) -> int | None:
    """What the model's settings say, else what its tokenizer's do, as sentence-transformers reads them."""
    path = folder / "tokenizer_config.json"
    tokenizer = read_object(path) if path.exists() else {}
    length = settings.get("max_seq_length") or tokenizer.get("model_max_length") or tokenizer.get("max_len")
    # Tokenizers without a limit say so by a number with thirty digits.
    return length if isinstance(length, int) and 0 < length < 1 << 24 else None


def _prompts(folder: Path) -> dict[str, Any]:
    """`prompt`, `prompts` and `dimensions` of a card."""
    path = folder / "config_sentence_transformers.json"
    settings = read_object(path) if path.exists() else {}
    check_keys(settings, MODEL, path)
    prompts = settings.get("prompts") or {}
    texts = isinstance(prompts, dict) and all(isinstance(text, str | None) for text in prompts.values())
    if not texts:
        raise CheckpointError(f"{path}: prompts must be texts by their names")
    prompts = {name: text or "" for name, text in prompts.items()}
    name = settings.get("default_prompt_name")
    if name is not None and (not isinstance(name, str) or name not in prompts):
        raise CheckpointError(
            f"{path}: the default_prompt_name {name!r:.60} is no prompt of {', '.join(prompts) or 'none'}"
        )
    dimensions = settings.get("truncate_dim")
    if dimensions is not None and (
        not isinstance(dimensions, int) or isinstance(dimensions, bool) or not 0 < dimensions < 1 << 24
    ):
        raise CheckpointError(f"{path}: truncate_dim is no number of dimensions")
    return {"prompt": prompts.get(name, ""), "prompts": prompts, "dimensions": dimensions}
