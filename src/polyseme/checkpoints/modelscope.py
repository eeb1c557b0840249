"""Models of the ModelScope hub, through its official client."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polyseme.checkpoints.hub_files import SETTINGS_FILES, data_files, first_line
from polyseme.checkpoints.notes import say_once
from polyseme.errors import CheckpointError, MissingExtra


def fetch(name: str, revision: str | None) -> Path:
    """The folder of a model in the client's cache, up to date where the hub can be reached.

    `MODELSCOPE_ENDPOINT`, `MODELSCOPE_CACHE`, `MODELSCOPE_API_TOKEN` and `HF_HUB_OFFLINE` are respected.
    """
    try:
        import modelscope_hub
        import modelscope_hub.errors
    except ImportError as error:
        raise MissingExtra("modelscope-hub", extra="modelscope") from error
    errors = modelscope_hub.errors
    with _quiet():
        config = modelscope_hub.HubConfig()
        api, endpoint = modelscope_hub.HubApi(config=config), config.endpoint
        if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
            return _fetched_before(api, name, revision, "the network is off (HF_HUB_OFFLINE)")
        try:
            files = {file.path: file for file in api.list_repo_files(name, "model", revision=revision)}
            wanted = [
                files[path]
                for path in data_files(files, where=f"{name} on {endpoint}")
                if files[path].type != "tree"
            ]
            listed = [{"Path": file.path, "Size": file.size, "Sha256": file.sha256} for file in wanted]
            return Path(api.download_repo(name, "model", revision=revision, file_list=listed))
        except errors.NotExistError as error:
            version = "" if revision is None else f", or no revision {revision!r} of it"
            raise CheckpointError(
                f"there is no model {name} on {endpoint}{version}; "
                "if it is private, set MODELSCOPE_API_TOKEN to an access token that can read it"
            ) from error
        except (errors.AuthenticationError, errors.PermissionDeniedError) as error:
            raise CheckpointError(
                f"{endpoint} refuses access to {name} (status {error.status_code}); "
                "set MODELSCOPE_API_TOKEN to a valid access token that can read it"
            ) from error
        except (errors.NetworkError, errors.ServerError) as error:
            folder = _fetched_before(
                api, name, revision, f"{endpoint} cannot be asked: {first_line(error)}", error
            )
            say_once(f"{endpoint} cannot be reached; {name} is read from the cache, {folder}")
            return folder
        except CheckpointError:
            raise
        except Exception as error:  # Damaged answers and full disks, as the client words them.
            raise CheckpointError(f"{name} cannot be fetched from {endpoint}: {first_line(error)}") from error


def _fetched_before(
    api: Any, name: str, revision: str | None, reason: str, error: Exception | None = None
) -> Path:
    from modelscope_hub.errors import CacheError

    version = name if revision is None else f"{name} at revision {revision}"
    with contextlib.suppress(CacheError):
        folder = Path(api.download_repo(name, "model", revision=revision, local_files_only=True))
        if any((folder / file).is_file() for file in SETTINGS_FILES):
            return folder
    raise CheckpointError(f"{version} was not fetched before from ModelScope, and {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The client logs every step to standard error; its warnings stay."""
    logger = logging.getLogger("modelscope_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
