"""Stalls: a connection whose server says nothing for too long is cut, so that whoever waits for it is told.

A network that swallows packets and a proxy that has lost the server behind it keep a connection open: the client waits
for ever, and the system's own keep-alives are answered. Drivers know no time limit for an answer.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Stalls:
    """Cuts connections whose block takes longer than ``seconds``; one thread watches all of them.

    Args:
        seconds: how long a block may take.
        steady: a clock that nobody sets.
    """

    def __init__(self, seconds: float, steady: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._steady = seconds, steady
        self._until: dict[socket.socket, float] = {}
        self._changed = threading.Condition()
        self._watching = self._over = False

    @contextmanager
    def watched(self, descriptor: int) -> Iterator[None]:
        """Cut the socket ``descriptor`` if the block takes too long: what waits for it then fails as disconnected."""
        # A descriptor of our own: the number may mean something else once the driver has closed its one.
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            with self._changed:
                self._until[connection] = self._steady() + self._seconds
                self._begin()
            try:
                yield
            finally:
                with self._changed:
                    self._until.pop(connection, None)

    def close(self) -> None:
        """Watch no longer."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def _begin(self) -> None:
        if not self._watching:
            self._watching = True
            threading.Thread(target=self._watch, name="stalls", daemon=True).start()

    def _watch(self) -> None:
        with self._changed:
            while not self._over:
                now = self._steady()
                for connection in [each for each, until in self._until.items() if now >= until]:
                    del self._until[connection]
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                self._changed.wait(self._seconds / 4)
