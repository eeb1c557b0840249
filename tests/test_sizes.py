"""A size of a recipe may name its own training, as papers do for their large models."""

import pytest

from polyseme.errors import SettingsError
from polyseme.records import from_plain, to_plain
from polyseme.training.recipes import changed, read_recipe, recipes, sized
from polyseme.training.settings import Recipe


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name, recipe in recipes().items() for size in recipe.sizes]
)
def test_every_size_of_every_recipe_is_a_recipe(name: str, size: str) -> None:
    chosen = sized(read_recipe(name), size)
    assert list(chosen.sizes) == [size]
    assert sized(chosen, size) == chosen


def test_what_a_size_says_of_training_and_objectives_is_the_recipes_own_then() -> None:
    plain = to_plain(read_recipe("bert"))
    plain["sizes"]["tiny"] |= {
        "training": {"optimizer": "muon", "warmup": 0.1},
        "objectives": [{"name": "masked-lm", "rate": 0.3}],
        "attention": {"causal": True},
    }
    plain["model"]["attention"] = {"head_size": 32}
    recipe = from_plain(plain, Recipe, where="here")
    tiny, base = sized(recipe, "tiny"), sized(recipe, "base")
    assert (tiny.training.optimizer, tiny.training.warmup) == ("muon", 0.1)
    assert tiny.training.epsilon == base.training.epsilon == 1e-6
    assert tiny.objectives == [{"name": "masked-lm", "rate": 0.3}]
    assert tiny.model["attention"] == {"head_size": 32, "causal": True}
    assert base.training == recipe.training
    assert base.objectives == recipe.objectives
    assert changed(tiny, ["training.warmup=7", "model.num_layers=5"]).model["num_layers"] == 5


def test_a_size_that_there_is_none_of_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no size 'minni' \(did you mean 'mini'\?\)"):
        sized(read_recipe("bert"), "minni")


def test_a_wrong_setting_of_a_size_is_named() -> None:
    plain = to_plain(read_recipe("bert"))
    plain["sizes"]["tiny"]["training"] = {"warmupp": 3}
    with pytest.raises(SettingsError, match=r"in its size tiny: .*warmupp"):
        sized(from_plain(plain, Recipe, where="here"), "tiny")
