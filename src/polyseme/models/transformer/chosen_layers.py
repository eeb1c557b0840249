"""A shallower network from a deep one: some of its layers, to be trained on (as RBT3 and DistilBERT are)."""

from collections.abc import Sequence

import msgspec

from polyseme.models.transformer.building import build
from polyseme.models.transformer.model import Transformer, course


def with_layers(backbone: Transformer, numbers: Sequence[int]) -> Transformer:
    """A copy that has only the layers `numbers`, counted from 0 and in rising order; the rest is unchanged.

    Raises `ValueError` for numbers that name no layer, and where a layer would not compute the same in its
    new place. Without further training such a network is poor: the last layer kept never was a last one.
    """
    config = backbone.config
    if config.distinct_layers is not None:
        raise ValueError(
            f"the layers share {config.distinct_layers} sets of weights, so none can be taken alone; "
            "leave layers out"
        )
    if (
        not numbers
        or list(numbers) != sorted({*numbers})
        or not 0 <= numbers[0] <= numbers[-1] < config.num_layers
    ):
        raise ValueError(
            f"layers must be rising numbers from 0 to {config.num_layers - 1}, got {list(numbers)}"
        )
    if not config.attention.first_norm and numbers[0] != 0:
        raise ValueError(
            f"layer 0 does not normalise its input, but layer {numbers[0]} does; keep layer 0 as the first"
        )
    shallow = msgspec.structs.replace(config, num_layers=len(numbers))
    old_views, new_views = ([view for _, view in course(of)] for of in (config, shallow))
    for place, number in enumerate(numbers):
        if old_views[number] != new_views[place]:
            raise ValueError(
                f"layer {number} would become layer {place}, but only one of the two sees all tokens "
                f"(every {config.attention.global_every} layers); keep each layer's remainder by that number"
            )
    kept = build(shallow)
    names = {f"layers.{place}.": f"layers.{number}." for place, number in enumerate(numbers)}
    tensors = backbone.state_dict()
    kept.load_state_dict({name: tensors[_source(name, names)] for name in kept.state_dict()})
    return kept.to(backbone.embeddings.tokens.weight.dtype).train(backbone.training)


def _source(name: str, names: dict[str, str]) -> str:
    """The name that a tensor of the shallow network has in the deep one."""
    start = next((start for start in names if name.startswith(start)), "")
    return names.get(start, "") + name.removeprefix(start)
