"""What is validated: the anchor, and each worker's own weights just before a sync."""

from pathlib import Path
from statistics import fmean

import pytest

from .runs import Run, train

pytestmark = pytest.mark.integration

SETTINGS = {"training__steps": 6, "validation__freq": 3}


def own(run: Run, worker: int) -> dict[int, float]:
    lines = run.lines(worker=worker)
    return {line["step"]: line["local_validation_loss"] for line in lines if "local_validation_loss" in line}


@pytest.mark.full
def test_own_weights_of_one_worker_are_those_of_plain_training(tmp_path: Path) -> None:
    """Up to the first sync a worker trains as a run without outer steps does, whose loss is plain torchtitan's."""
    plain = train(tmp_path, "plain", "config/laptop/muon.py", **SETTINGS)
    muloco = train(
        *(tmp_path, "muloco", "config/laptop/muloco.py"),
        **SETTINGS,
        fault_tolerance__group_size=1,
        fault_tolerance__sync_steps=3,
    )
    assert (plain.status, muloco.status) == (0, 0), plain.output + muloco.output
    assert own(plain, 0) == {} and plain.summary()["local_validation_loss"] is None
    assert own(muloco, 0).keys() == {3, 6}
    assert own(muloco, 0)[3] == plain.validation()[3] != muloco.validation()[3]


@pytest.mark.full
def test_own_losses_are_logged_at_syncs_and_change_nothing(tmp_path: Path) -> None:
    """Two workers: each has its own, the summary their mean; without them the run has the same bits."""
    settings = {**SETTINGS, "fault_tolerance__transport": "in_process", "fault_tolerance__sync_steps": 3}
    seldom = train(tmp_path, "seldom", "config/laptop/muloco.py", **{**settings, "validation__freq": 1000})
    often = train(tmp_path, "often", "config/laptop/muloco.py", **settings)
    assert (seldom.status, often.status) == (0, 0), seldom.output + often.output
    assert often.digests() == seldom.digests() and len(often.digests()) == 2
    assert [often.losses(worker) for worker in (0, 1)] == [seldom.losses(worker) for worker in (0, 1)]
    first, second = own(often, 0), own(often, 1)
    assert first.keys() == second.keys() == {3, 6}
    assert len({first[6], second[6], often.validation()[6]}) == 3
    assert often.summary()["local_validation_loss"] == pytest.approx(fmean((first[6], second[6])))
    assert own(seldom, 0) == {6: first[6]}
