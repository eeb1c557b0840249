"""Looking inside: how a text is cut, what an objective makes of it, what a model and a store hold."""
