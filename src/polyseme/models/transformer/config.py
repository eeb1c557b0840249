"""The choices that make a transformer; families are nothing but values of this record."""

from typing import Literal

from polyseme.records import Record

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


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
    """Number of layers."""
    num_heads: int = 12
    """Number of attention heads; they share the hidden size evenly."""
    intermediate_size: int = 3072
    """Numbers between the two halves of the feed-forward part."""
    max_position_embeddings: int = 512
    """The most tokens in one row."""
    type_vocab_size: int = 2
    """Number of segments that are told apart; 0 for none."""
    activation: Activation = "gelu"
    """`gelu` is the exact form, `gelu_tanh` the approximation of the first BERT and of GPT-2."""
    gated: bool = False
    """Whether the activated half of the feed-forward part is multiplied by a second, linear half."""
    bias: bool = True
    """Whether projections and norms have a bias."""
    norm_position: Literal["before", "after"] = "after"
    """Whether a sublayer's input is normalised, or its sum with that input."""
    layer_norm_eps: float = 1e-12
    """What keeps the norms from dividing by zero."""
    positions: Literal["learned", "rotary", "none"] = "learned"
    """How the order of the tokens is told: a vector for each place, turned queries and keys, or not."""
    rotary_base: float = 10_000.0
    """How slowly the slowest pair of a rotary head turns; read only where positions are rotary."""
    embedding_norm: bool = True
    """Whether the sum of the embeddings is normalised."""
    first_attention_norm: bool = True
    """Whether the first layer normalises its attention's input; the embedding norm may stand in for it."""
    final_norm: bool = False
    """Whether the last layer's states are normalised."""
    pooler: bool = True
    """Whether the first token's last state goes through a dense layer and tanh, for whole texts."""
    dropout: float = 0.1
    """Share of the numbers dropped from the embeddings and from each sublayer's output in training."""
    attention_dropout: float = 0.1
    """Share of the attention probabilities dropped in training."""
    initializer_range: float = 0.02
    """Standard deviation of fresh matrices, a normal distribution cut off at twice this value."""
    scaled_outputs: bool = False
    """Whether the fresh matrices that write to the residual sum are divided by √(2 · num_layers)."""
    padding_id: int = 0
    """The token that fills a row up."""

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
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("layer_norm_eps", "rotary_base", "initializer_range"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.padding_id < self.vocab_size:
            raise ValueError(
                f"padding_id must be one of the {self.vocab_size} tokens of vocab_size, got {self.padding_id}"
            )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}; "
                f"{self.hidden_size - self.hidden_size % self.num_heads or self.num_heads} would be"
            )
        self._refuse_what_no_family_uses()

    def _refuse_what_no_family_uses(self) -> None:
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(
                f"rotary positions turn pairs of numbers, but a head has {self.head_size} "
                f"(hidden_size / num_heads); choose sizes that make it even"
            )
        if self.final_norm != (self.norm_position == "before"):
            raise ValueError(
                f"final_norm {self.final_norm} does not go with norm_position {self.norm_position!r}: "
                "norms before the sublayers need a final one, norms after them are final already; "
                f"set final_norm to {not self.final_norm}"
            )
        if not self.first_attention_norm and not (self.norm_position == "before" and self.embedding_norm):
            raise ValueError(
                "first_attention_norm may be False only where the embedding norm stands in for it; "
                "set norm_position to 'before' and embedding_norm to True, or keep the norm"
            )
        if self.norm_position == "after" and not self.embedding_norm:
            raise ValueError(
                "embedding_norm False does not go with norm_position 'after': nothing would normalise "
                "the first layer's input; set embedding_norm to True"
            )
        if self.scaled_outputs and self.norm_position == "after":
            raise ValueError(
                "scaled_outputs keeps a residual sum from growing, and with norm_position 'after' every "
                "sum is normalised; set scaled_outputs to False"
            )

    @property
    def head_size(self) -> int:
        """Numbers of one head's query."""
        return self.hidden_size // self.num_heads
