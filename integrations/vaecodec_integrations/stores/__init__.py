"""Keep latents in embedded databases: one module for each engine, one interface for all."""
