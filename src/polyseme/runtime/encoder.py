"""A transformer compiled for inference: rows of ids in, vectors or states of tokens out, nothing padded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.runtime.graphs import Graphs
from polyseme.runtime.layers import compiled_stack
from polyseme.runtime.linears import Linear
from polyseme.runtime.native.linears import multiplies
from polyseme.runtime.packing import Numbers, Rows, Tile, filled, starts_of, tiles
from polyseme.runtime.parts import compiled_embeddings, compiled_linear
from polyseme.runtime.pooling import pool_rows
from polyseme.runtime.replays import Recorder, Replays, Told
from polyseme.runtime.states import Precision, Ready, kernels, plain
from polyseme.runtime.tapes import Tapes
from polyseme.runtime.workers import Workers
from polyseme.threads import default_threads

Vectors = NDArray[np.float32]

TILES = {"cpu": 1024, "cuda": 32_768}
"""Tokens of a tile. On the processor their states stay in cache; measured, 256 lose 8 % to the calls between,
and above 1024 nothing is won. A GPU wants many."""
_SMALLEST, _SHARES = 256, {"cpu": 8}
"""A tile is one of so many parts of the tokens that are left, none below this size; on a GPU, which is one
worker, it takes what it can."""


@dataclass(frozen=True)
class Reading:
    """What is read from a network."""

    layers: tuple[int, ...]
    """Numbers of layers; 0 is the first layer's input, num_layers the last layer's output."""
    how: Literal["join", "mean"] = "join"
    """What several of them become."""
    pooling: str | None = None
    """One vector a row: a way of `models.pooling`, or the network's own pooler. None: a state a token."""


class CompiledEncoder:
    """The encoder of a network, from its weights as they are now: whoever trains it on compiles it anew.

    Choices of the configuration become functions here. Positions that are relative (Transformer-XL, XLNet)
    keep the plain network's attention, on packed rows; a decoder is not compiled, and a memory that goes on
    from row to row is not kept.

    >>> config = TransformerConfig(vocab_size=100, hidden_size=32, num_layers=2, num_heads=2)
    >>> encoder = compiled(Transformer(config).eval())
    >>> rows = Rows.of([np.array([2, 17, 3]), np.array([2, 3])])
    >>> encoder.vectors(rows, Reading(layers=(2,), pooling="mean")).shape
    (2, 32)
    """

    def __init__(
        self, backbone: Transformer, *, precision: Precision, threads: int, device: torch.device, most: int
    ) -> None:
        self.config, self.precision, self.device = backbone.config, precision, device
        self._most = most
        native = kernels(device)
        is_native = multiplies(native, precision)
        # Our own kernels take any number of tokens alike.
        self._size: Callable[[int], int] = int if is_native else filled
        self._workers = Workers(threads if device.type == "cpu" else 1, native.share if native else None)
        self._embed = compiled_embeddings(backbone, precision)
        self._stack = compiled_stack(backbone, precision)
        self._pooler = POOLERS[backbone.config.pooler](backbone)
        self._places = PLACES.get(backbone.config.positions, _nowhere)(backbone.config)
        recorder: Recorder | None = Tapes(native) if native and is_native else None
        if device.type == "cuda":
            recorder = Graphs(device)
        self._replays = Replays(self._read, recorder) if recorder else None

    def width(self, reading: Reading) -> int:
        """Numbers in a vector of this reading."""
        joined = 1 if reading.how == "mean" else len(reading.layers)
        return self.config.hidden_size * joined * (2 if reading.pooling == "mean-max" else 1)

    def vectors(self, rows: Rows, reading: Reading) -> Vectors:
        """One vector a row, in the rows' order: `[rows, width]`."""
        assert reading.pooling is not None
        found = np.empty((len(rows), self.width(reading)), dtype=np.float32)
        pool = self.pooled if reading.pooling == "pooler" else partial(_pooled, reading.pooling, rows)

        def take(tile: Tile, layers: list[Tensor]) -> None:
            found[tile.rows] = pool(tile, _joined(layers, reading.how)).cpu().numpy()

        self.each_tile(rows, reading.layers, take)
        return found

    def states(self, rows: Rows, reading: Reading) -> Vectors:
        """One state a token, in the rows' order: `[tokens, width]`."""
        found = np.empty((len(rows.input_ids), self.width(reading)), dtype=np.float32)

        def take(tile: Tile, layers: list[Tensor]) -> None:
            found[tile.tokens] = _joined(layers, reading.how).float().cpu().numpy()

        self.each_tile(rows, reading.layers, take)
        return found

    def pooled(self, tile: Tile, last: Tensor) -> Tensor:
        """What the network's own pooler makes of a tile's last states: `[rows, hidden_size]`."""
        first = torch.from_numpy(tile.starts[:-1]).to(last.device)
        return plain(self._pooler(last[first].float()))

    def each_tile(
        self, rows: Rows, numbers: tuple[int, ...], take: Callable[[Tile, list[Tensor]], None]
    ) -> None:
        """Give the states of these layers, `[tokens of the tile, hidden_size]` each, to `take`, tile by tile.

        Tiles come in any order, several at once from several threads. Raises `ValueError` for rows longer
        than `max_position_embeddings`.
        """
        longest, most = int(rows.lengths.max(initial=0)), self.config.max_position_embeddings
        if longest > most:
            raise ValueError(
                f"a row has {longest} tokens but this model reads at most {most} "
                "(max_position_embeddings); cut or split the texts"
            )

        def work(tile: Tile) -> None:
            with torch.inference_mode():
                take(tile, self._layers(rows, tile, numbers))

        shares = _SHARES.get(self.device.type, 1)
        self._workers.each(work, list(tiles(rows, most=self._most, least=_SMALLEST, shares=shares)))

    def _layers(self, rows: Rows, tile: Tile, numbers: tuple[int, ...]) -> list[Tensor]:
        count, size = len(tile.tokens), self._size(len(tile.tokens))
        ids = np.full(size, self.config.padding_id, dtype=np.int64)
        ids[:count] = rows.input_ids[tile.tokens]
        # What fills a tile up are rows of one token, which every network can read.
        starts = np.concatenate((tile.starts, np.arange(count + 1, size + 1)))
        segments = self._segments(rows, tile, size)
        tensors = [ids, self._places(ids, starts), segments]
        moved = [None if one is None else torch.from_numpy(one).to(self.device) for one in tensors]
        begins = torch.from_numpy(starts)
        played = self._replays(moved, begins, numbers) if self._replays else None
        found = self._read(moved, begins, numbers) if played is None else played
        return [states[:count] for states in found]

    def _segments(self, rows: Rows, tile: Tile, size: int) -> NDArray[np.int64] | None:
        if rows.token_type_ids is None or not self.config.tells_segments:
            return None
        kinds = np.zeros(size, dtype=np.int64)
        kinds[: len(tile.tokens)] = rows.token_type_ids[tile.tokens]
        return kinds

    def _read(self, told: Told, starts: Tensor, numbers: tuple[int, ...]) -> list[Tensor]:
        ids, places, segments = told
        assert ids is not None
        around = self._stack.around(ids, starts.to(self.device), segments)
        states = self._stack.enter(self._embed(ids, places, segments))
        kept = {0: states}
        for number, layer in enumerate(self._stack.layers[: max(numbers)], start=1):
            states = layer(states, around)
            kept[number] = states
        last = self.config.num_layers
        return [self._stack.leave(kept[n]) if n == last else kept[n].residual for n in numbers]


