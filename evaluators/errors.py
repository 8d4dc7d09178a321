"""Every error that paretune raises on purpose, each with the exit code of the command that meets it."""

from __future__ import annotations

import errno


class ParetuneError(Exception):
    """Base of the tree: what happened, the value seen, and what to do next."""

    exit_code = 1


class UsageError(ParetuneError):
    """A flag, a config file, a name or a workload that cannot be used as given."""

    exit_code = 2


class WorkloadError(UsageError):
    """The workload breaks its contract: model, data or metric."""


class UploadRefusedError(UsageError):
    """A workload is an uploaded archive that may not be used here, is not there, or is not what it should be."""


class IllegalCandidateError(UsageError):
    """A candidate that the space refuses, with the reason."""


class FormatError(UsageError):
    """A format that cannot carry a bundle; the message says why, and names those that can."""


class InfrastructureError(ParetuneError):
    """Something around the search failed: a store, a sandbox server, a disk."""

    exit_code = 3


class InfeasibleError(ParetuneError):
    """Nothing meets the constraints."""

    exit_code = 4


class IntegrityError(ParetuneError):
    """A hash or a gate refused."""

    exit_code = 5


class DamagedError(IntegrityError):
    """Something in the shared store is not what was put there; it has been taken out, so that it can be put anew."""


class GateRefusedError(IntegrityError):
    """A gate of a promotion refused; the message says which, what was found, and what to do."""


class TargetMismatchError(IntegrityError):
    """A bundle was built and measured on other hardware than it is asked to run on."""


class UnsupportedError(ParetuneError):
    """A technique cannot be applied to this model: a property of the candidate, not a fault."""


class NotFiniteError(ParetuneError):
    """The model returned NaN or infinity."""


class TooSlowError(ParetuneError):
    """Something would take longer than there is time; it is said as soon as that is known."""


class ParityError(ParetuneError):
    """A built bundle does not compute what its model computes."""


_ALLOCATION = ("can't allocate memory", "bad_alloc", "Cannot allocate memory", "out of memory")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out; libraries hide it behind many types."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _ALLOCATION)


_NO_SPACE = ("No space left on device", "Disk quota exceeded")


def found_no_space(error: BaseException) -> bool:
    """Whether ``error`` says that a disk is full; libraries hide it behind many types."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or any(text in str(error) for text in _NO_SPACE)
