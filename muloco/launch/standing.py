"""What is known of each worker while a run goes on, and what to say of it: what it does, and whom it waits for."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from muloco.training.run_folder import STATE
from muloco.training.states import State

STARTING = "starting"
LOST = "lost"
_NOT_BEGUN = (STARTING, State.PREPARING, State.BUILDING, State.LOADING, State.RESUMED)
_ENDED = (State.FINISHED, State.STOPPED)


class Standing:
    """One worker, as its metrics and its supervisor tell."""

    def __init__(self, worker: int):
        self.worker = worker
        self.state: str = STARTING
        self.step: int | None = None
        """The last inner step that it has told of."""
        self.synced: int | None = None
        """The inner step of its last sync."""
        self.megabytes: float | None = None
        """That it has sent to others."""
        self.values: dict[str, Any] = {}
        """The newest of its metrics, by name."""
        self.restart: float | None = None
        """Seconds until it is started again, while it is lost."""

    def take(self, line: dict[str, Any]) -> None:
        """A line of its metrics."""
        event = line.get("event")
        if event == STATE:
            self.state = line["state"]
        if event != STATE or self.state not in _NOT_BEGUN or self.state == State.RESUMED:
            self.step = line["step"]
        if event == "sync":
            self.synced = line["step"]
            self.megabytes = (self.megabytes or 0.0) + line["bytes_sent"] / 1e6
        self.values.update(line)

    def supervised(self, restart: float | None, *, lost: bool) -> None:
        """Whether its process is lost, and in how many seconds it is started again (None: it is not)."""
        if lost:
            self.state, self.restart = LOST, restart
        elif self.state == LOST:
            self.state, self.restart = STARTING, None

    def value(self, name: str) -> float | None:
        return self.values.get(name)

    @property
    def takes_part(self) -> bool:
        """Whether it is under way, rather than lost or about to begin."""
        return self.state != LOST and self.state not in _NOT_BEGUN

    @property
    def attention(self) -> int:
        """How much it needs: 2 it is lost, 1 it is not with the others yet, 0 none."""
        return 2 if self.state == LOST else int(self.state in _NOT_BEGUN or self.state == State.MEETING)

    def has_come_to(self, step: int) -> bool:
        """Whether it takes part in the sync after that step already, or has done so."""
        at_sync = self.state == State.SYNCING and (self.step or 0) >= step
        return at_sync or (self.step or 0) > step or self.synced == step or self.state in _ENDED


def standings(workers: Sequence[Standing], *, delay: int) -> list[str]:
    """What each worker does, in a few words.

    Args:
        workers: all of them.
        delay: inner steps between sending a pseudogradient and applying the mean. Above 0 workers meet on the way, and
            nobody can tell from outside who is late.
    """
    under_way = any(w.takes_part and w.state != State.MEETING for w in workers)
    said = []
    for worker in workers:
        text = str(worker.state)
        if worker.state == LOST:
            text = "lost" if worker.restart is None else f"lost, restarting in {worker.restart:.0f} s"
        elif worker.state == State.MEETING and under_way:
            text = "rejoining at the next sync"
        elif worker.state == State.MEETING:
            late = [w.worker for w in workers if not w.takes_part]
            text = _waiting(late) if late else "meeting the others"
        elif worker.state == State.SYNCING and delay == 0:
            step = worker.step or 0
            late = [w.worker for w in workers if (w.takes_part or w.state == LOST) and not w.has_come_to(step)]
            late = [other for other in late if workers[other].state != State.MEETING]
            text = _waiting(late) if late else "syncing"
        said.append(text)
    return said


def summary(workers: Sequence[Standing]) -> str:
    """What several workers do, such as `8 training, 1 lost`."""
    counts = Counter(str(worker.state) for worker in workers)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def span(steps: Iterable[int | None]) -> str:
    """From the lowest to the highest of them, where they are known."""
    known = [step for step in steps if step is not None]
    if not known:
        return "-"
    low, high = min(known), max(known)
    return str(low) if low == high else f"{low}-{high}"


def _waiting(late: Sequence[int]) -> str:
    if len(late) > 3:
        return f"waiting for {len(late)} workers"
    names = " and ".join(filter(None, [", ".join(map(str, late[:-1])), str(late[-1])]))
    return f"waiting for worker {names}"
