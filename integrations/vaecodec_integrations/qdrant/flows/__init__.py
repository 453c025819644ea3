"""Translate every method of the Qdrant clients into a generator that yields the calls to send.

A flow yields a :class:`Call`, is sent its response, and returns what the user gets. The sync and the async client
only send, so that both behave alike (httpx builds its authentication this way).
"""

from vaecodec_integrations.qdrant.flows.base import CHANGES, Call, Flow, sent_between
from vaecodec_integrations.qdrant.flows.collections import CollectionFlows
from vaecodec_integrations.qdrant.flows.searches import SearchFlows
from vaecodec_integrations.qdrant.flows.uploads import UploadFlows

__all__ = ["CHANGES", "Call", "Flow", "Flows", "sent_between"]


class Flows(CollectionFlows, UploadFlows, SearchFlows):
    """Offer all translated methods. Flows take the arguments of the client's method of the same name."""
