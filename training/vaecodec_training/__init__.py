"""Learn a codec from a collection's own embeddings; needs the extra ``train``."""
