"""Texts, words and tokens to vectors, from any model."""
