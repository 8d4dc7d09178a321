"""Deaths: what the end of a job's process says about its candidate, where the job itself could not answer any more."""

from __future__ import annotations

import signal

from evaluators.outcome import Failure, FailureKind, Outcome
from workers.child import MEMORY_SIGNS, NO_SPACE_CODE
from workers.sandbox import SandboxResult

_CRASHES = {
    signal.SIGSEGV: "segmentation fault",
    signal.SIGBUS: "bus error",
    signal.SIGILL: "illegal instruction: it was built for another CPU",
    signal.SIGABRT: "aborted by a check of its own",
    signal.SIGFPE: "arithmetic error",
}


# Nobody sends them to themselves: they come from people, service managers, and the kernel that has no memory left.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def outcome_of_death(death: SandboxResult) -> Outcome:
    """Return the failed outcome of a job that ended without an answer: out of time or memory, killed, or crashed."""
    stage = death.stage or "start"
    kind, reason = _cause(death, stage)
    failure = Failure(kind=kind, stage=stage, reason=reason, details=death.log_tail)
    return Outcome(kind="failed", failure=failure, stage_seconds={stage: round(death.seconds, 3)})


def _cause(death: SandboxResult, stage: str) -> tuple[FailureKind, str]:
    if death.timed_out:
        return FailureKind.TIMED_OUT, f"no answer within {death.timeout_s:.3g} s, in stage {stage}"
    if death.exit_code == NO_SPACE_CODE:
        return FailureKind.DISK_FULL, f"no space was left for the answer, after stage {stage}"
    if death.signal == signal.SIGKILL and death.kernel_killed is not False:
        return FailureKind.OUT_OF_MEMORY, f"killed by the kernel, most likely out of memory ({_memory(death)})"
    if _ran_out_of_memory(death):
        return FailureKind.OUT_OF_MEMORY, f"no memory was left in stage {stage} ({_memory(death)})"
    if death.signal is None:
        return FailureKind.CRASHED, f"exited with code {death.exit_code} and no answer in stage {stage}"
    number = signal.Signals(death.signal)
    if number in _FROM_OUTSIDE:
        return FailureKind.KILLED, (
            f"ended from outside ({number.name}) in stage {stage}; the kernel had memory left ({_memory(death)})"
        )
    words = _CRASHES.get(number, "ended by a signal")
    return FailureKind.CRASHED, f"{words} ({number.name}) in stage {stage}"


def _ran_out_of_memory(death: SandboxResult) -> bool:
    aborted_or_exited = death.signal in (None, signal.SIGABRT)
    return aborted_or_exited and any(sign in death.log_tail for sign in MEMORY_SIGNS)


def _memory(death: SandboxResult) -> str:
    peak = f"peak {death.peak_rss_bytes / 2**20:.0f} MiB"
    limit = death.memory_limit_bytes
    return f"{peak}, no limit set" if limit is None else f"{peak} of limit {limit / 2**20:.0f} MiB"
