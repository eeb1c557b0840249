"""The files that make a model folder an embedding model of sentence-transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyseme.checkpoints.json_files import read_array, read_object
from polyseme.checkpoints.model import Card
from polyseme.errors import CheckpointError
from polyseme.records import to_json

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

_PARTS = ("Transformer", "Pooling", "Normalize")


def transformer_folder(folder: Path) -> Path:
    """Where the network of an embedding model lies: older releases gave it a folder of its own."""
    for module in _modules(folder):
        if module["type"].endswith(".Transformer"):
            return folder / _inside(module["path"], folder)
    return folder


def read_pooling(folder: Path) -> dict[str, Any]:
    """`pooling`, `normalize`, `max_length` and `prompt` of a card; nothing where the folder is no such model.

    Raises `CheckpointError` for what would change the vectors and we do not compute.
    """
    modules = _modules(folder)
    if not modules:
        return {}
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in ([*_PARTS[:2]], [*_PARTS]):
        raise CheckpointError(
            f"{folder}/modules.json makes vectors by {', '.join(kinds)}; "
            "polyseme computes Transformer, Pooling and, after them, Normalize"
        )
    pooling = read_object(folder / _inside(modules[1]["path"], folder) / "config.json")
    return {
        "pooling": _pooling(pooling, folder),
        "normalize": "Normalize" in kinds,
        "max_length": _max_length(transformer_folder(folder)),
        "prompt": _prompt(folder, pooling),
    }


def pooling_files(card: Card, *, hidden_size: int, max_positions: int) -> dict[str, bytes]:
    """The files beside the model's own, by name, for a card that names its pooling."""
    modes = {ours: theirs for theirs, ours in POOLINGS.items()}
    if card.pooling not in modes:
        raise CheckpointError(
            f"a sentence-transformers folder cannot say pooling {card.pooling!r}; it says {', '.join(modes)}"
        )
    paths = ("", "1_Pooling", "2_Normalize") if card.normalize else ("", "1_Pooling")
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(zip(paths, _PARTS, strict=False))
    ]
    switches = {switch: mode == modes[card.pooling] for mode, switch in _SWITCHES.items()}
    files: dict[str, Any] = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": hidden_size, **switches},
        "sentence_bert_config.json": {
            "max_seq_length": card.max_length or max_positions,
            "do_lower_case": False,
        },
    }
    if card.normalize:
        files["2_Normalize/config.json"] = {}
    if card.prompt:
        files["config_sentence_transformers.json"] = {
            "prompts": {"default": card.prompt},
            "default_prompt_name": "default",
        }
    return {name: to_json(content) for name, content in files.items()}


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
    return modules


def _inside(path: str, folder: Path) -> str:
    if Path(path).name != path:
        raise CheckpointError(
            f"{folder}/modules.json names the path {path!r}, which lies outside of its folder"
        )
    return path


def _pooling(config: Mapping[str, Any], folder: Path) -> str:
    modes = config.get("pooling_mode") or [mode for mode, switch in _SWITCHES.items() if config.get(switch)]
    modes = [modes] if isinstance(modes, str) else list(modes or ["mean"])
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise CheckpointError(
            f"{folder} pools by {' and '.join(map(str, modes))}; polyseme reads {' or '.join(POOLINGS)}"
        )
    return POOLINGS[modes[0]]


def _max_length(folder: Path) -> int | None:
    """What the model's settings say, else what its tokenizer's do, as sentence-transformers reads them."""
    path, tokenizer_path = folder / "sentence_bert_config.json", folder / "tokenizer_config.json"
    settings = read_object(path) if path.exists() else {}
    tokenizer = read_object(tokenizer_path) if tokenizer_path.exists() else {}
    if settings.get("do_lower_case") and tokenizer.get("do_lower_case") is False:
        raise CheckpointError(
            f"{path}: do_lower_case is true and the tokenizer's is not, which is not computed"
        )
    length = settings.get("max_seq_length") or tokenizer.get("model_max_length")
    # Tokenizers without a limit say so by a number with thirty digits.
    return length if isinstance(length, int) and 0 < length < 1 << 24 else None


def _prompt(folder: Path, pooling: Mapping[str, Any]) -> str:
    path = folder / "config_sentence_transformers.json"
    settings = read_object(path) if path.exists() else {}
    name = settings.get("default_prompt_name")
    prompts = settings.get("prompts") or {}
    prompt = prompts.get(name, "") if name is not None and isinstance(prompts, dict) else ""
    if not isinstance(prompt, str) or (prompt and pooling.get("include_prompt") is False):
        raise CheckpointError(
            f"{path}: the prompt {name!r} is left out of the pooling, which is not computed"
        )
    return prompt
