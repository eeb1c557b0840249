"""Special tokens by what they are for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyseme.errors import CheckpointError

ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "padding": (("pad_token",), ("[PAD]", "<pad>")),
    "unknown": (("unk_token",), ("[UNK]", "<unk>")),
    "first": (("cls_token", "bos_token"), ("[CLS]", "<cls>", "<s>")),
    "separator": (("sep_token", "eos_token"), ("[SEP]", "<sep>", "</s>", "<|endoftext|>")),
    "mask": (("mask_token",), ("[MASK]", "<mask>")),
}
"""What a special token is for; its names in the settings of transformers; its usual spellings."""


def roles_of(
    settings: Mapping[str, Any], known: set[str], path: Path, *, unknown: str | None = None
) -> dict[str, str]:
    """The special token of each role that the settings name or, failing that, that is spelt as usual."""
    roles = {"unknown": unknown} if unknown else {}
    for role, (names, spellings) in ROLES.items():
        for name in names:
            entry = settings.get(name)
            token = entry.get("content") if isinstance(entry, dict) else entry
            if entry is not None and not isinstance(token, str):
                raise CheckpointError(
                    f"the settings beside {path} name as {name} a {type(token).__name__}; a token is a text"
                )
            if isinstance(token, str) and role not in roles:
                if token not in known:
                    raise CheckpointError(
                        f"the settings beside {path} name {token!r} as {name}, but the vocabulary lacks it; "
                        "add it, or mend the settings"
                    )
                roles[role] = token
        usual = [spelling for spelling in spellings if spelling in known]
        if usual and role not in roles:
            roles[role] = usual[0]
    return {role: roles[role] for role in ROLES if role in roles}
