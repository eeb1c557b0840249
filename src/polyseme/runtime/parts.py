"""The modules of a network made ready for inference: what was chosen is looked up here, once, in tables."""

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polyseme.models.batch import Batch
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.embeddings import Embeddings
from polyseme.models.transformer.masks import View
from polyseme.models.transformer.model import Transformer
from polyseme.models.transformer.positions import Bucketed, Rotary
from polyseme.runtime.attention import Attention, attention
from polyseme.runtime.first_states import FirstStates, first_states
from polyseme.runtime.linears import Linear, gated_linear, linear
from polyseme.runtime.norms import Norm, norm
from polyseme.runtime.states import Normed, Precision, Ready, plain

Position = Literal["before", "after"]
Sublayer = Callable[[Ready, Any], Tensor]
"""Ready states, and what the layers share of the packed rows, to what is added to the residual sum."""

NORMS: dict[type[nn.Module], Literal["layer", "rms", "none"]] = {
    nn.LayerNorm: "layer",
    nn.RMSNorm: "rms",
    nn.Identity: "none",
}


def compiled_norm(module: nn.Module, position: Position, precision: Precision, device: torch.device) -> Norm:
    """The residual sum with the norm of a module, which may be none at all."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    eps = getattr(module, "eps", None) or 0.0
    return norm(
        NORMS[type(module)], weight, bias, eps=eps, position=position, precision=precision, device=device
    )


def compiled_linear(module: nn.Linear, precision: Precision, *, activation: str = "none") -> Linear:
    """A dense layer with its activation."""
    return linear(module.weight, module.bias, precision=precision, activation=activation)


def compiled_embeddings(backbone: Transformer, precision: Precision) -> FirstStates:
    """Ids, places and segments of packed tokens to the states before the first layer."""
    embeddings, config = backbone.embeddings, backbone.config
    embed = EMBEDDINGS[config.embedding.adaptive.divisor > 1](embeddings, config, precision)
    return PROJECTIONS[config.embedding.size is not None](embed, backbone.projection, precision)


def _of_tables(module: Embeddings, config: TransformerConfig, precision: Precision) -> FirstStates:
    places, segments = _tables(module.positions, module.token_types)
    if segments is not None and config.embedding.task_type_vocab_size:
        segments = segments + module.task_types.get_parameter("weight")[0]
    tables: tuple[Any, Any, Any] = (module.tokens.weight, places, segments)
    normed = compiled_norm(module.norm, "after", precision, module.tokens.weight.device)
    return first_states(*tables, scale=getattr(module.scale, "factor", 1.0), norm=normed)


def _tables(*modules: nn.Module) -> list[Tensor | None]:
    return [getattr(module, "weight", None) for module in modules]


def _of_clusters(module: Embeddings, config: TransformerConfig, precision: Precision) -> FirstStates:
    """As the plain network does it, since one table of all clusters would be many times as large."""
    plain = copy.deepcopy(module).eval()
    normed = compiled_norm(nn.Identity(), "after", precision, device_of(module))
    offset = config.embedding.position_offset

    def embed(ids: Tensor, places: Tensor | None, segments: Tensor | None) -> Normed:
        position_ids = None if places is None else places[None] - offset
        kinds = None if segments is None else segments[None]
        return normed(plain(Batch(ids[None], position_ids=position_ids, token_type_ids=kinds))[0], None)

    return embed


def _projected(embed: FirstStates, module: nn.Linear, precision: Precision) -> FirstStates:
    project = compiled_linear(module, precision)
    normed = compiled_norm(nn.Identity(), "after", precision, module.weight.device)

    def widened(ids: Tensor, places: Tensor | None, segments: Tensor | None) -> Normed:
        return normed(plain(project(embed(ids, places, segments).ready)), None)

    return widened


def _as_wide(embed: FirstStates, module: nn.Module, precision: Precision) -> FirstStates:
    return embed


EMBEDDINGS: dict[bool, Callable[[Embeddings, TransformerConfig, Precision], FirstStates]] = {
    False: _of_tables,
    True: _of_clusters,
}
"""By whether rare tokens have narrower rows."""
PROJECTIONS: dict[bool, Callable[[FirstStates, Any, Precision], FirstStates]] = {
    True: _projected,
    False: _as_wide,
}
"""By whether the tables have a size of their own."""


def compiled_gather(
    view: View, config: TransformerConfig, precision: Precision, device: torch.device
) -> Attention:
    """Who sees whom, by what order: the same for all layers of a view."""
    return attention(
        num_heads=config.num_heads,
        head_size=config.head_size,
        scale=config.head_size**-0.5 if config.attention.scaled else 1.0,
        precision=precision,
        causal=view.causal,
        reach=view.reach,
        turn=TURNS.get(config.positions, _nothing)(view.turn, config),
        distances=DISTANCES.get(config.positions, _nothing)(view.bias, config),
        device=device,
    )


def _nothing(module: nn.Module, config: TransformerConfig) -> None:
    return None


def _angles(module: Rotary, config: TransformerConfig) -> tuple[Tensor, Tensor]:
    return module.cos, module.sin


def _biases(module: Bucketed, config: TransformerConfig) -> Tensor:
    """What is added for each distance, from the lowest to the highest: `[num_heads, 2 · most − 1]`."""
    most = config.max_position_embeddings
    distances = torch.arange(1 - most, most, device=module.weight.device)
    return module.weight.detach()[module.bucket(distances)].T.contiguous()


TURNS: dict[str, Callable[..., Any]] = {"rotary": _angles}
DISTANCES: dict[str, Callable[..., Any]] = {"bucketed": _biases}
"""By positions, where they are told inside attention."""


def compiled_attention(module: Any, gather: Attention, precision: Precision) -> Sublayer:
    """One product for queries, keys and values together, and one for the output."""
    parts = (module.query, module.key, module.value)
    bias = None if module.query.bias is None else torch.cat([part.bias for part in parts])
    product = linear(torch.cat([part.weight for part in parts]), bias, precision=precision)
    output = compiled_linear(module.output, precision)

    def attend(states: Ready, starts: Tensor) -> Tensor:
        return plain(output(gather(plain(product(states)), starts)))

    return attend


def compiled_feedforward(module: Any, config: TransformerConfig, precision: Precision) -> Sublayer:
    """Widened, bent and narrowed again."""
    widen = FEEDFORWARDS[config.gated](module, config.activation, precision)
    narrow = compiled_linear(module.output, precision)

    def feed(states: Ready, starts: Tensor) -> Tensor:
        return plain(narrow(widen(states)))

    return feed


def _widened(module: Any, activation: str, precision: Precision) -> Linear:
    first = module.input
    return linear(first.weight, first.bias, precision=precision, activation=activation, makes_ready=True)


def _gated(module: Any, activation: str, precision: Precision) -> Linear:
    first, gate = module.input, module.gate
    return gated_linear(
        first.weight,
        first.bias,
        gate.weight,
        gate.bias,
        precision=precision,
        activation=activation,
        makes_ready=True,
    )


FEEDFORWARDS: dict[bool, Callable[[Any, str, Precision], Linear]] = {True: _gated, False: _widened}


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are."""
    return next(module.parameters()).device
