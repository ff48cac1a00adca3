"""Workers that stood still while another one committed rounds without them: who goes on from whose state."""

import pytest

from muloco.outer import RunProgress
from muloco.outer.in_process import InProcessGroup

from ..joining import Worker, stand_still
from ..toy import Case
from ..workers import run_workers

CASE = Case(workers=3, interval=4, steps=40)
PAUSE = 8
"""Workers 1 and 2 stand still before the sync after this step."""


def trained(wakes_before: int, *, told: bool) -> list[Worker]:
    """Trains; workers 1 and 2 stand still until worker 0 is about to sync after step `wakes_before`. `told`: they can
    see then which syncs worker 0 has committed without them."""
    group = InProcessGroup(CASE.workers)
    made: dict[int, Worker] = {}

    def before_sync(member: Worker) -> None:
        if member.worker == 0 and member.step == wakes_before:
            group.present |= {1, 2}
        if member.worker != 0 and member.step == PAUSE and not member.moves:
            stand_still(group, member.worker)

    def work(worker: int) -> Worker:
        def passed(due: int, fragment: int) -> bool:
            alone = (step for step, workers, _ in made[0].syncs if worker not in workers)
            return told and worker != 0 and any(step >= due for step in alone)

        progress = RunProgress(committed_without_me=passed)
        made[worker] = Worker(CASE, group.transport(worker), worker, progress=progress)
        made[worker].train(before_sync)
        return made[worker]

    return run_workers(group, work)


@pytest.mark.parametrize(("wakes_before", "told"), [(24, True), (16, True), (12, True), (12, False)])
def test_nothing_is_lost_of_what_one_worker_has_learned_alone(wakes_before: int, told: bool) -> None:
    """Workers that know that they were left behind never count as those who are on the way; and without that
    knowledge, a worker that is one window ahead is believed."""
    zero, *others = trained(wakes_before, told=told)
    steps = [step for step, _, _ in zero.syncs]
    assert steps == sorted(set(steps)) and not zero.moves, "worker 0 never goes back"
    assert all(worker.moves == [(PAUSE, wakes_before)] for worker in others)
    alone = [step for step, workers, _ in zero.syncs if workers == [0]]
    assert alone == list(range(PAUSE, wakes_before + 1, 4))
    assert {tuple(workers) for step, workers, _ in zero.syncs if step > wakes_before} == {(0, 1, 2)}
    for worker in others:
        assert worker.syncs[-1] == zero.syncs[-1] and worker.syncs[-1][0] == CASE.steps


def test_more_than_half_who_know_nothing_of_it_do_not_believe_a_lead_of_more_than_a_window() -> None:
    """The one that was ahead takes over their state, and all train to the end together."""
    zero, *others = trained(24, told=False)
    assert zero.moves == [(24, PAUSE)]
    assert all(not worker.moves for worker in others)
    for worker in others:
        assert [(step, members) for step, members, _ in worker.syncs] == [
            (step, [1, 2] if step == PAUSE else [0, 1, 2]) for step in range(4, CASE.steps + 1, 4)
        ]
        assert worker.syncs[-1] == zero.syncs[-1]