def compiled(
    backbone: Transformer,
    *,
    precision: Precision = "fp32",
    threads: int | None = None,
    device: torch.device | None = None,
    tile_tokens: int | None = None,
) -> CompiledEncoder:
    """The encoder of a network made ready for inference: by as many threads as torch uses on the
    processor, in tiles of a measured size, unless told otherwise."""
    device = device or torch.device("cpu")
    return CompiledEncoder(
        backbone.to(device),
        precision=precision,
        threads=threads or default_threads(),
        device=device,
        most=tile_tokens or TILES.get(device.type, TILES["cuda"]),
    )


def _pooled(how: str, rows: Rows, tile: Tile, states: Tensor) -> Tensor:
    """Of each row's counted tokens."""
    starts = tile.starts
    if rows.counted is not None:
        own = rows.counted[tile.rows] + starts[:-1, None]  # [rows, 2]
        lengths = own[:, 1] - own[:, 0]
        if lengths.sum() < len(states):  # Most texts are one row, all of whose tokens count.
            starts = starts_of(lengths)
            tokens = np.repeat(own[:, 0] - starts[:-1], lengths) + np.arange(starts[-1])
            states = states[torch.from_numpy(tokens).to(states.device)]
    return pool_rows(states, torch.from_numpy(starts).to(states.device), how)


def _joined(layers: list[Tensor], how: str) -> Tensor:
    """One state a token from those of several layers."""
    if len(layers) == 1:
        return layers[0]
    chosen = [states.float() for states in layers]
    return torch.stack(chosen).mean(dim=0) if how == "mean" else torch.cat(chosen, dim=-1)


def _pooler(backbone: Transformer) -> Linear:
    # Few states pass here, and their users compare them by single digits: never in less than float32.
    assert isinstance(backbone.pooler, nn.Linear)
    return compiled_linear(backbone.pooler, "fp32", activation="tanh")


def _no_pooler(backbone: Transformer) -> Linear:
    def refuse(states: Ready) -> Ready:
        raise ValueError("this model has no pooler; choose another pooling")

    return refuse


Places = Callable[[Numbers, Numbers], Numbers | None]
"""Ids and starts of packed rows to the row of the position table for each token."""


def _in_table(config: TransformerConfig) -> Places:
    return COUNTS[config.embedding.position_offset > 0](config)


def _every_token(config: TransformerConfig) -> Places:
    return lambda ids, starts: np.arange(len(ids)) - np.repeat(starts[:-1], np.diff(starts))


def _real_tokens(config: TransformerConfig) -> Places:
    """Places count from the offset, over tokens that are not padding; those have the row before."""
    padding, offset = config.padding_id, config.embedding.position_offset

    def places(ids: Numbers, starts: Numbers) -> Numbers:
        real = ids != padding
        counts = np.concatenate(([0], np.cumsum(real)))
        before = np.repeat(counts[starts[:-1]], np.diff(starts))
        place: Numbers = (counts[1:] - before) * real - 1 + offset
        return place

    return places


def _nowhere(config: TransformerConfig) -> Places:
    return lambda ids, starts: None


COUNTS: dict[bool, Callable[[TransformerConfig], Places]] = {True: _real_tokens, False: _every_token}
PLACES: dict[str, Callable[[TransformerConfig], Places]] = {"learned": _in_table, "sinusoidal": _every_token}
"""By positions, where there is a table of them."""
POOLERS: dict[bool, Callable[[Transformer], Linear]] = {True: _pooler, False: _no_pooler}
