"""Recipes, one per file. `default` declares every field."""
