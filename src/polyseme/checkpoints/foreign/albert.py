"""ALBERT's folders as Google publishes them: model.ckpt-best, albert_config.json, a SentencePiece model."""

from polyseme.checkpoints.foreign.bert import ACTIVATION, embedding_rules
from polyseme.checkpoints.foreign.layouts import OPTIMIZER, Layout, Rules, dense, norm

_THEIRS = "bert/encoder/transformer/group_{g}/inner_group_{i}/"
_OURS = "albert.encoder.albert_layer_groups.{g}.albert_layers.{i}."

RULES: Rules = {
    **embedding_rules("albert.embeddings.", "bert/embeddings/"),
    **dense("albert.encoder.embedding_hidden_mapping_in.", "bert/encoder/embedding_hidden_mapping_in/"),
    **dense(f"{_OURS}attention.query.", f"{_THEIRS}attention_1/self/query/"),
    **dense(f"{_OURS}attention.key.", f"{_THEIRS}attention_1/self/key/"),
    **dense(f"{_OURS}attention.value.", f"{_THEIRS}attention_1/self/value/"),
    **dense(f"{_OURS}attention.dense.", f"{_THEIRS}attention_1/output/dense/"),
    **norm(f"{_OURS}attention.LayerNorm.", f"{_THEIRS}LayerNorm/"),
    **dense(f"{_OURS}ffn.", f"{_THEIRS}ffn_1/intermediate/dense/"),
    **dense(f"{_OURS}ffn_output.", f"{_THEIRS}ffn_1/intermediate/output/dense/"),
    **norm(f"{_OURS}full_layer_layer_norm.", f"{_THEIRS}LayerNorm_1/"),
    **dense("albert.pooler.", "bert/pooler/dense/"),
    **dense("predictions.dense.", "cls/predictions/transform/dense/"),
    **norm("predictions.LayerNorm.", "cls/predictions/transform/LayerNorm/"),
    "predictions.bias": "cls/predictions/output_bias",
    "sop_classifier.classifier.weight": "cls/seq_relationship/output_weights",
    "sop_classifier.classifier.bias": "cls/seq_relationship/output_bias",
    "classifier.weight": "output_weights",
    "classifier.bias": "output_bias",
}

_FIRST = "bert/encoder/transformer/group_0/inner_group_0/"

ALBERT = Layout(
    family="albert",
    container="tensorflow",
    marks=(f"{_FIRST}attention_1/self/query/kernel", "bert/embeddings/word_embeddings"),
    rules=RULES,
    architectures=(
        ("classifier.weight", "AlbertForSequenceClassification"),
        ("sop_classifier.classifier.weight", "AlbertForPreTraining"),
        ("predictions.bias", "AlbertForMaskedLM"),
        ("", "AlbertModel"),
    ),
    settings=("albert_config.json", "*albert_config*.json", "*config*.json"),
    values={"hidden_act": ACTIVATION},
    sizes={
        "vocab_size": ("bert/embeddings/word_embeddings", 0),
        "embedding_size": ("bert/embeddings/word_embeddings", 1),
        "max_position_embeddings": ("bert/embeddings/position_embeddings", 0),
        "type_vocab_size": ("bert/embeddings/token_type_embeddings", 0),
        "hidden_size": ("bert/encoder/embedding_hidden_mapping_in/bias", 0),
        "intermediate_size": (f"{_FIRST}ffn_1/intermediate/dense/bias", 0),
    },
    written={"layer_norm_eps": 1e-12},
    ignored=OPTIMIZER,
)
