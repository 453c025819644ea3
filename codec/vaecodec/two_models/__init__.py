"""Serve one collection by two models while the new one replaces the old: map latents, merge results."""
