"""Run a codec's graph in onnxruntime, on the requested device or not at all.

The blocks of a long batch go through I/O binding. On the CPU the graph reads them where they lie and writes the results
where they are wanted; another device gets and leaves them in buffers that are made once, in page-locked memory where
onnxruntime offers it.

A session's threads do not outlive a fork, and a session cannot be pickled: a forked process and an unpickled runtime
start the graph anew.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnxruntime

from vaecodec.errors import DeviceError, InvalidArtifactError
from vaecodec.interface import FloatArray
from vaecodec.vectors import ENCODED_BYTES, block_rows

Provider = str | tuple[str, Mapping[str, Any]]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DEVICES = {"auto": (_CUDA, _CPU), "cpu": (_CPU,), "cuda": (_CUDA,)}
# Turn off TensorFloat-32, the default on newer GPUs. It keeps three digits, so the same file would give other latents.
_OPTIONS = {_CUDA: {"use_tf32": "0"}}
_ERRORS_ONLY = 3

# Use large blocks: starting work on a device takes tens of microseconds, whatever the size.
_DEVICE_BLOCK_BYTES = 32 << 20


class Runtime:
    """Hold a codec's graph, ready to run. Safe to share between threads.

    Args:
        open_session: starts the graph in onnxruntime; called now, and in a process that was forked from this one.
        staged: whether the blocks of long batches pass through buffers of their own; by default away from the CPU.
        again: makes the same runtime in another process; must be picklable.
    """

    def __init__(
        self,
        open_session: Callable[[], onnxruntime.InferenceSession],
        *,
        staged: bool | None = None,
        again: Callable[[], Runtime] | None = None,
    ) -> None:
        self._open_session = open_session
        self._again = again
        self._opening = threading.Lock()
        session = open_session()
        self._session: onnxruntime.InferenceSession | None = session
        self.providers: list[str] = list(session.get_providers())
        """The execution providers in use, most wanted first."""
        self._staged = self.providers[0] != _CPU if staged is None else staged
        self._output_widths: dict[str, int] = {output.name: output.shape[1] for output in session.get_outputs()}
        self._widest = max(self._output_widths.values())  # these are also the widths of the inputs
        self.block_rows = block_rows(self._widest, _DEVICE_BLOCK_BYTES if self._staged else ENCODED_BYTES)
        """How many rows to run at once."""
        self._idle: list[tuple[FloatArray, FloatArray]] = []
        _running.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._again is None:
            raise TypeError("expected a runtime that knows its file, got one of a session only; use Codec.load")
        return self._again, ()

    def run(self, feed: str, output: str, block: FloatArray) -> FloatArray:
        """Run one block through one entry point: float32 (n, width) in and out, a new array."""
        result: FloatArray = (self._session or self._reopened()).run([output], {feed: block})[0]
        return result

    def run_blocks(
        self, feed: str, output: str, blocks: Iterator[tuple[int, FloatArray]], target: FloatArray | None = None
    ) -> Iterator[tuple[int, FloatArray]]:
        """Run the blocks of a long batch through one entry point, none longer than :meth:`block_rows`.

        Args:
            feed: the entry point's input.
            output: its output.
            blocks: their first row numbers and rows, float32 (rows, width).
            target: float32 (n, width) for the results of all blocks, row for row.

        Yields:
            The block's first row number, and its result: float32 (rows, width), in ``target`` or in memory that the
            next one reuses.
        """
        session = self._session or self._reopened()
        binding = session.io_binding()
        with self._buffers() as (fed, fetched):
            for first, block in blocks:
                rows = slice(first, first + len(block))
                if target is None or self._staged:
                    result = fetched[: len(block) * self._output_widths[output]].reshape(len(block), -1)
                else:
                    result = target[rows]
                source = block
                if self._staged:
                    source = fed[: block.size].reshape(block.shape)
                    source[:] = block
                # Feed by address, because onnxruntime's own check of names does not know optional inputs.
                binding.bind_input(feed, "cpu", 0, np.float32, source.shape, source.ctypes.data)
                binding.bind_output(output, "cpu", 0, np.float32, result.shape, result.ctypes.data)
                session.run_with_iobinding(binding)
                if target is not None and self._staged:
                    target[rows] = result
                yield first, result

    def forked(self) -> None:
        """Drop the session in a forked process, where its threads do not exist."""
        self._left_behind = self._session  # keep it: closing it would wait for threads that do not exist
        self._session = None
        self._opening = threading.Lock()
        self._idle = []

    def _reopened(self) -> onnxruntime.InferenceSession:
        with self._opening:
            if self._session is None:
                self._session = self._open_session()
            return self._session

    @contextmanager
    def _buffers(self) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Lend memory for one batch's blocks and results, which no other thread uses meanwhile."""
        try:
            buffers = self._idle.pop()
        except IndexError:
            floats = self.block_rows * self._widest
            memory = _page_locked(self.providers[0]) if self._staged else None
            buffers = _buffer(floats if self._staged else 0, memory), _buffer(floats, memory)
        try:
            yield buffers
        finally:
            self._idle.append(buffers)


