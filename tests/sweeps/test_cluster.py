"""Cluster profiles: what is read from a file, what wins over it, and what is refused."""

from pathlib import Path

import pytest

from muloco.errors import UserError
from muloco.sweeps.cluster import ClusterProfile, load_profile, seconds_of

EXAMPLE = Path(__file__).parents[2] / "jobs" / "cluster.toml.example"


def profile(tmp_path: Path, text: str, **overrides: str | None) -> ClusterProfile:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    return load_profile(path, **overrides)


def test_what_the_command_line_says_wins(tmp_path: Path) -> None:
    found = profile(
        tmp_path,
        'partition = "long"\naccount = "a1"\ngpus_per_node = 8\nmodules = ["cuda/12"]\n'
        '[nccl]\nNCCL_DEBUG = "WARN"\nNCCL_NTHREADS = 4\n',
        partition="short",
        qos="high",
        account=None,
        gpus_per_node="4",
    )
    assert found == ClusterProfile(
        partition="short",
        account="a1",
        qos="high",
        gpus_per_node=4,
        modules=("cuda/12",),
        nccl={"NCCL_DEBUG": "WARN", "NCCL_NTHREADS": "4"},
    )
    assert found.describe() == (
        "partition short, account a1, qos high, gpus_per_node 4, signal_seconds 600, modules cuda/12, "
        "nccl NCCL_DEBUG=WARN NCCL_NTHREADS=4, log_folder ."
    )


def test_without_a_file() -> None:
    assert load_profile(None) == ClusterProfile()
    assert load_profile(None, partition="main").partition == "main"


def test_the_example_names_every_field_and_is_valid() -> None:
    found = load_profile(EXAMPLE)
    text = EXAMPLE.read_text()
    for name in ClusterProfile.__dataclass_fields__:
        assert f"\n{name} = " in text or f"\n# {name} = " in text or f"\n[{name}]" in text, name
    assert found.gpus_per_node == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('partion = "x"', "unknown key partion; did you mean partition?"),
        ("zzz = 1", "unknown key zzz; known: partition, account, qos"),
        ("partition = 3", "partition must be a text; got the int 3"),
        ('partition = ""', "partition must be a text that is not empty; got ''"),
        ('gpus_per_node = "8"', "gpus_per_node must be a whole number; got the text '8'"),
        ("gpus_per_node = -1", "gpus_per_node must be 0 or more; got -1"),
        ("cpus_per_node = -1", "cpus_per_node must be 0 or more; got -1"),
        ("nodes = 0", "nodes must be at least 1; got 0"),
        ("node_limit = true", "node_limit must be a whole number"),
        ('modules = "cuda"', "modules must be a list, each entry a text that is not empty; got the text 'cuda'"),
        ('environment = ["a\\nb"]', "environment must be a text without line breaks"),
        ('partition = "a\\n#SBATCH --account=b"', "partition must be a text without line breaks"),
        ('nccl = "x"', r"nccl must be a table \[nccl\]"),
        ('[nccl]\nPATH = "x"', r"nccl holds variables NCCL_\*; got PATH"),
        (
            "[nccl]\nNCCL_DEBUG = true",
            "nccl has NCCL_DEBUG, which must be a text of one line or a whole number",
        ),
        ('time = "soon"', "time must be such as 24:00:00 or 2-12:00:00; got 'soon'"),
        ('time = "10"', "would be told to stop when it starts: signal_seconds is 600"),
        ("partition = ", "is not TOML"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        profile(tmp_path, text)


def test_overrides_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gpus_per_node must be a whole number; got the text 'many'"):
        load_profile(None, gpus_per_node="many")
    with pytest.raises(UserError, match="--acount: unknown key acount; did you mean account?"):
        load_profile(None, acount="x")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_profile(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("90:30", 5430), ("1:02:03", 3723), ("2-12", 216000), ("2-12:30", 217800), ("1-00:00:01", 86401)],
)
def test_time_limits(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


def test_what_slurm_gives_unasked_is_named() -> None:
    assert [phrase.split("(")[-1].rstrip(")") for phrase in ClusterProfile().unasked()] == [
        *("cpus_per_node", "memory", "time", "gpus_per_node")
    ]
    assert ClusterProfile(cpus_per_node=0, memory="0", time="24:00:00", gpus_per_node=8).unasked() == []
    papers = load_profile(EXAMPLE.parent / "muloco_paper" / "cluster.toml")
    assert papers.unasked() == load_profile(EXAMPLE).unasked() == []


def test_the_node_limit_has_a_default() -> None:
    assert [ClusterProfile().nodes_together(largest) for largest in (1, 16, 128)] == [16, 16, 128]
    assert ClusterProfile(node_limit=4).nodes_together(128) == 4


def test_nodes_of_a_job() -> None:
    gpus = ClusterProfile(gpus_per_node=4)
    assert [gpus.nodes_for(workers=w, ranks=r) for w, r in ((1, 1), (2, 2), (3, 2), (2, 8))] == [1, 1, 2, 4]
    assert ClusterProfile(gpus_per_node=4, nodes=3).nodes_for(workers=3, ranks=2) == 3
    assert (
        ClusterProfile(nodes=3).nodes_for(workers=3, ranks=2) == 3
        and ClusterProfile().nodes_for(workers=3, ranks=2) == 1
    )
    with pytest.raises(UserError, match="2 workers of 8 ranks need 4 nodes of 4 GPUs; the cluster profile's nodes = 3"):
        ClusterProfile(gpus_per_node=4, nodes=3).nodes_for(workers=2, ranks=8)
