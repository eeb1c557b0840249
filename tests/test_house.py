"""What the design promises of its own size: short records, no family in any branch, a short road for BERT."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

import polyseme
from polyseme.checkpoints.formats import FORMATS
from polyseme.records import Record
from polyseme.training.recipes import recipes

ROOT = Path(polyseme.__file__).parent
MOST_FIELDS = 24
ROAD = (
    "objectives/masked_lm.py",
    "models/heads.py",
    "models/transformer/model.py",
    "models/transformer/embeddings.py",
    "models/transformer/layer.py",
    "models/transformer/attention.py",
)
"""BERT from ids to loss."""
BESIDE_THE_ROAD = re.compile(r"\b(memory|memories|query stream|two streams|cache|cached)\b", re.IGNORECASE)


def records(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from records(inner)


def test_no_record_that_describes_a_network_or_an_objective_has_more_fields_than_a_screen() -> None:
    for room in ("models", "objectives"):
        for module in pkgutil.walk_packages([str(ROOT / room)], prefix=f"polyseme.{room}."):
            importlib.import_module(module.name)
    found = {
        f"{record.__module__}.{record.__name__}": len(record.__struct_fields__)
        for record in records(Record)
        if record.__module__.startswith(("polyseme.models.", "polyseme.objectives."))
    }
    assert len(found) > 10
    assert {name: count for name, count in found.items() if count > MOST_FIELDS} == {}


def names_of_families() -> set[str]:
    return {*FORMATS, *recipes(), *(recipe.family for recipe in recipes().values())} - {"transformer"}


def test_no_branch_asks_for_the_name_of_a_family() -> None:
    families, asked = names_of_families(), []
    for room in ("models", "objectives", "runtime", "training"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, (ast.If, ast.IfExp, ast.Compare, ast.Match, ast.While)):
                    continue
                test = node.test if isinstance(node, (ast.If, ast.IfExp, ast.While)) else node
                constants = [part.value for part in ast.walk(test) if isinstance(part, ast.Constant)]
                asked += [f"{path.relative_to(ROOT)}:{node.lineno}" for c in constants if c in families]
    assert asked == []


def test_the_road_from_ids_to_loss_does_not_mention_what_lies_beside_it() -> None:
    for name in ROAD:
        code = (ROOT / name).read_text(encoding="utf-8")
        assert not BESIDE_THE_ROAD.search(re.sub(r"(processor|oneDNN)'s cache|in memory", "", code)), name
