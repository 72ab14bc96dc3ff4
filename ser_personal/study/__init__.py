"""`ser study`: a grid of recipes, seeds and folds, each run in a process and folder of its own."""
