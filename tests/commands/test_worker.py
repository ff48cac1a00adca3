"""The exit status of a worker, by which the supervisor decides, and what one of several ranks says of its end."""

import pytest

from muloco.cli import main
from muloco.errors import AttemptFailed, RunFailed, UserError, rank_ends


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("error", "status"),
    [(ConnectionResetError("gone"), 1), (UserError("no"), 2), (RunFailed("NaN"), 3), (AttemptFailed("late"), 4)],
)
def test_the_status_of_a_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, status: int, ranks: int
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("muloco.training.worker.run_worker", fail)
    monkeypatch.setattr("muloco.commands.worker.check_environment", lambda config, environment: None)
    monkeypatch.setattr("muloco.training.worker_log.set_up_log", lambda rank: None)
    monkeypatch.setenv("RANK", str(ranks - 1))
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    assert main(["worker", "laptop/muloco", "--run.name", "x", "--fault_tolerance.replica_id", "0"]) == status
    ends = rank_ends(1, status, f"{type(error).__name__}: {error}")
    assert (ends in capsys.readouterr().err) is (ranks > 1 and status in (3, 4))
