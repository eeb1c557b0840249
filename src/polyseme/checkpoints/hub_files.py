"""Which files of a hub's repository belong to a model: data only, and one kind of weights."""

import re
from collections.abc import Iterable

_DATA = re.compile(r"([^/]+\.(json|txt|model)|\d+_[A-Za-z]+/[^/]+\.(json|txt))")
_SAFE = re.compile(r"(\d+_[A-Za-z]+/)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|task\.safetensors")
_PICKLED = re.compile(r"(\d+_[A-Za-z]+/)?pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")

SETTINGS_FILES = (
    "config.json",
    "bert_config.json",
    "albert_config.json",
    "xlnet_config.json",
    "modules.json",
)
"""Files of which every model folder has one: what was fetched before is recognised by them."""


def data_files(files: Iterable[str]) -> list[str]:
    """The data files of a repository; pickled weights only where there are no others, and never code."""
    files = list(files)
    weights = [name for name in files if _SAFE.fullmatch(name)]
    weights = weights or [name for name in files if _PICKLED.fullmatch(name)]
    return [*(name for name in files if _DATA.fullmatch(name) and not name.endswith(".index.json")), *weights]


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
