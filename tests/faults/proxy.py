"""Proxy: a piece of network between a client and a server that a test takes away and gives back."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class Proxy:
    """Forwards the connections to its port to a server's port on the loopback, while it is not cut.

    A cut takes nothing down: packets are swallowed in both directions, and new connections open onto silence, as behind
    a firewall that has forgotten them. When it heals, what was swallowed arrives, as TCP would send it again; or all
    connections are reset.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._through = threading.Event()
        self._through.set()
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.heal(reset=True)

    def cut(self) -> None:
        """Let nothing through from now on."""
        self._through.clear()

    def heal(self, *, reset: bool = False) -> None:
        """Let everything through again; with ``reset`` over new connections only."""
        if reset:
            for connection in tuple(self._open):
                _end(connection)
        self._through.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._open.add(client)
        self._through.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port), timeout=5)
            server.settimeout(None)
        except OSError:
            self._forget(client)
            return
        self._open.add(server)
        back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
        back.start()
        self._pump(client, server)
        back.join()
        self._forget(client, server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._through.wait()
                sink.sendall(data)
        self._through.wait()
        for each in (source, sink):
            _end(each)

    def _forget(self, *connections: socket.socket) -> None:
        for each in connections:
            self._open.discard(each)
            each.close()


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
