"""Names of models to folders on this machine: a folder is used as it is, a hub name is fetched."""

import os
import re
from pathlib import Path
from typing import Any

from polyseme.errors import CheckpointError, MissingExtra

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_DATA = re.compile(r"([^/]+\.(json|txt|model)|\d+_[A-Za-z]+/[^/]+\.(json|txt))")
_SAFE = re.compile(r"(\d+_[A-Za-z]+/)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|task\.safetensors")
_PICKLED = re.compile(r"(\d+_[A-Za-z]+/)?pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")


def resolve(name_or_folder: str | Path) -> Path:
    """The folder of a model.

    A name that is no folder is fetched from the hub (`HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` are
    respected): data files only, and pickled weights only where there are no others. Where the hub cannot be
    reached, what was fetched before is used.
    """
    folder, name = Path(name_or_folder), str(name_or_folder)
    if name and folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointError(f"{name} is a file; name the model's folder")
    if not _NAME.fullmatch(name) or ".." in name:
        raise CheckpointError(
            f"there is no folder {name or repr(name)}, and it is no name on the hub (owner/model) either"
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtra("huggingface-hub", extra="hub") from error
    endpoint = os.environ.get("HF_ENDPOINT") or huggingface_hub.constants.ENDPOINT
    try:
        info = huggingface_hub.HfApi(endpoint=endpoint).model_info(name)
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {name}, and no model of this name on {endpoint}"
        ) from error
    except Exception as error:  # Whatever the client's HTTP library raises without a network.
        return _fetched_before(huggingface_hub, name, endpoint, error)
    files = _wanted([file.rfilename for file in info.siblings or []])
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=files, endpoint=endpoint))
    except Exception as error:
        raise CheckpointError(f"{name} cannot be fetched from {endpoint}: {_first_line(error)}") from error


def _fetched_before(hub: Any, name: str, endpoint: str, reason: Exception) -> Path:
    found = hub.try_to_load_from_cache(name, "config.json")
    if not isinstance(found, str):
        raise CheckpointError(
            f"there is no folder {name}, it was not fetched before, and {endpoint} cannot be asked: "
            f"{_first_line(reason)}"
        ) from reason
    return Path(found).parent


def _wanted(files: list[str]) -> list[str]:
    """The data files of a repository, with one kind of weights."""
    weights = [name for name in files if _SAFE.fullmatch(name)]
    weights = weights or [name for name in files if _PICKLED.fullmatch(name)]
    return [*(name for name in files if _DATA.fullmatch(name) and not name.endswith(".index.json")), *weights]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
