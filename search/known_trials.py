"""KnownTrials: a search's trials as this process knows them; only what has changed is read from the ledger."""

from __future__ import annotations

from search.spec import SearchSpec
from search.standing import Standing
from search.view import result_of
from workers.ledger import Ledger
from workers.records import TrialRecord


class KnownTrials:
    """Reads the trials of a search, and then again and again those that are new, unfinished or have just ended.

    What was finished stays as it was read: nobody but who coordinates a search has its finished trials run again, and
    then they are unfinished for a while.
    """

    def __init__(self, ledger: Ledger, search_id: str, spec: SearchSpec) -> None:
        self._ledger, self._search_id, self._spec = ledger, search_id, spec
        self._steps: dict[int, tuple[int, str]] = {}
        self._unfinished: dict[int, TrialRecord] = {}
        self._last = -1
        self.standing = Standing(spec)

    @property
    def unfinished(self) -> tuple[TrialRecord, ...]:
        """The trials that wait or run, by number."""
        return tuple(self._unfinished[number] for number in sorted(self._unfinished))

    def look(self) -> tuple[TrialRecord, ...]:
        """Return the trials that were changed since the last look, by number; at the first one all of them."""
        steps = self._ledger.progress(self._search_id, done_up_to=self._last)
        changed = {number for number, *step in steps if self._steps.get(number) != tuple(step)}
        changed |= self._unfinished.keys() - {number for number, *_ in steps}
        if not changed:
            return ()
        everything = self._last < 0
        records = self._ledger.trials(self._search_id, None if everything else changed)
        for record in records:
            self._take(record)
        return records

    def _take(self, record: TrialRecord) -> None:
        self._steps[record.number] = (record.attempt, record.state)
        self._last = max(self._last, record.number)
        if record.state == "DONE":
            self._unfinished.pop(record.number, None)
        else:
            self._unfinished[record.number] = record
        self.standing.update(result_of(record, self._spec))
