"""JSON that came from elsewhere: of sensible size and depth, or a clear refusal."""

from pathlib import Path
from typing import Any

import msgspec

from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer

_MOST_BYTES = 1 << 26


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
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"{path} is larger than {_MOST_BYTES >> 20} MB, which no settings file is")
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}, which a model folder needs") from error
    except RecursionError as error:
        raise CheckpointError(f"{path} is nested too deeply for a settings file") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
