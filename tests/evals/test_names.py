"""Unknown tasks are told without lm-eval's registry, which takes long to build."""

from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from muloco.errors import UserError
from muloco.evals.names import check_names

from .local_tasks import NAMES, write_tasks


def test_known_tasks_groups_tags_and_suites_pass(tmp_path: Path) -> None:
    """By the name of their file, and by what is in it: a group, a tag, a task among several of a folder."""
    check_names(["paper", "hellaswag"], None)
    check_names(["arc_easy", "mmlu_stem", "mmlu_abstract_algebra", "glue", "super-glue-lm-eval-v1"], None)
    tasks = write_tasks(tmp_path / "tasks", documents=1)
    check_names(["piqa", *NAMES], str(tasks))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["helaswag"], "lm-eval knows no task 'helaswag'; did you mean hellaswag"),
        (["piqa", "no_such_task_anywhere"], "lm-eval knows no task 'no_such_task_anywhere'"),
        (["local_choices"], "did you mean local_choice"),
    ],
)
def test_what_no_file_mentions_is_refused(names: list[str], message: str, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks", documents=1)
    with pytest.raises(UserError) as refusal:
        check_names(names, str(tasks))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_folder_of_tasks_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder of tasks"):
        check_names(["piqa"], str(tmp_path / "nowhere"))
