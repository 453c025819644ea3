"""Offer :mod:`vaecodec_integrations.qdrant.client` for asynchronous code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import cached_property, wraps
from typing import Any

from qdrant_client import AsyncQdrantClient, QdrantClient

from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.codecs import CodecsArgument
from vaecodec_integrations.qdrant.flows import CHANGES, Call, Flow, Flows, sent_between
from vaecodec_integrations.qdrant.settings import KeptOriginals, checked_settings
from vaecodec_integrations.qdrant.surface import (
    CHANGING,
    PASSED_THROUGH,
    STATIC,
    TRANSLATED,
    bound_arguments,
    is_local,
    parameter_names,
    public_methods,
    refusal,
)


class AsyncCompressedQdrantClient(AsyncQdrantClient):
    """Wrap an ``AsyncQdrantClient``; see :class:`CompressedQdrantClient` for the arguments and the behaviour.

    As in the wrapped client, ``upload_points`` and ``upload_collection`` are plain functions that block.
    """

    def __init__(
        self,
        client: AsyncQdrantClient,
        codec: VectorCodec | None = None,
        *,
        codecs: CodecsArgument = None,
        originals: KeptOriginals = None,
        rerank: int | None = None,
        calibrate: bool = False,
        trust: bool = False,
    ) -> None:
        # The base class would open a connection of its own; only its interface is wanted.
        self.wrapped = client
        # Frameworks look at its type to tell a local client from a remote one.
        self._client = client._client
        settings = checked_settings(codec, codecs, originals, rerank, calibrate=calibrate, trust=trust)
        self._flows = Flows(settings, client)

    def __getattr__(self, name: str) -> Any:
        """Return plain attributes of the wrapped client."""
        if name.startswith("_") or name == "wrapped":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.wrapped, name)

    async def _run(self, flow: Flow[Any]) -> Any:
        response = None
        while True:
            try:
                call = flow.send(response)
            except StopIteration as done:
                return done.value
            response = await getattr(self.wrapped, call.method)(**call.arguments)

    def _run_blocking(self, flow: Flow[Any]) -> Any:
        with ExitStack() as opened:
            sender = _BlockingSender(self.wrapped, opened)
            response = None
            while True:
                try:
                    call = flow.send(response)
                except StopIteration as done:
                    return done.value
                response = sender.send(call)


class _BlockingSender:
    """Send the calls of a plain function, which cannot await.

    Args:
        wrapped: the async client.
        opened: closes the synchronous twin of the wrapped client that its coroutines need, if it has to be opened.
    """

    def __init__(self, wrapped: AsyncQdrantClient, opened: ExitStack) -> None:
        self._wrapped, self._opened = wrapped, opened

    def send(self, call: Call) -> Any:
        arguments = dict(call.arguments)
        if call.points is not None:
            arguments["points"] = sent_between(call.points, self.send)
        method = getattr(self._wrapped, call.method)
        if not inspect.iscoroutinefunction(method):
            return method(**arguments)
        if is_local(self._wrapped.init_options):
            return _finished(method(**arguments))
        return getattr(self._twin, call.method)(**arguments)

    @cached_property
    def _twin(self) -> QdrantClient:
        twin = QdrantClient(**{**self._wrapped.init_options, "check_compatibility": False})
        self._opened.callback(twin.close)
        return twin


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that never waits, as those of Qdrant's local mode do."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("expected a local client that never waits, got one that does; await an upsert instead")


def _translated(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    names = parameter_names(original)

    if inspect.iscoroutinefunction(original):

        @wraps(original)
        async def method(self: AsyncCompressedQdrantClient, *args: Any, **kwargs: Any) -> Any:
            return await self._run(getattr(self._flows, name)(**bound_arguments(names, args, kwargs)))

        return method

    @wraps(original)
    def blocking(self: AsyncCompressedQdrantClient, *args: Any, **kwargs: Any) -> Any:
        return self._run_blocking(getattr(self._flows, name)(**bound_arguments(names, args, kwargs)))

    return blocking


def _passed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def method(self: AsyncCompressedQdrantClient, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.wrapped, name)(*args, **kwargs)

    @wraps(original)
    async def changing(self: AsyncCompressedQdrantClient, *args: Any, **kwargs: Any) -> Any:
        with CHANGES.expected():
            return await getattr(self.wrapped, name)(*args, **kwargs)

    return changing if name in CHANGING else method


def _attribute(name: str) -> property:
    return property(lambda self: getattr(self.wrapped, name))


for _name, _method in public_methods(AsyncQdrantClient).items():
    if _name in TRANSLATED:
        setattr(AsyncCompressedQdrantClient, _name, _translated(_name, _method))
    elif _name in PASSED_THROUGH:
        setattr(AsyncCompressedQdrantClient, _name, _passed(_name, _method))
    elif _name not in STATIC:
        setattr(AsyncCompressedQdrantClient, _name, refusal(_name, _method))
for _name, _value in vars(AsyncQdrantClient).items():
    if isinstance(_value, property):
        setattr(AsyncCompressedQdrantClient, _name, _attribute(_name))
