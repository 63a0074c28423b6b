"""The thread on which S3Gen runs: slices of many jobs enter, each gets its audio.

    audio = await loop.decode(Slice(stream, tokens, last, due))      on the event loop

The most urgent slices are solved first, as many together as pays on the device. A slice whose job
is cancelled is left out, or given up at the next step of the flow if it is alone.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from app.engines.cancellation import wait_done
from app.engines.chatterbox.conditioning.conditionals import S3GenReference
from app.engines.chatterbox.s3gen.flow import OnStep
from app.engines.chatterbox.s3gen.stream import S3Gen, StreamDecoder

T = TypeVar("T")
P = ParamSpec("P")

NOTHING_HEARD = float("-inf")
"""When the first slice of a job is due: whoever waits for it hears nothing yet."""


@dataclass(eq=False)
class Slice:
    """Work for the thread: `tokens` that continue a `stream`, before the time `due`, in seconds.

    `audio` will be float32 [samples], in main memory.
    """

    stream: StreamDecoder
    tokens: list[int]
    last: bool
    due: float
    audio: "Future[Tensor]" = field(default_factory=Future)
    wanted: bool = True


class DecodeLoop:
    """Owns the thread, on which `adopt` is called first, and `tidy_up` when slices are done.

    `steps` counts the flow's.
    """

    def __init__(
        self, s3gen: S3Gen, adopt: Callable[[], None], tidy_up: Callable[[], None]
    ) -> None:
        self.steps = 0
        self._s3gen = s3gen
        self._adopt = adopt
        self._tidy_up = tidy_up
        self._news = threading.Condition()
        self._slices: list[Slice] = []
        self._warm_up: tuple[S3GenReference, Future[None]] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="s3gen", daemon=True)
        self._thread.start()

    async def warm_up(self, reference: S3GenReference) -> None:
        """Run everything once. Raises what S3Gen raises."""
        done: Future[None] = Future()
        with self._news:
            self._warm_up = reference, done
            self._news.notify()
        await asyncio.shield(asyncio.wrap_future(done))

    async def decode(self, piece: Slice) -> Tensor:
        """The audio that it adds to its stream. Raises what S3Gen raises.

        Cancelled, it returns when the thread has let go of the stream.
        """
        with self._news:
            self._slices.append(piece)
            self._news.notify()
        try:
            return await asyncio.wrap_future(piece.audio)
        finally:
            if not piece.audio.done():
                piece.wanted = False
                await wait_done(piece.audio)

    def close(self) -> None:
        """No slice may be under way; the thread ends."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        fault = _fault_of(self._adopt)
        while self._turn(fault):
            pass

    def _turn(self, fault: Exception | None) -> bool:
        """One warm-up or some slices, whose names end with it; False if there will be no more.

        `fault`: why nothing can run here.
        """
        with self._news:
            self._news.wait_for(lambda: self._slices or self._warm_up or self._closing)
            if self._closing:
                return False
            warm_up, self._warm_up = self._warm_up, None
            pieces = self._most_urgent()
        if warm_up:
            reference, done = warm_up
            if fault:
                done.set_exception(fault)
            else:
                _settle(done, self._s3gen.warm_up, reference)
        if pieces:
            self._decode(pieces)
            pieces.clear()
            self._tidy_up()
        return True

    def _most_urgent(self) -> list[Slice]:
        """As many as are solved together; they can no longer be cancelled."""
        self._slices.sort(key=lambda piece: piece.due)
        pieces: list[Slice] = []
        while self._slices and len(pieces) < self._s3gen.flow.at_once:
            piece = self._slices.pop(0)
            if piece.audio.set_running_or_notify_cancel():
                pieces.append(piece)
        return pieces

    @torch.inference_mode()
    def _decode(self, pieces: list[Slice]) -> None:
        def on_step() -> None:
            self.steps += 1
            if not any(piece.wanted for piece in pieces):
                raise _Unwanted

        try:
            device = self._s3gen.fade_in.device
            tokens = [
                torch.tensor(piece.tokens, dtype=torch.int64, device=device) for piece in pieces
            ]
            mels = self._solve(pieces, tokens, on_step)
        except _Unwanted:
            for piece in pieces:
                piece.audio.set_result(torch.empty(0))
        except Exception as error:  # noqa: BLE001 – told to whoever waits for it
            for piece in pieces:
                piece.audio.set_exception(error)
        else:
            for piece, new, mel in zip(pieces, tokens, mels, strict=True):
                _settle(piece.audio, _audio, piece, new, mel)

    def _solve(
        self, pieces: list[Slice], tokens: list[Tensor], on_step: OnStep
    ) -> list[Tensor | None]:
        """The mel of each that has one."""
        solves = [piece.stream.solve_for(new) for piece, new in zip(pieces, tokens, strict=True)]
        needed = [solve for solve in solves if solve]
        mels = iter(self._s3gen.flow.solve(needed, on_step) if needed else [])
        return [next(mels) if solve else None for solve in solves]


class _Unwanted(Exception):
    """Nobody waits for it any more."""


def _audio(piece: Slice, tokens: Tensor, mel: Tensor | None) -> Tensor:
    return piece.stream.extend(tokens, mel, piece.last).cpu()


def _fault_of(call: Callable[[], None]) -> Exception | None:
    try:
        call()
    except Exception as fault:  # noqa: BLE001 – told to whoever waits for it
        return fault
    return None


def _settle(future: "Future[T]", work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
    try:
        future.set_result(work(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 – told to whoever waits for it
        future.set_exception(error)
