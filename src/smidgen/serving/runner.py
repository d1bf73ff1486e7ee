"""The thread that runs an engine: requests in through a queue, events out to whoever asked, all in one batch.

An engine has one caller; here that caller is a thread of its own, so that the event loop stays free for clients. Every
count of open answers lives on the event loop, everything of the engine in the thread, and what passes between them is
a queue one way and one `call_soon_threadsafe` a step the other way.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from smidgen.runtime.errors import SmidgenError
from smidgen.runtime.generation import Answer, Chunk
from smidgen.runtime.protocols import Engine, Tokenizer
from smidgen.runtime.sampling import SamplingParams

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Steps in a row that may fail before the engine counts as broken."""


class Overloaded(Exception):
    """As many answers are open as the server takes."""


class Closing(Exception):
    """The server is ending and takes no more requests."""


class EngineFailed(Exception):
    """The engine raised an error that is no fault of the request."""


class DeadlineExceeded(Exception):
    """The answer was not finished in time."""


@dataclass(eq=False)
class Generation:
    """The answers to one request: one a prompt and choice, in this order."""

    prompts: Sequence[Sequence[int]]
    params: Sequence[SamplingParams]
    deadline: float
    """By `time.monotonic`."""
    _arrivals: asyncio.Queue[list[Chunk] | Exception] = field(default_factory=asyncio.Queue)
    _numbers: dict[int, int] = field(default_factory=dict)
    """Answers under way, by the engine's number for them (the thread's own)."""

    async def chunks(self) -> AsyncIterator[list[Chunk]]:
        """What comes, step by step, until every answer is finished; `Chunk.index` counts prompts.

        Raises DeadlineExceeded, EngineFailed, Closing, or the SmidgenError with which the engine refused a prompt.
        """
        unfinished = len(self.prompts)
        while unfinished:
            arrival = await self._arrivals.get()
            if isinstance(arrival, Exception):
                raise arrival
            unfinished -= sum(chunk.finish_reason is not None for chunk in arrival)
            yield arrival


class Runner:
    """Runs an engine for a server. All methods but the thread's own belong to one event loop."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, max_waiting: int, on_tokens: Callable[[int], None] = lambda _: None
    ) -> None:
        """max_waiting: answers that may wait beyond the engine's batch. on_tokens: told the tokens of each step."""
        self.capacity = engine.info.max_batch_size + max_waiting
        """Answers that may be open at once."""
        self.open = 0
        """Answers that are running or waiting."""
        self.broken = False
        """Whether the engine failed for good."""
        self.closing = False
        self._engine = engine
        self._tokenizer = tokenizer
        self._on_tokens = on_tokens
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._active: dict[int, tuple[Generation, Answer]] = {}
        self._outbox: dict[Generation, list[Chunk] | Exception] = {}
        self._emptied = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to run, for the event loop of the caller."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, generation: Generation) -> None:
        """Queue a request; `release` must follow. Raises Overloaded, Closing, EngineFailed."""
        if self.closing:
            raise Closing
        if self.broken:
            raise EngineFailed
        if self.open + len(generation.prompts) > self.capacity:
            raise Overloaded
        self.open += len(generation.prompts)
        self._commands.put(lambda: self._begin(generation))

    def release(self, generation: Generation) -> None:
        """Give a submitted request's places back; what of it still runs ends before the next token."""
        self.open -= len(generation.prompts)
        if self.open == 0:
            self._emptied.set()
        self._commands.put(lambda: self._cancel(generation))

    async def close(self, timeout: float) -> None:
        """Take no more requests, let the open ones finish for `timeout` seconds, then end the thread."""
        self.closing = True
        try:
            async with asyncio.timeout(timeout):
                while self.open:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            logger.warning("%d answers were not finished %g s after the server was told to end", self.open, timeout)
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)

    # What follows runs in the thread.

    def _run(self) -> None:
        failures = 0
        while self._obey():
            self._expire()
            try:
                self._step()
                failures = 0
            except Exception:
                failures += 1
                logger.exception("the engine failed at a step (%d in a row)", failures)
                self._fail_all(EngineFailed())
                if failures == MAX_FAILURES:
                    self.broken = True
            self._send()
        self._fail_all(Closing())
        self._send()

    def _obey(self) -> bool:
        """Carry out the commands that wait; with nothing to run, wait for one. False: end."""
        wait = not self._active
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            wait = not self._active and not self._outbox

    def _begin(self, generation: Generation) -> None:
        for index, (prompt, params) in enumerate(zip(generation.prompts, generation.params, strict=True)):
            try:
                number = self._engine.submit(prompt, params)
            except Exception as error:
                self._cancel(generation)
                if not isinstance(error, SmidgenError):
                    logger.exception("the engine failed to take a request")
                self._outbox[generation] = error if isinstance(error, SmidgenError) else EngineFailed()
                return
            generation._numbers[number] = index
            self._active[number] = generation, Answer(index, self._tokenizer, prompt, params.stop)

    def _cancel(self, generation: Generation) -> None:
        for number in generation._numbers:
            self._engine.cancel(number)
            del self._active[number]
        generation._numbers.clear()

    def _expire(self) -> None:
        now = time.monotonic()
        for generation in {generation for generation, _ in self._active.values() if generation.deadline <= now}:
            self._cancel(generation)
            self._outbox[generation] = DeadlineExceeded()

    def _step(self) -> None:
        for event in self._engine.step():
            found = self._active.get(event.request)
            if found is None:  # cancelled
                continue
            generation, answer = found
            chunk = answer.advance(event)
            if chunk.finish_reason is not None:
                del self._active[event.request], generation._numbers[event.request]
                if event.finish_reason is None:  # a stop string
                    self._engine.cancel(event.request)
            chunks = self._outbox.setdefault(generation, [])
            assert isinstance(chunks, list)
            chunks.append(chunk)

    def _fail_all(self, error: Exception) -> None:
        for generation in {generation for generation, _ in self._active.values()}:
            try:
                self._cancel(generation)
            except Exception:
                logger.exception("the engine failed to cancel a request")
                for number in generation._numbers:
                    self._active.pop(number, None)
                generation._numbers.clear()
            self._outbox[generation] = error

    def _send(self) -> None:
        """Hand over what the step brought; one call to the event loop for all clients."""
        if self._outbox:
            outbox, self._outbox = self._outbox, {}
            self._loop.call_soon_threadsafe(self._deliver, outbox)

    def _deliver(self, outbox: dict[Generation, list[Chunk] | Exception]) -> None:
        for generation, arrival in outbox.items():
            if isinstance(arrival, list):
                self._on_tokens(sum(chunk.token is not None for chunk in arrival))
            generation._arrivals.put_nowait(arrival)
