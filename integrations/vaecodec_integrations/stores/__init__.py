"""Embedded databases that keep latents: one module for each engine, one interface for all."""
