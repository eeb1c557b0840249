"""Names of models to folders on this machine: a folder is used as it is, a hub name is fetched once."""

import os
import re
from pathlib import Path
from typing import Any

from polyseme.errors import CheckpointError, MissingExtra

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_DATA = re.compile(r"([^/]+\.(json|txt|model)|\d+_[A-Za-z]+/[^/]+\.(json|txt))")
_SAFE = re.compile(r"(\d+_[A-Za-z]+/)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_PICKLED = re.compile(r"(\d+_[A-Za-z]+/)?pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")


def resolve(name_or_folder: str | Path) -> Path:
    """The folder of a model.

    A name that is no folder is looked up in the hub's local cache and then fetched from the hub
    (`HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` are respected): data files only, and pickled weights
    only where there are no others. Once fetched, the network is not asked again.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    name = str(name_or_folder)
    if folder.is_file():
        raise CheckpointError(f"{name} is a file; name the model's folder")
    if not _NAME.fullmatch(name) or ".." in name:
        raise CheckpointError(f"there is no folder {name}, and it is no name on the hub (owner/model) either")
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtra("huggingface-hub", extra="hub") from error
    return _cached(huggingface_hub, name) or _fetched(huggingface_hub, name)


def _cached(hub: Any, name: str) -> Path | None:
    """The folder of an earlier fetch, if it was complete."""
    try:
        folder = Path(hub.snapshot_download(name, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        return None
    return folder if (folder / "config.json").exists() and _has_weights(folder) else None


def _fetched(hub: Any, name: str) -> Path:
    endpoint = os.environ.get("HF_ENDPOINT") or hub.constants.ENDPOINT
    try:
        info = hub.HfApi(endpoint=endpoint).model_info(name)
        files = _wanted([file.rfilename for file in info.siblings or []])
        return Path(hub.snapshot_download(name, revision=info.sha, allow_patterns=files, endpoint=endpoint))
    except hub.errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {name}, and no model of this name on {endpoint}"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"there is no folder {name}, and {endpoint} cannot be asked: {error}"
        ) from error


def _wanted(files: list[str]) -> list[str]:
    """The data files of a repository, with one kind of weights."""
    weights = [name for name in files if _SAFE.fullmatch(name)]
    weights = weights or [name for name in files if _PICKLED.fullmatch(name)]
    return [*(name for name in files if _DATA.fullmatch(name) and not name.endswith(".index.json")), *weights]


def _has_weights(folder: Path) -> bool:
    return any(
        pattern.fullmatch(path.relative_to(folder).as_posix())
        for pattern in (_SAFE, _PICKLED)
        for path in folder.rglob("*")
    )
