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
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from dataclasses import dataclass, field

from smidgen.runtime.errors import SmidgenError
from smidgen.runtime.generation import Answer, Chunk
from smidgen.runtime.protocols import Engine, Tokenizer
from smidgen.runtime.sampling import SamplingParams
from smidgen.runtime.scoring import Scorer, TokenScore

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
    top_scores: int | None = None
    """Score the prompts before anything is generated, with so many of the most probable tokens at each place."""
    only_score: bool = False
    """Generate nothing."""
    scores: dict[tuple[int, ...], list[TokenScore]] = field(default_factory=dict)
    """Of each prompt its tokens but the first, if asked for; complete when the first chunks come."""
    _arrivals: asyncio.Queue[list[Chunk] | Exception] = field(default_factory=asyncio.Queue)
    _numbers: dict[int, int] = field(default_factory=dict)
    """Answers under way, by the engine's number for them (the thread's own)."""

    async def chunks(self) -> AsyncIterator[list[Chunk]]:
        """What comes until every answer is finished, several steps at once if they wait; `Chunk.index` counts prompts.

        Raises DeadlineExceeded, EngineFailed, Closing, or the SmidgenError with which the engine refused a prompt.
        """
        unfinished = len(self.prompts)
        while unfinished:
            arrival = await self._arrivals.get()
            while not (isinstance(arrival, Exception) or self._arrivals.empty()):
                later = self._arrivals.get_nowait()
                if isinstance(later, Exception):
                    self._arrivals.put_nowait(later)  # nothing comes after it
                    break
                arrival = arrival + later
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
        self._queued: deque[Generation] = deque()
        self._scoring: Generator[list[TokenScore]] | None = None
        """For the first prompt without scores of the first that is queued."""
        self._scored: list[TokenScore] = []
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
        self._commands.put(lambda: self._enqueue(generation))

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
            self._admit()
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
        wait = not self._active and not self._queued
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            wait = not self._active and not self._queued and not self._outbox

    def _enqueue(self, generation: Generation) -> None:
        if self._queued or generation.top_scores is not None:
            self._queued.append(generation)
        else:
            self._begin(generation)

    def _admit(self) -> None:
        """Begin what is queued, in its order. Where prompts are to be scored, one piece a step; who comes later waits,
        so that a place becomes free for it."""
        while self._queued:
            generation = self._queued[0]
            try:
                if generation.top_scores is not None and not self._score(generation, generation.top_scores):
                    return
            except Exception:
                logger.exception("the engine failed to score a prompt")
                self._cancel(generation)
                self._outbox[generation] = EngineFailed()
                continue
            self._queued.popleft()
            self._begin(generation)

    def _score(self, generation: Generation, top: int) -> bool:
        """Another piece of a generation's scores; whether they are complete."""
        assert isinstance(self._engine, Scorer)
        missing = (prompt for prompt in map(tuple, generation.prompts) if prompt not in generation.scores)
        prompt = next(missing, None)
        if prompt is None:
            return True
        if self._scoring is None:
            if not self._engine.can_score():
                return False
            self._scoring, self._scored = self._engine.score(prompt, top), []
        piece = next(self._scoring, None)
        if piece is not None:
            self._scored += piece
        if len(self._scored) < len(prompt) - 1:
            assert piece
            return False
        self._stop_scoring()
        generation.scores[prompt] = self._scored
        return next(missing, None) is None

    def _stop_scoring(self) -> None:
        if self._scoring is not None:
            self._scoring.close()
            self._scoring = None

    def _begin(self, generation: Generation) -> None:
        if generation.only_score:
            self._outbox[generation] = [Chunk(i, "", None, "length") for i in range(len(generation.prompts))]
            return
        for index, (prompt, params) in enumerate(zip(generation.prompts, generation.params, strict=True)):
            try:
                answer = Answer(index, self._tokenizer, prompt, params.stop)
                number = self._engine.submit(prompt, params)
            except Exception as error:
                self._cancel(generation)
                if not isinstance(error, SmidgenError):
                    logger.exception("the engine failed to take a request")
                self._outbox[generation] = error if isinstance(error, SmidgenError) else EngineFailed()
                return
            generation._numbers[number] = index
            self._active[number] = generation, answer

    def _cancel(self, generation: Generation) -> None:
        if generation in self._queued:
            if generation is self._queued[0]:
                self._stop_scoring()
            self._queued.remove(generation)
        for number in generation._numbers:
            self._cancel_in_engine(number)
            del self._active[number]
        generation._numbers.clear()

    def _cancel_in_engine(self, number: int) -> None:
        """What becomes of the request no longer matters, so an engine's failure is only told."""
        try:
            self._engine.cancel(number)
        except Exception:
            logger.exception("the engine failed to cancel a request")

    def _expire(self) -> None:
        now = time.monotonic()
        for generation in [generation for generation in self._open() if generation.deadline <= now]:
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
                    self._cancel_in_engine(event.request)
            chunks = self._outbox.setdefault(generation, [])
            assert isinstance(chunks, list)
            chunks.append(chunk)

    def _open(self) -> set[Generation]:
        return {*self._queued, *(generation for generation, _ in self._active.values())}

    def _fail_all(self, error: Exception) -> None:
        for generation in self._open():
            self._cancel(generation)
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
