"""Models of the Hugging Face hub, or of a mirror of it."""

import os
from pathlib import Path
from typing import Any

from polyseme.checkpoints.hub_files import SETTINGS_FILES, data_files, first_line
from polyseme.checkpoints.notes import say_once
from polyseme.errors import CheckpointError, MissingExtra


def fetch(name: str, revision: str | None) -> Path:
    """The folder of a model in the client's cache, up to date where the hub can be reached.

    `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` are respected.
    """
    try:
        # Submodules by name: recent releases load them only when they are imported.
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingExtra("huggingface-hub", extra="hub") from error
    errors = huggingface_hub.errors
    endpoint = os.environ.get("HF_ENDPOINT") or huggingface_hub.constants.ENDPOINT
    try:
        info = huggingface_hub.HfApi(endpoint=endpoint).model_info(name, revision=revision)
    except errors.HFValidationError as error:
        raise CheckpointError(
            f"there is no folder {name}, and it is no name on {endpoint} either: {first_line(error)}"
        ) from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"access to {name} is restricted: accept its terms at {endpoint}/{name}, "
            "and set HF_TOKEN to an access token of your account"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {name}, and no model of this name on {endpoint}; "
            "if it is private, set HF_TOKEN to an access token that can read it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision {revision!r} on {endpoint}") from error
    except errors.OfflineModeIsEnabled as error:
        return _fetched_before(huggingface_hub, name, revision, endpoint, error)
    except Exception as error:  # Whatever the client's HTTP library raises without a network.
        if (status := getattr(getattr(error, "response", None), "status_code", None)) in (401, 403):
            raise CheckpointError(
                f"{endpoint} refuses access to {name} (status {status}); "
                "set HF_TOKEN to a valid access token that can read it"
            ) from error
        folder = _fetched_before(huggingface_hub, name, revision, endpoint, error)
        say_once(f"{endpoint} cannot be reached; {name} is read from the cache, {folder}")
        return folder
    files = data_files((file.rfilename for file in info.siblings or []), where=f"{name} on {endpoint}")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=files, endpoint=endpoint
            )
        )
    except Exception as error:
        raise CheckpointError(f"{name} cannot be fetched from {endpoint}: {first_line(error)}") from error


def _fetched_before(hub: Any, name: str, revision: str | None, endpoint: str, reason: Exception) -> Path:
    for file in SETTINGS_FILES:
        if isinstance(found := hub.try_to_load_from_cache(name, file, revision=revision), str):
            return Path(found).parent
    version = name if revision is None else f"{name} at revision {revision}"
    raise CheckpointError(
        f"there is no folder {name}, {version} was not fetched before, and {endpoint} cannot be asked: "
        f"{first_line(reason)}"
    ) from reason
