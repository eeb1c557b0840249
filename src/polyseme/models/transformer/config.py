"""The choices that make a transformer; families are nothing but values of this record."""

from itertools import pairwise
from typing import Literal

from polyseme.records import Record

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Positions = Literal["none", "learned", "sinusoidal", "rotary", "relative", "bucketed"]


class AdaptiveChoices(Record, frozen=True):
    """Frequent tokens and clusters of rarer ones, which cost less to read and to predict."""

    cutoffs: tuple[int, ...] = ()
    """First id of each cluster behind the frequent tokens, ascending. Empty: no clusters."""
    divisor: int = 1
    """Rows of cluster i have hidden_size / divisor^i numbers; 1 leaves one table for all."""
    tails: Literal["forward", "backward"] = "forward"
    """Whether the scores of the clusters stand behind those of the frequent tokens in the clusters' order,
    as in the TensorFlow code and transformers, or the last cluster first, as in the PyTorch code."""

    def __post_init__(self) -> None:
        if any(a >= b for a, b in pairwise((0, *self.cutoffs))):
            raise ValueError(
                f"embedding.adaptive.cutoffs must be above 0 and ascend, got {list(self.cutoffs)}"
            )
        if self.divisor < 1 or (self.divisor > 1 and not self.cutoffs):
            raise ValueError(
                f"embedding.adaptive.divisor {self.divisor} must be at least 1, and 1 without cutoffs; "
                "give cutoffs, or leave it out"
            )


class EmbeddingChoices(Record, frozen=True):
    """How ids become the first states."""

    size: int | None = None
    """Numbers in one row of the tables, widened to the hidden size by a dense layer. None: no such layer."""
    norm: bool = True
    """Whether the sum of the embeddings is normalised."""
    scaled: bool = False
    """Whether the tokens' vectors are multiplied by √hidden_size before the positions are added."""
    tied: bool = True
    """Whether the table of the tokens also scores them at the output; else the head has one of its own."""
    dropout_everywhere: bool = False
    """Whether numbers are dropped inside the feed-forward part and from the last states too, as T5 does."""
    position_offset: int = 0
    """Rows at the start of the position table that no token uses; then only real tokens count as places."""
    adaptive: AdaptiveChoices = AdaptiveChoices()
    task_type_vocab_size: int = 0
    """Rows of a table of task types, of which row 0 is added to every token (ERNIE 3.0); 0 for no table."""

    def __post_init__(self) -> None:
        if self.task_type_vocab_size < 0:
            raise ValueError(
                f"embedding.task_type_vocab_size must be at least 0, got {self.task_type_vocab_size}"
            )
        if self.size is not None and self.size < 1:
            raise ValueError(f"embedding.size must be at least 1, got {self.size}")
        if self.position_offset < 0:
            raise ValueError(f"embedding.position_offset must be at least 0, got {self.position_offset}")


class RotaryChoices(Record, frozen=True):
    """Queries and keys turned by their places; read only where positions are rotary."""

    base: float = 10_000.0
    """How slowly the slowest pair of a head turns."""
    local_base: float | None = None
    """The same in the layers that see a window only. None: as base."""

    def __post_init__(self) -> None:
        for name, value in (("base", self.base), ("local_base", self.local_base)):
            if value is not None and not value > 0:
                raise ValueError(f"attention.rotary.{name} must be above 0, got {value}")


class RelativeChoices(Record, frozen=True):
    """Distances between tokens, as vectors; read only where positions are relative."""

    memory: int = 0
    """States of so many earlier tokens are seen again."""
    start: Literal["empty", "zeros"] = "empty"
    """What is remembered before the first token: nothing, or `memory` states of zeros that are seen too."""
    same_length: bool = False
    """Whether every token sees exactly the `memory` tokens up to itself, however much is remembered."""
    untied: bool = False
    """Whether each layer has biases of its own for content and distance."""
    segments: bool = False
    """Whether a third term tells tokens of the same segment from those of another."""
    query_stream: bool = False
    """Whether a token can be asked for without being seen, by a second stream of states."""
    clamp: int | None = None
    """Distances beyond this one are all alike. None: none are."""

    def __post_init__(self) -> None:
        if self.memory < 0 or (self.clamp is not None and self.clamp < 1):
            raise ValueError(
                "attention.relative.memory must be at least 0 and clamp at least 1, "
                f"got {self.memory} and {self.clamp}"
            )
        if self.memory == 0 and (self.same_length or self.start == "zeros"):
            raise ValueError(
                "attention.relative.same_length and start 'zeros' speak of a memory, and memory is 0; "
                "give it a length, or leave them out"
            )


