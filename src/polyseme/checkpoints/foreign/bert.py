"""BERT's folders as Google publishes them: bert_model.ckpt, bert_config.json, vocab.txt.

BERT-wwm, RBT3 and the other models of that code are the same.
"""

from polyseme.checkpoints.foreign.layouts import OPTIMIZER, Held, Layout, Rules, dense, norm


def encoder_rules(published: str, foreign: str) -> dict[str, str | Held]:
    """Rules of BERT's layers below `published` and `foreign`, for all who took them over."""
    theirs, ours = f"{foreign}layer_{{n}}/", f"{published}layer.{{n}}."
    return {
        **dense(f"{ours}attention.self.query.", f"{theirs}attention/self/query/"),
        **dense(f"{ours}attention.self.key.", f"{theirs}attention/self/key/"),
        **dense(f"{ours}attention.self.value.", f"{theirs}attention/self/value/"),
        **dense(f"{ours}attention.output.dense.", f"{theirs}attention/output/dense/"),
        **norm(f"{ours}attention.output.LayerNorm.", f"{theirs}attention/output/LayerNorm/"),
        **dense(f"{ours}intermediate.dense.", f"{theirs}intermediate/dense/"),
        **dense(f"{ours}output.dense.", f"{theirs}output/dense/"),
        **norm(f"{ours}output.LayerNorm.", f"{theirs}output/LayerNorm/"),
    }


def embedding_rules(published: str, foreign: str) -> dict[str, str | Held]:
    """Rules of BERT's embeddings below `published` and `foreign`."""
    return {
        f"{published}word_embeddings.weight": f"{foreign}word_embeddings",
        f"{published}position_embeddings.weight": f"{foreign}position_embeddings",
        f"{published}token_type_embeddings.weight": f"{foreign}token_type_embeddings",
        **norm(f"{published}LayerNorm.", f"{foreign}LayerNorm/"),
    }


RULES: Rules = {
    **embedding_rules("bert.embeddings.", "bert/embeddings/"),
    **encoder_rules("bert.encoder.", "bert/encoder/"),
    **dense("bert.pooler.dense.", "bert/pooler/dense/"),
    **dense("cls.predictions.transform.dense.", "cls/predictions/transform/dense/"),
    **norm("cls.predictions.transform.LayerNorm.", "cls/predictions/transform/LayerNorm/"),
    "cls.predictions.bias": "cls/predictions/output_bias",
    # These two are written outputs by inputs, unlike all other matrices.
    "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
    "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
    "classifier.weight": "output_weights",
    "classifier.bias": "output_bias",
    "qa_outputs.weight": "cls/squad/output_weights",
    "qa_outputs.bias": "cls/squad/output_bias",
}

# The code's gelu is the form with tanh, which transformers calls gelu_new; its layer norms have eps 1e-12.
ACTIVATION = {"gelu": "gelu_new"}

BERT = Layout(
    family="bert",
    container="tensorflow",
    marks=("bert/embeddings/word_embeddings", "bert/encoder/layer_0/attention/self/query/kernel"),
    rules=RULES,
    architectures=(
        ("classifier.weight", "BertForSequenceClassification"),
        ("qa_outputs.weight", "BertForQuestionAnswering"),
        ("cls.seq_relationship.weight", "BertForPreTraining"),
        ("cls.predictions.bias", "BertForMaskedLM"),
        ("", "BertModel"),
    ),
    settings=("bert_config.json", "*bert_config*.json", "*config*.json"),
    values={"hidden_act": ACTIVATION},
    sizes={
        "vocab_size": ("bert/embeddings/word_embeddings", 0),
        "max_position_embeddings": ("bert/embeddings/position_embeddings", 0),
        "type_vocab_size": ("bert/embeddings/token_type_embeddings", 0),
        "intermediate_size": ("bert/encoder/layer_0/intermediate/dense/bias", 0),
    },
    counts={"num_hidden_layers": "bert/encoder/layer_{n}/output/dense/bias"},
    written={"layer_norm_eps": 1e-12},
    ignored=OPTIMIZER,
    saved_as="bert_model.ckpt",
    saved_settings=(
        "attention_probs_dropout_prob",
        "hidden_act",
        "hidden_dropout_prob",
        "hidden_size",
        "initializer_range",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "type_vocab_size",
        "vocab_size",
    ),
)
