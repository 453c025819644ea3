"""Compress embedding vectors with a learned codec, kept in one ONNX file.

>>> from vaecodec import Codec                          # doctest: +SKIP
>>> codec = Codec.load("vae128.onnx")                   # doctest: +SKIP
>>> latents = codec.encode(embeddings)                  # doctest: +SKIP
"""
