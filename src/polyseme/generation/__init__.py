"""Blanks filled, and texts continued or rewritten."""
