"""What is predicted: the corruption and the loss of one objective in one file, and the table of them all."""

OBJECTIVES: dict[str, str] = {
    "adaptive-lm": "polyseme.objectives.segment_lm:SegmentLM",
    "distillation": "polyseme.objectives.distillation:Distillation",
    "hidden-distillation": "polyseme.objectives.hidden_distillation:HiddenDistillation",
    "masked-lm": "polyseme.objectives.masked_lm:MaskedLM",
    "causal-lm": "polyseme.objectives.causal_lm:CausalLM",
    "next-sentence": "polyseme.objectives.next_sentence:NextSentence",
    "permutation-lm": "polyseme.objectives.permutation_lm:PermutationLM",
    "replaced-token": "polyseme.objectives.replaced_token:ReplacedToken",
    "sentence-order": "polyseme.objectives.sentence_order:SentenceOrder",
    "dialogue": "polyseme.objectives.dialogue:Dialogue",
    "span-corruption": "polyseme.objectives.span_corruption:SpanCorruption",
    "translation": "polyseme.objectives.translation:Translation",
}
"""Import paths, so that help and recipes never load torch."""
