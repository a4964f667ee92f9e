"""One training run: recipe, optimiser, loop, checkpoints."""
