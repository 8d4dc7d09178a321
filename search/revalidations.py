"""Revalidations on a schedule: which deployed versions there are to check, and a worker that checks one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.errors import IntegrityError, ParetuneError
from evaluators.frozen import Frozen
from workers.alive import touching
from workers.beat import Recurring
from workers.lease import Cancellation, wait_for

if TYPE_CHECKING:
    from workers.ledger import Ledger
    from workers.promotions import AliasStep
    from workers.sandbox import Sandbox


class BeatReport(Frozen):
    """A beat that has ended, and how often it rang."""

    rung: int


def keep_revalidating(
    ledger: Ledger, broker: str, every_s: float, *, say: Callable[[str], None], leave: Cancellation,
    alive: Path | None = None,
) -> BeatReport:  # fmt: skip
    """Ring for the revalidation of everything that is deployed, each ``every_s`` after its last, until ``leave``.

    The file ``alive`` is touched all the while.

    Raises:
        UsageError: the broker's URL cannot be used, or the file cannot be written.
    """
    from workers.beat import beat
    from workers.celery_app import REVALIDATE, make_app

    tell = touching(alive)

    def until(pause: float) -> bool:
        tell()
        return wait_for((leave,), pause)

    app = make_app(broker)
    say(f"rings for what is deployed, {every_s:g} s after it was last measured")
    return BeatReport(rung=beat(app, REVALIDATE, every_s, lambda: deployed_aliases(ledger), until, say))


def deployed_aliases(ledger: Ledger) -> tuple[Recurring, ...]:
    """Return every alias that points at a certified version, with its target and when it was last proven or checked.

    Those whose version has no certificate are no errand: ``paretune reconcile`` flags them.
    """
    from search.promotion.lifecycle import certificate_of, left_at

    by_alias: dict[tuple[str, str], list[AliasStep]] = {}
    for step in ledger.alias_steps():
        by_alias.setdefault((step.model, step.alias), []).append(step)
    found = []
    for (model, alias), steps in sorted(by_alias.items()):
        version = left_at(steps)
        certificate = None if version is None else certificate_of(ledger, model, version)
        if certificate is not None:
            found.append(Recurring(f"{model}@{alias}", certificate.target, last_checked(steps)))
    return tuple(found)


def last_checked(steps: Sequence[AliasStep]) -> float:
    """Return when what an alias points at was last measured, at its promotion or since; its last move, if later."""
    return max(step.created_at for step in steps)


class Revalidations:
    """Checks what is deployed when a message asks for it, on the device of a worker.

    Args:
        ledger: where the certificates are, and where what was found is written.
        home: of the worker; its registry is asked what is deployed.
        sandbox: where bundles are measured.
        device: what they are measured on; the first one of the bundle's target unless told.
        say: told what was found, in words.
        cancel: what ends a check at once, or keeps it from being begun.
    """

    def __init__(
        self, ledger: Ledger, home: Path, sandbox: Sandbox, device: str | None, say: Callable[[str], None],
        cancel: Sequence[Cancellation] = (),
    ) -> None:  # fmt: skip
        self._ledger, self._home, self._sandbox = ledger, home, sandbox
        self._device, self._say, self._cancel = device, say, cancel

    def check(self, name: str, done_at: float) -> None:
        """Revalidate ``NAME@ALIAS``, unless somebody has done so since ``done_at``.

        What goes wrong is said, and nothing else: the errand is due again, and the worker goes on with its trials.
        """
        from search.promotion.names import parse_model_alias
        from search.promotion.registry import Registry
        from search.promotion.revalidation import revalidate
        from workers.certifying import Certifier

        if any(each.is_set for each in self._cancel):
            return
        try:
            wanted = parse_model_alias(name)
            steps = self._ledger.alias_steps(wanted.model, wanted.alias)
            if not steps or last_checked(steps) > done_at:
                return
            certifier = Certifier(self._sandbox, self._home, device=self._device, cancel=self._cancel)
            report = revalidate(self._ledger, Registry(self._home), wanted, certifier)
        except IntegrityError as error:  # it is as it is until somebody does something: not due at once again
            self._ledger.add_alias_step(wanted.model, wanted.alias, "revalidated", steps[-1].version,
                                        steps[-1].version, str(error))  # fmt: skip
            self._say(f"revalidation of {name}: {error}")
        except (ParetuneError, OSError) as error:
            self._say(f"revalidation of {name} failed: {error}")
        else:
            refused = [gate for gate in report.gates if gate.status != "passed"]
            self._say(f"revalidation of {name}, version {report.version}: "
                      f"{'its certificate holds' if report.holds else f'it does not hold: {refused[-1]}'}")  # fmt: skip