class BucketedChoices(Record, frozen=True):
    """A bias for each range of distances; read only where positions are bucketed."""

    buckets: int = 32
    """Number of ranges."""
    max_distance: int = 128
    """All distances from here on share the last range."""

    def __post_init__(self) -> None:
        if self.buckets < 4 or self.buckets % 2:
            raise ValueError(
                f"attention.bucketed.buckets must be an even number from 4 on, got {self.buckets}: "
                "half of them are for the tokens behind"
            )
        if self.max_distance <= self.buckets // 2:
            raise ValueError(
                f"attention.bucketed.max_distance must be above {self.buckets // 2}, which {self.buckets} "
                f"buckets tell apart one by one, got {self.max_distance}"
            )


class AttentionChoices(Record, frozen=True):
    """Who sees whom, and how tokens are compared."""

    head_size: int | None = None
    """Numbers of one head's query. None: hidden_size / num_heads."""
    scaled: bool = True
    """Whether the products of queries and keys are divided by √head_size."""
    causal: bool = False
    """Whether a token sees only itself and those before it."""
    window: int | None = None
    """Tokens that a local layer sees: half of them on each side of its own. None: all layers are global."""
    global_every: int | None = None
    """With a window: layers 0, global_every, 2 · global_every … see all tokens."""
    first_norm: bool = True
    """Whether the first layer normalises its attention's input; the embedding norm may stand in for it."""
    rotary: RotaryChoices = RotaryChoices()
    relative: RelativeChoices = RelativeChoices()
    bucketed: BucketedChoices = BucketedChoices()

    def __post_init__(self) -> None:
        for name in ("head_size", "window", "global_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"attention.{name} must be at least 1, got {value}")
        if (self.window is None) != (self.global_every is None):
            raise ValueError(
                f"attention.window {self.window} and attention.global_every {self.global_every} go together: "
                "a window is for the layers between the global ones; give both or neither"
            )


class InitialChoices(Record, frozen=True):
    """What fresh weights are drawn from."""

    kind: Literal["fixed", "fan-in"] = "fixed"
    """`fixed`: one deviation for all; `fan-in`: a matrix by the root of its inputs (T5, Transformer)."""
    range: float = 0.02
    """Standard deviation of matrices and tables, a normal distribution cut off at twice this value; read
    only where the kind is fixed."""
    positions: float | None = None
    """The same for the table of positions alone. None: as range."""
    scaled_outputs: bool = False
    """Whether the matrices that write to the residual sum are divided by √(2 · num_layers)."""

    def __post_init__(self) -> None:
        for name, value in (("range", self.range), ("positions", self.positions)):
            if value is not None and not value > 0:
                raise ValueError(f"initial.{name} must be above 0, got {value}")


class DecoderChoices(Record, frozen=True):
    """A second stack, which reads the first one's states and predicts a text from left to right.

    Sizes are those of the first stack; the padding token stands before the text to be predicted.
    """

    num_layers: int = 6
    """Number of its layers."""
    scaled_output: bool = False
    """Whether the last states are divided by √hidden_size before they meet the tokens' vectors."""

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(f"decoder.num_layers must be at least 1, got {self.num_layers}")


class TransformerConfig(Record, frozen=True):
    """The choices of one transformer. The defaults are those of BERT-base.

    >>> TransformerConfig(vocab_size=8000, hidden_size=256, num_layers=4, num_heads=4).head_size
    64
    """

    vocab_size: int
    """Number of tokens in the vocabulary."""
    hidden_size: int = 768
    """Numbers in the state of one token."""
    num_layers: int = 12
    """Number of layers that a state passes through."""
    distinct_layers: int | None = None
    """Layers with weights of their own; neighbours share them. None: every layer has its own."""
    num_heads: int = 12
    """Number of attention heads; they share the hidden size evenly unless attention.head_size is given."""
    intermediate_size: int = 3072
    """Numbers between the two halves of the feed-forward part."""
    max_position_embeddings: int = 512
    """The most tokens in one row."""
    type_vocab_size: int = 2
    """Number of segments that are told apart; 0 for none."""
    activation: Activation = "gelu"
    """`gelu` is the exact form, `gelu_tanh` the approximation of BERT's later code and of GPT-2."""
    gated: bool = False
    """Whether the activated half of the feed-forward part is multiplied by a second, linear half."""
    bias: bool = True
    """Whether projections and norms have a bias."""
    norm: Literal["layer", "rms"] = "layer"
    """`layer` takes off the mean and divides by the deviation, `rms` only divides by the root mean square."""
    norm_position: Literal["before", "after"] = "after"
    """Whether a sublayer's input is normalised, or its sum with that input."""
    layer_norm_eps: float = 1e-12
    """What keeps the norms from dividing by zero."""
    final_norm: bool = False
    """Whether the last layer's states are normalised."""
    positions: Positions = "learned"
    """How the order of the tokens is told: a vector for each place, turned queries and keys, or not."""
    embedding: EmbeddingChoices = EmbeddingChoices()
    attention: AttentionChoices = AttentionChoices()
    pooler: bool = True
    """Whether the first token's last state goes through a dense layer and tanh, for whole texts."""
    dropout: float = 0.1
    """Share of the numbers dropped from the embeddings and from each sublayer's output in training."""
    attention_dropout: float = 0.1
    """Share of the attention probabilities dropped in training."""
    initial: InitialChoices = InitialChoices()
    padding_id: int = 0
    """The token that fills a row up."""
    decoder: DecoderChoices | None = None
    """A stack that writes what this one has read. None: there is none."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_heads",
            "intermediate_size",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("num_layers", "type_vocab_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and value >= 1 << 31:
                raise ValueError(f"{name} must be below 2^31, got {value}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not self.layer_norm_eps > 0:
            raise ValueError(f"layer_norm_eps must be above 0, got {self.layer_norm_eps}")
        if not 0 <= self.padding_id < self.vocab_size:
            raise ValueError(
                f"padding_id must be one of the {self.vocab_size} tokens of vocab_size, got {self.padding_id}"
            )
        if self.attention.head_size is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}; "
                f"{self.hidden_size - self.hidden_size % self.num_heads or self.num_heads} would be"
            )
        if self.distinct_layers is not None and not 1 <= self.distinct_layers <= max(1, self.num_layers):
            raise ValueError(
                f"distinct_layers must lie between 1 and num_layers {self.num_layers}, "
                f"got {self.distinct_layers}"
            )
        self._refuse_what_no_family_uses()

    def _refuse_what_no_family_uses(self) -> None:
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(
                f"rotary positions turn pairs of numbers, but a head has {self.head_size} "
                f"(hidden_size / num_heads); choose sizes that make it even"
            )
        if self.embedding.position_offset and self.positions != "learned":
            raise ValueError(
                f"embedding.position_offset {self.embedding.position_offset} skips rows of a position table, "
                f"and positions {self.positions!r} have none; set it to 0"
            )
        if self.embedding.task_type_vocab_size and not self.type_vocab_size:
            raise ValueError(
                f"embedding.task_type_vocab_size {self.embedding.task_type_vocab_size} goes with segments, "
                "and type_vocab_size is 0; leave it out"
            )
        if self.attention.window is not None and self.positions != "rotary":
            raise ValueError(
                f"attention.window {self.attention.window} is for rotary positions, got {self.positions!r}; "
                "leave window and global_every out"
            )
        if self.final_norm != (self.norm_position == "before"):
            raise ValueError(
                f"final_norm {self.final_norm} does not go with norm_position {self.norm_position!r}: "
                "norms before the sublayers need a final one, norms after them are final already; "
                f"set final_norm to {not self.final_norm}"
            )
        if not self.attention.first_norm and not (self.norm_position == "before" and self.embedding.norm):
            raise ValueError(
                "attention.first_norm may be False only where the embedding norm stands in for it; "
                "set norm_position to 'before' and embedding.norm to True, or keep the norm"
            )
        if self.distinct_layers is not None and (
            self.norm_position == "before" or self.attention.window is not None
        ):
            raise ValueError(
                f"distinct_layers {self.distinct_layers} shares layers that are all alike, with norms after "
                "and without windows; leave it out, or choose those"
            )
        self._refuse_wrong_clusters()
        self._refuse_wrong_distances()
        if self.initial.scaled_outputs and self.norm_position == "after":
            raise ValueError(
                "initial.scaled_outputs keeps a residual sum from growing, and with norm_position 'after' "
                "every sum is normalised; set initial.scaled_outputs to False"
            )
        if self.initial.scaled_outputs and self.initial.kind != "fixed":
            raise ValueError(
                f"initial.scaled_outputs divides initial.range, which initial.kind {self.initial.kind!r} "
                "does not read; leave one of them out"
            )
        self._refuse_odd_decoders()

    def _refuse_odd_decoders(self) -> None:
        if self.decoder is None:
            return
        if self.positions not in ("sinusoidal", "bucketed"):
            raise ValueError(
                f"a decoder reads sinusoidal or bucketed positions, got {self.positions!r}; "
                "choose one of the two, or leave the decoder out"
            )
        if self.type_vocab_size or self.pooler or self.attention.causal or self.embedding.size is not None:
            raise ValueError(
                "beside a decoder there are no segments, no pooler, no causal encoder and no other embedding "
                "size: set type_vocab_size to 0, pooler and attention.causal to False, and leave out "
                "embedding.size"
            )
        if self.decoder.scaled_output and not self.embedding.tied:
            raise ValueError(
                "decoder.scaled_output is for the tokens' own vectors, and embedding.tied is False; "
                "set one of the two the other way"
            )

    def _refuse_wrong_clusters(self) -> None:
        if not (adaptive := self.embedding.adaptive).cutoffs:
            return
        if adaptive.cutoffs[-1] >= self.vocab_size:
            raise ValueError(
                f"embedding.adaptive.cutoffs {list(adaptive.cutoffs)} must lie below vocab_size "
                f"{self.vocab_size}; give fewer or smaller ones"
            )
        if self.embedding.size is not None or self.hidden_size < adaptive.divisor ** len(adaptive.cutoffs):
            raise ValueError(
                f"the rows of cluster i have hidden_size {self.hidden_size} / divisor {adaptive.divisor}^i "
                "numbers, at least one; leave embedding.size out, or give a smaller divisor"
            )

    def _refuse_wrong_distances(self) -> None:
        relative = self.attention.relative
        if self.positions != "relative":
            if relative != RelativeChoices():
                raise ValueError(
                    f"attention.relative is for relative positions, got {self.positions!r}; leave it out"
                )
            return
        if self.norm_position != "after" or self.hidden_size % 2 or self.type_vocab_size:
            raise ValueError(
                "relative positions go with norm_position 'after', an even hidden_size and type_vocab_size 0 "
                f"(attention.relative.segments tells segments), got {self.norm_position!r}, "
                f"{self.hidden_size} and {self.type_vocab_size}"
            )
        if relative.same_length and not self.attention.causal:
            raise ValueError("attention.relative.same_length counts backwards; set attention.causal to True")
        if relative.query_stream and self.attention.causal:
            raise ValueError(
                "attention.relative.query_stream is for any order of the tokens, and attention.causal "
                "fixes it; leave one of them out"
            )

    @property
    def head_size(self) -> int:
        """Numbers of one head's query."""
        return self.attention.head_size or self.hidden_size // self.num_heads

    @property
    def inner_dropout(self) -> float:
        """Share of the numbers dropped inside the feed-forward part and from the last states."""
        return self.dropout if self.embedding.dropout_everywhere else 0.0

    @property
    def tells_segments(self) -> bool:
        """Whether it matters of which segment a token is."""
        return self.type_vocab_size > 1 or self.attention.relative.segments

    @property
    def embedding_size(self) -> int:
        """Numbers in one row of the token table."""
        return self.embedding.size or self.hidden_size