_running: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _leave_sessions_behind() -> None:
    for runtime in list(_running):
        runtime.forked()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_leave_sessions_behind)


def start(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    providers: Sequence[Provider] | None,
    device: str | None,
    threads: int | None,
    strict: bool,
) -> Runtime:
    """Start a graph; the arguments are those of :meth:`vaecodec.Codec.load`, and ``data`` the file's verified bytes.

    Raises:
        DeviceError: there is no such device, or both ``device`` and ``providers`` are given; or a provider is not
            installed, or did not start.
        InvalidArtifactError: no onnxruntime can run the graph.
    """
    again = partial(start, path, data, providers=providers, device=device, threads=threads, strict=strict)
    wanted, strict = _wanted(providers, device, strict)
    available = onnxruntime.get_available_providers()
    missing = [name for name in wanted if name not in available]
    if missing and strict:
        raise DeviceError(
            f"onnxruntime has no {', '.join(missing)}; available: {', '.join(available)}; "
            "install a build that has it (GPU: pip install 'vaecodec[gpu]') or pass strict=False"
        )
    options = onnxruntime.SessionOptions()
    # The format has optional inputs, and onnxruntime warns of each at load.
    options.log_severity_level = _ERRORS_ONLY
    # onnxruntime's threads wait for the next operator in a busy loop. Stop that after the last operator, so that the
    # cores are free for what follows, such as the search.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    usable = {name: settings for name, settings in wanted.items() if name in available} or {_CPU: {}}
    failure = ""

    def session_on(entries: list[Any]) -> Callable[[], onnxruntime.InferenceSession]:
        return lambda: onnxruntime.InferenceSession(data, options, providers=entries)

    try:
        runtime = Runtime(session_on(list(usable.items())), again=again)
    except Exception as error:  # onnxruntime's exceptions have no common public base class
        # A provider may also fail by raising. Then the file works on the CPU.
        try:
            runtime = Runtime(session_on([_CPU]), again=again)
        except Exception as own:
            raise InvalidArtifactError(f"{path}: onnxruntime cannot load the graph: {own}") from own
        failure = f" ({error})"
    failed = [name for name in usable if failure or name not in runtime.providers]
    if failed and strict:
        raise DeviceError(
            f"onnxruntime could not start {', '.join(failed)} and uses {', '.join(runtime.providers)}{failure}; "
            "check the driver and libraries, or pass strict=False"
        )
    return runtime


def _wanted(
    providers: Sequence[Provider] | None, device: str | None, strict: bool
) -> tuple[dict[str, dict[str, Any]], bool]:
    """Return the options of each requested provider, and whether all of them must be there."""
    if device is not None:
        if providers is not None:
            raise DeviceError(
                f"expected either device or providers, got device {device!r} and providers {list(providers)!r}; "
                "leave one out"
            )
        if device not in _DEVICES:
            raise DeviceError(
                f"expected device to be one of {', '.join(_DEVICES)}, got {device!r}; "
                "name onnxruntime's own provider with providers=[...] for any other"
            )
        providers, strict = _DEVICES[device], strict and device != "auto"
    wanted: dict[str, dict[str, Any]] = {}
    for provider in providers if providers is not None else [_CPU]:
        name, settings = (provider, {}) if isinstance(provider, str) else provider
        wanted[name] = {**_OPTIONS.get(name, {}), **settings}
    return wanted, strict


def _page_locked(provider: str) -> Any:
    """Return memory that the provider's device can read directly, or None where onnxruntime offers none."""
    for device in getattr(onnxruntime, "get_ep_devices", list)():
        if device.ep_name == provider:
            return device.memory_info(onnxruntime.OrtDeviceMemoryType.HOST_ACCESSIBLE)
    return None


def _buffer(floats: int, memory: Any) -> FloatArray:
    if memory is None:
        return np.empty(floats, np.float32)
    buffer: FloatArray = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
        [floats], np.float32, memory_info=memory
    ).numpy()  # a view
    return buffer
