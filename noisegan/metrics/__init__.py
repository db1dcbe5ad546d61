"""Scores of generated images: feature extractors, distances, and one evaluation that shares its samples among them."""
