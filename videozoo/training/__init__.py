"""Training: recipes, the loop that follows them, and the folder that it writes."""
