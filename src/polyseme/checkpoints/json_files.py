"""JSON that came from elsewhere: of sensible size and depth, or a clear refusal."""

from pathlib import Path
from typing import Any

from polyseme.errors import CheckpointError, SettingsError
from polyseme.files import refuse_lfs_pointer
from polyseme.input_files import read_small
from polyseme.records import decode_json


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; a `CheckpointError` names the file and what is wrong with it."""
    value = _read(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not an object of settings")
    return value


def read_array(path: Path) -> list[Any]:
    """The JSON array in a file; a `CheckpointError` names the file and what is wrong with it."""
    value = _read(path)
    if not isinstance(value, list):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not a list")
    return value


def _read(path: Path) -> Any:
    refuse_lfs_pointer(path, CheckpointError)
    try:
        return decode_json(read_small(path), where=str(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}, which a model folder needs") from error
    except SettingsError as error:
        raise CheckpointError(str(error)) from error
