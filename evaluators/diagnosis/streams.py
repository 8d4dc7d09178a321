"""What C++ prints while it is asked something: taken out of the streams of the process, so that logs stay readable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

STDOUT, STDERR = 1, 2


@contextmanager
def redirected(stream: int, descriptor: int) -> Iterator[None]:
    """Send what this process writes to ``stream``, from whatever language, to the file of another descriptor."""
    kept = os.dup(stream)
    os.dup2(descriptor, stream)
    try:
        yield
    finally:
        os.dup2(kept, stream)
        os.close(kept)
