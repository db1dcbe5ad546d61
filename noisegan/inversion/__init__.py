"""Inversion: the latent and the noise that make a generator show a given image."""
