"""Look at the data of a recipe, and clean it."""
