"""Stalls: who waits for a silent server is told after a while; who gets an answer in time is left alone."""

from __future__ import annotations

import socket

from workers.stalls import Stalls


def test_a_silent_connection_is_cut_and_one_that_answers_is_not() -> None:
    stalls = Stalls(0.2)
    silent, _server = socket.socketpair()
    with stalls.watched(silent.fileno()):
        assert silent.recv(1) == b"", "it ends instead of waiting for ever"
    answered, other = socket.socketpair()
    with stalls.watched(answered.fileno()):
        other.send(b"1")
        assert answered.recv(1) == b"1"
    answered.settimeout(1.0)
    other.send(b"2")
    assert answered.recv(1) == b"2"
    stalls.close()


def test_another_socket_of_the_same_number_is_left_alone() -> None:
    stalls = Stalls(0.1)
    first, _server = socket.socketpair()
    number = first.fileno()
    with stalls.watched(number):
        first.close()
        second, other = socket.socketpair()
        assert number in (second.fileno(), other.fileno())
        other.settimeout(0.5)
        try:
            received = other.recv(1)
        except TimeoutError:
            received = None
        assert received is None
    stalls.close()
