"""Which files of a hub's repository belong to a model: data only, and one kind of weights."""

import re
from collections.abc import Iterable

from polyseme.errors import CheckpointError

_DATA = re.compile(r"([^/]+\.(json|txt|model)|\d+_[A-Za-z]+/[^/]+\.(json|txt))")
_SAFE = re.compile(r"(\d+_[A-Za-z]+/)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_PICKLED = re.compile(r"(\d+_[A-Za-z]+/)?pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")
_OWN = "task.safetensors"

SETTINGS_FILES = (
    "config.json",
    "bert_config.json",
    "albert_config.json",
    "xlnet_config.json",
    "modules.json",
)
"""Files of which every model folder has one: what was fetched before is recognised by them."""


def data_files(files: Iterable[str], *, where: str) -> list[str]:
    """The data files of a repository; in a folder pickled weights only where it has no others, never code.

    Raises `CheckpointError` for a repository (`where`) without weights that are read.
    """
    files = list(files)
    safe = [name for name in files if _SAFE.fullmatch(name)]
    folders = {name.rpartition("/")[0] for name in safe}
    weights = [
        *safe,
        *(name for name in files if _PICKLED.fullmatch(name) and name.rpartition("/")[0] not in folders),
    ]
    if not weights:
        others = ", ".join(sorted(files)[:8]) or "nothing"
        raise CheckpointError(
            f"{where} has no weights that polyseme reads (model.safetensors or pytorch_model.bin); "
            f"it holds {others}"
        )
    data = [name for name in files if _DATA.fullmatch(name) and not name.endswith(".index.json")]
    return [*data, *(name for name in files if name == _OWN), *weights]


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
