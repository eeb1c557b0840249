"""What is predicted: the corruption and the loss of one objective in one file, and the table of them all."""

OBJECTIVES: dict[str, str] = {
    "adaptive-lm": "polyseme.objectives.segment_lm:SegmentLM",
    "masked-lm": "polyseme.objectives.masked_lm:MaskedLM",
    "next-sentence": "polyseme.objectives.next_sentence:NextSentence",
    "permutation-lm": "polyseme.objectives.permutation_lm:PermutationLM",
}
"""Import paths, so that help and recipes never load torch."""
