"""The transformer encoder: embeddings, a stack of layers, and what is read from the last."""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from polyseme.models.backbone import Backbone
from polyseme.models.batch import Batch, States
from polyseme.models.dropout import Dropout
from polyseme.models.initialising import initialise
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.embeddings import Embeddings, norm
from polyseme.models.transformer.layer import LAYERS
from polyseme.models.transformer.masks import View
from polyseme.models.transformer.relative import RelativeView


class Transformer(Backbone):
    """Every token's state from all tokens around it, with fresh weights from torch's global generator.

    >>> import torch
    >>> config = TransformerConfig(vocab_size=100, hidden_size=32, num_layers=2, num_heads=2)
    >>> states = Transformer(config)(Batch(torch.tensor([[2, 17, 3]])))
    >>> states.last.shape, states.pooled.shape
    (torch.Size([1, 3, 32]), torch.Size([1, 32]))
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.hidden_size = config.hidden_size
        self.embeddings = Embeddings(config)
        self.projection = PROJECTIONS[config.embedding.size is not None](config)
        self.layers = nn.ModuleList(
            LAYERS[config.norm_position](config, attention_norm=config.attention.first_norm or number > 0)
            for number in range(config.distinct_layers or config.num_layers)
        )
        local = config.attention.window is not None
        view = VIEWS.get(config.positions, View)
        self.views = nn.ModuleList(view(config, local=kind) for kind in ([False, True] if local else [False]))
        self.course = tuple(course(config))
        self.final_norm = norm(config, wanted=config.final_norm)
        self.final_dropout = Dropout(config.inner_dropout)
        self.pooler = POOLERS[config.pooler](config)
        initialise(self, config)

    def forward(self, batch: Batch, *, every_layer: bool = False) -> States:
        """The states after the final norm; with `every_layer` the last of `layers` is the same tensor.

        Raises `ValueError` for rows longer than `max_position_embeddings`.
        """
        self.check_length(batch)
        views = [view(batch) for view in self.views]
        hidden_states = self.projection(self.embeddings(batch))
        layers = [hidden_states]
        for layer, view in self.course:
            hidden_states = self.layers[layer](hidden_states, *views[view])
            if every_layer:
                layers.append(hidden_states)
        hidden_states = layers[-1] = self.final_dropout(self.final_norm(hidden_states))
        return States(
            last=hidden_states, layers=tuple(layers) if every_layer else (), pooled=self.pooler(hidden_states)
        )

    def check_length(self, batch: Batch) -> None:
        """Refuse rows that are longer than `max_position_embeddings`."""
        length = batch.input_ids.size(1)
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"a row has {length} tokens but this model reads at most "
                f"{self.config.max_position_embeddings} (max_position_embeddings); cut or split the texts"
            )


def course(config: TransformerConfig) -> Iterator[tuple[int, int]]:
    """For each pass through a layer, whose weights it uses and whose view: 0 global, 1 local."""
    every = config.attention.global_every
    layers_each = config.num_layers / (config.distinct_layers or max(1, config.num_layers))
    for number in range(config.num_layers):
        # Divided as in ALBERT's code: exact division would differ from it, as at 18 layers of 14.
        weights = int(number / layers_each)
        yield weights, int(every is not None and number % every > 0)


class Pooler(nn.Linear):
    """The first token's state through a dense layer and tanh: `[batch, hidden_size]`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states[:, 0]).tanh()


class NoPooler(nn.Module):
    """Stands where a model has no vector of its own for whole texts."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, hidden_states: Tensor) -> None:
        return None


def projection(config: TransformerConfig) -> nn.Module:
    """From the size of the tables to the hidden size (Lan et al. 2019, section 3.1)."""
    return nn.Linear(config.embedding_size, config.hidden_size)


def no_projection(config: TransformerConfig) -> nn.Module:
    """The tables have the hidden size."""
    return nn.Identity()


VIEWS: dict[str, Callable[..., nn.Module]] = {"relative": RelativeView}
"""By positions, where they need a view of their own."""
PROJECTIONS: dict[bool, Callable[[TransformerConfig], nn.Module]] = {True: projection, False: no_projection}
POOLERS: dict[bool, Callable[[TransformerConfig], nn.Module]] = {True: Pooler, False: NoPooler}
