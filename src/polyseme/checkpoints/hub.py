"""Names of models to folders on this machine: a folder is used as it is, a name is fetched from a hub."""

import os
import re
from importlib import import_module
from pathlib import Path

from polyseme.errors import CheckpointError, SettingsError

HUBS = {
    "huggingface": "polyseme.checkpoints.huggingface:fetch",
    "modelscope": "polyseme.checkpoints.modelscope:fetch",
}
"""By the word before a name's colon: import paths of the functions that fetch."""

_PART = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(
    rf"((?P<hub>{'|'.join(HUBS)}):)?(?P<name>{_PART}(/{_PART})?)(@(?P<revision>[A-Za-z0-9][\w./-]*))?"
)


def resolve(name_or_folder: str | Path) -> Path:
    """The folder of a model.

    A name that is no folder is fetched from a hub: `owner/name` from the hub that the environment variable
    `POLYSEME_HUB` names (`huggingface` if it is unset, or `modelscope`), `modelscope:owner/name` and
    `huggingface:owner/name` from that one, and `owner/name@revision` at a branch, tag or commit. Data files
    only, and pickled weights only where there are no others. Where the hub cannot be reached, what was
    fetched before is used.
    """
    folder, name = Path(name_or_folder), str(name_or_folder)
    if name and folder.is_dir():
        _refuse_cache_folder(folder)
        return folder
    if folder.is_file():
        raise CheckpointError(f"{name} is a file; name the model's folder")
    found = _NAME.fullmatch(name)
    if found is None or ".." in name or "--" in found["name"]:
        hint = _cached_name(folder.name)
        raise CheckpointError(
            f"there is no folder {name or repr(name)}, and it is no name on a hub either "
            f"(owner/name, modelscope:owner/name, owner/name@revision){hint}"
        )
    hub = found["hub"] or os.environ.get("POLYSEME_HUB") or "huggingface"
    if hub not in HUBS:
        raise SettingsError(f"POLYSEME_HUB is {hub!r}; it can be {' or '.join(HUBS)}")
    module, function = HUBS[hub].split(":")
    fetched: Path = getattr(import_module(module), function)(found["name"], found["revision"])
    return fetched


def _cached_name(name: str) -> str:
    """The advice for the name of a folder in a hub client's cache; empty for other names."""
    owner_and_name = name.removeprefix("models--")
    return "" if owner_and_name == name else f"; on the hub it is {owner_and_name.replace('--', '/')}"


def _refuse_cache_folder(folder: Path) -> None:
    """Refuse a folder of a hub client's cache that holds versions of a model, and name these."""
    if "--" not in folder.resolve().name or not (folder / "snapshots").is_dir():
        return
    versions = sorted(str(path) for path in (folder / "snapshots").iterdir() if path.is_dir())
    name = folder.resolve().name.removeprefix("models--").replace("--", "/")
    raise CheckpointError(
        f"{folder} is a hub client's cache of the model {name}; "
        + (f"name the folder of a version: {', '.join(versions[:3])}" if versions else "it is empty")
    )
