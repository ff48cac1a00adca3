"""Names of jobs: what tells points apart, in their order, and nothing else."""

from muloco.sweeps.names import job_names
from muloco.sweeps.sweep import product


def test_fields_that_tell_points_apart_are_in_the_names() -> None:
    points = product(
        {"model.flavor": ["150M", "416M"], "fault_tolerance.group_size": [8], "optimizer.lr": [0.0625, 8.6e-5]}
    )
    assert job_names("muloco", points) == [
        *("muloco_150M_lr0.0625", "muloco_150M_lr8.6e-05", "muloco_416M_lr0.0625", "muloco_416M_lr8.6e-05")
    ]
    assert job_names("one", points[:1]) == ["one"]
    assert job_names("one", points[:1], named=["fault_tolerance.group_size"]) == ["one_K8"]


def test_what_follows_from_the_fields_before_is_left_out_and_what_does_not_is_in() -> None:
    points = [
        {"model.flavor": flavor, "training.local_batch_size": local, "optimizer.lr": lr}
        for flavor, local in (("150M", 32), ("416M", 16))
        for lr in (0.1, 0.2)
    ]
    assert job_names("x", points)[0] == "x_150M_lr0.1"
    points.append({"model.flavor": "150M", "training.local_batch_size": 8, "optimizer.lr": 0.1})
    assert job_names("x", points)[-1] == "x_150M_local_batch_size-8_lr0.1"
    assert len(set(job_names("x", points))) == 5


def test_points_of_several_products_and_of_all_kinds_of_values() -> None:
    points = [
        *product({"compression.kind": ["linear"], "compression.bits": [2, 4]}),
        *product({"compression.kind": ["topk"], "compression.fraction": [0.1, 0.2], "compression.bits": [None]}),
        *product({"compression.kind": ["none"], "compression.error_feedback": [False, True]}),
    ]
    names = job_names("c", points)
    assert names[:4] == ["c_linear_bits2", "c_linear_bits4", "c_topk_keep0.1", "c_topk_keep0.2"]
    assert names[4:] == ["c_none_no-feedback", "c_none_feedback"]
    names = job_names("c", product({"data.corpus": [("a b.jsonl", "hf:O/N"), "a-b.jsonl-hf-O-N"]}))
    assert names[0].startswith("c_corpus-a-b.jsonl-hf-O-N-") and names[1] == "c_corpus-a-b.jsonl-hf-O-N"
    assert all(name.replace(".", "").replace("-", "").replace("_", "").isalnum() for name in names)


def test_fields_with_the_same_last_part_are_told_apart() -> None:
    points = product({"optimizer.matrix.lr_factor": [1.0, 2.0], "optimizer.head.lr_factor": [1.0, 2.0]})
    assert job_names("x", points)[1] == "x_optimizer.matrix.lr_factor-1_optimizer.head.lr_factor-2"


def test_large_and_long_values() -> None:
    points = product({"training.tokens": [10**6], "data.corpus": ["x" * 300, "y" * 300], "optimizer.lr": [1e22]})
    names = job_names("x", points)
    assert len(set(names)) == 2 and all(len(name) < 80 for name in names)
    assert "+" not in "".join(job_names("x", product({"optimizer.lr": [1e22, 1e23]})))
