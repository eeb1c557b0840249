"""The story of the library on text that ships with it: vocabulary, pre-training, vectors, a classifier."""
