"""Change the embedding model of a live collection: embed its texts again, and search both models meanwhile."""

from vaecodec_integrations.qdrant.reembedding.estimate import Cost, JudgedQueries, estimate
from vaecodec_integrations.qdrant.reembedding.job import Embed, Reembedding
from vaecodec_integrations.qdrant.reembedding.judged import read_judged
from vaecodec_integrations.qdrant.reembedding.request import ReembeddingRequest, estimate_at, reembed_at
from vaecodec_integrations.qdrant.reembedding.run import ReembeddingOutcome, reembed
from vaecodec_integrations.qdrant.reembedding.search import AsyncTwoModelSearch, Model, TwoModelSearch

__all__ = [
    "AsyncTwoModelSearch",
    "Cost",
    "Embed",
    "JudgedQueries",
    "Model",
    "Reembedding",
    "ReembeddingOutcome",
    "ReembeddingRequest",
    "TwoModelSearch",
    "estimate",
    "estimate_at",
    "read_judged",
    "reembed",
    "reembed_at",
]
