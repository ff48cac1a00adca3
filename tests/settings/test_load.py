"""Reading configs and overrides, as the command line does."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from muloco.cli import main
from muloco.errors import UserError
from muloco.optim import PRESETS
from muloco.optim.rules import RULES
from muloco.optim.rules.muon import LR_SCALES
from muloco.optim.symmetric import WAYS
from muloco.resolve import completed, resolve
from muloco.settings.config import Config
from muloco.settings.fault_tolerance import FaultTolerance
from muloco.settings.fields import flatten
from muloco.settings.load import CHECKOUT, load_config
from muloco.settings.optimizer import Optimizer, Role
from muloco.settings.other_names import MOVED
from muloco.settings.overrides import apply_overrides
from muloco.settings.paper_forms import settle
from muloco.settings.stored import to_dict

SHIPPED = sorted(str(file.relative_to(CHECKOUT)) for file in CHECKOUT.glob("config/*/*.py"))


def test_the_papers_experiments_are_all_there() -> None:
    ddp = {"1gpu_test", "8gpu_test_3B", "8gpu_test_15B", "adamw", "muon"}
    diloco = {"diloco", "diloco_quantized_outer", "diloco_streaming", "gpa"}
    diloco |= {"gpa", "muloco", "muloco_quantized_outer", "muloco_streaming"}
    expected = {f"config/ddp/{name}.py" for name in ddp} | {f"config/diloco/2x_4gpu_{name}.py" for name in diloco}
    assert expected <= set(SHIPPED)
    assert all(len((CHECKOUT / path).read_text().splitlines()) < 40 for path in SHIPPED)


def test_imports_from_where_an_earlier_version_had_it(tmp_path: Path) -> None:
    config = tmp_path / "mine.py"
    config.write_text("from muloco.training.config import Config\n")
    with pytest.raises(UserError, match="line 1: ModuleNotFoundError.* has moved: import from muloco.settings.config$"):
        load_config(str(config))
    for module in MOVED:
        assert find_spec("muloco.training") and find_spec(module) is None, "it is there again"


@pytest.mark.parametrize("path", SHIPPED)
def test_every_shipped_config_resolves(path: str) -> None:
    assert resolve(load_config(path)).training.steps > 0


def test_shipped_configs_are_the_methods_that_they_are_named_after() -> None:
    muloco, diloco = (load_config(f"config/diloco/2x_4gpu_{name}.py") for name in ("muloco", "diloco"))
    assert (muloco.workers, muloco.ranks_per_worker, muloco.fault_tolerance.sync_steps) == (2, 4, 30)
    assert (muloco.optimizer.name, diloco.optimizer.name) == ("Muon", "AdamW")
    assert (muloco.outer_optimizer.lr, muloco.outer_optimizer.momentum) == (0.9, 0.8)
    assert (diloco.outer_optimizer.lr, diloco.outer_optimizer.momentum) == (0.9, 0.9)


@pytest.mark.parametrize("method", ["muloco", "diloco"])
def test_the_papers_streaming_differs_in_its_fragments_alone(method: str) -> None:
    """PAPER 3.5: contiguous thirds of the layers, neither overlap nor mixing; 3.2: polar_express in one of the two."""
    plain, streaming = (resolve(load_config(f"config/diloco/2x_4gpu_{method}{what}.py")) for what in ("", "_streaming"))
    modules = [fragment.split(",") for fragment in streaming.fault_tolerance.module_fqns_per_model_fragment]
    assert [len(fragment) for fragment in modules] == [5, 4, 6]
    assert sum(modules, []) == ["tok_embeddings", *(f"layers.{i}" for i in range(12)), "norm", "lm_head"]
    values, others = flatten(streaming), flatten(plain)
    differing = {name: values[name] for name in values if values[name] != others[name] and name != "run.name"}
    assert differing.pop("fault_tolerance.module_fqns_per_model_fragment")
    polar = {"optimizer.orthogonalization": "polar_express"} if method == "muloco" else {}
    assert differing == {"fault_tolerance.num_fragments": 3, **polar}
    assert values["fault_tolerance.fragment_sync_delay"] == values["fault_tolerance.fragment_update_alpha"] == 0


@pytest.mark.parametrize(
    ("method", "lr", "momentum"), [("muloco", 0.0625, 0.8), ("diloco", 0.003906, 0.9)], ids=["muloco", "diloco"]
)
def test_the_papers_compressed_experiments(method: str, lr: float, momentum: float) -> None:
    """PAPER 4.1: rates of the compressed runs at 416M; 3.3: beta 0.9, alpha 1. The published files keep a tenth."""
    values = flatten(resolve(load_config(f"config/diloco/2x_4gpu_{method}_quantized_outer.py")))
    assert (values["optimizer.lr"], values["outer_optimizer.lr"], values["outer_optimizer.momentum"]) == (
        *(lr, 0.9),
        momentum,
    )
    chosen = {name.split(".")[1]: value for name, value in values.items() if name.startswith("compression.")}
    assert (chosen["kind"], chosen["fraction"], chosen["reduce"]) == ("topk", 0.1, "gather")
    assert (chosen["error_feedback"], chosen["error_decay"], chosen["error_alpha"]) == (True, 0.9, 1.0)
    assert chosen["error_gain"] == 0.9, "the outer rate, which acts twice (PAPER 3.3)"
    assert chosen["values"] == "fp32"
    assert not chosen["skip_norms"] and not chosen["skip_embeddings"]


def test_overrides_of_every_kind() -> None:
    words = "--training.max_norm None --outer_optimizer.nesterov false --optimizer.name=AdamW --run.name x"
    config = apply_overrides(Config(), [*words.split(), "--optimizer.lr", "1e-3", "--training.steps", "7"])
    assert config.training.max_norm is None and config.outer_optimizer.nesterov is False
    assert (config.optimizer.name, config.optimizer.lr, config.training.steps) == ("AdamW", 1e-3, 7)
    assert config.run.name == "x"
    words = "--optimizer.embedding.rule lion --optimizer.embedding.lr_factor 0.5 --optimizer.matrix.rule None"
    config = apply_overrides(Config(), words.split())
    assert (config.optimizer.embedding, config.optimizer.matrix) == (Role(rule="lion", lr_factor=0.5), Role())
    words = "--optimizer.adjust_lr none --fault_tolerance.semi_sync_method none"
    config = apply_overrides(Config(), words.split())
    assert (config.optimizer.adjust_lr, config.fault_tolerance.semi_sync_method) == ("none", "none")
    words = "--fault_tolerance.module_fqns_per_model_fragment tok_embeddings,layers.0 layers.1,norm,lm_head"
    config = apply_overrides(Config(), [*words.split(), "--fault_tolerance.num_fragments", "2"])
    fragments = ("tok_embeddings,layers.0", "layers.1,norm,lm_head")
    assert config.fault_tolerance.module_fqns_per_model_fragment == fragments


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--outer_optimizer.lrr 3", "unknown option --outer_optimizer.lrr; did you mean --outer_optimizer.lr?"),
        ("--fault_tolerence.group_size 3", "did you mean --fault_tolerance.group_size?"),
        ("--training.steps many", "--training.steps must be a whole number; got the text 'many'"),
        (
            "--optimizer.name Adam",
            "AdamW, Muon, SGD, GPA; got 'Adam'; did you mean AdamW?",
        ),
        ("--optimizer.lr", "--optimizer.lr has no value; it must be a number above 0"),
        ("--optimizer.embeding.rule lion", "did you mean --optimizer.embedding.rule?"),
        ("--optimizer.embedding lion", "did you mean --optimizer.embedding.rule or"),
        ("--optimizer.head.rule lyon", f"must be one of {', '.join(RULES)}; got 'lyon'; did you mean lion?"),
        ("stray", "unexpected word 'stray'"),
    ],
)
def test_bad_overrides_are_refused_in_one_line(words: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        apply_overrides(Config(), words.split())
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_runs_config_json_is_a_config(tmp_path: Path) -> None:
    overrides = ["--optimizer.embedding.rule", "lion", "--optimizer.head.lr_factor", "0.5"]
    resolved = resolve(load_config("config/laptop/muloco.py", overrides), config_name="laptop")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"chosen": {}, "resolved": to_dict(resolved)}))
    again = load_config(str(file))
    rules = {name: role.rule for name, role in again.optimizer.roles().items()}
    assert rules == {**dict.fromkeys(rules), "embedding": "lion"}, "the others follow"
    assert completed(again, where="config.json") == resolve(again) == resolved
    file.write_text(json.dumps({"resolved": {"optimizer": {"lrr": 1.0}}}))
    with pytest.raises(UserError, match=r"unknown field optimizer.lrr; did you mean optimizer.lr\?"):
        load_config(str(file))
    file.write_text(json.dumps({"resolved": {"optimizer": {"head": {"lr_facto": 1.0}}}}))
    with pytest.raises(UserError, match=r"optimizer.head.lr_facto; did you mean optimizer.head.lr_factor\?"):
        load_config(str(file))
    file.write_text("{}")
    with pytest.raises(UserError, match="is not the config.json of a run"):
        load_config(str(file))


@pytest.mark.parametrize("spelling", [["a,b", "c"], [["a", "b"], ["c"]], (("a", "b"), "c")])
def test_fragments_may_be_lists_of_their_modules(spelling, tmp_path: Path) -> None:
    """As in the paper's configs; in a Python file and in a config.json alike."""
    config = Config(fault_tolerance=FaultTolerance(module_fqns_per_model_fragment=spelling))
    settle(config)
    assert config.fault_tolerance.module_fqns_per_model_fragment == ("a,b", "c")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"resolved": {"fault_tolerance": {"module_fqns_per_model_fragment": spelling}}}))
    assert load_config(str(file)) == config
    file.write_text(json.dumps({"resolved": to_dict(config)}))
    assert load_config(str(file)) == config


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config config/laptop/mulco.py; did you mean config/laptop/muloco.py\?"):
        load_config("config/laptop/mulco.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="has no function config"):
        load_config(str(tmp_path / "empty.py"))
    (tmp_path / "other.py").write_text("def config():\n    return {}\n")
    with pytest.raises(UserError, match="returned dict, not a"):
        load_config(str(tmp_path / "other.py"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "config.optimizer.learnrate = 0.1",
            "line 5: there is no optimizer.learnrate in a config; use optimizer",
        ),
        ("config.trainig = None", "line 5: there is no trainig in a config; did you mean training?"),
        ("config.training.step = 7", "line 5: there is no training.step in a config; did you mean training.steps?"),
        (
            "config.optimizer.head.lr = 7",
            "line 5: a role in a config has no lr; it has rule, lr_factor, weight_decay_factor",
        ),
        ("print(config.training.sequences)", "line 5: there is no training.sequences in a config; did you mean "),
        ("del config.optimizer.lr", "mine.py, line 5: optimizer.lr cannot be deleted in a config"),
        ("del config.optimizer", "mine.py, line 5: optimizer cannot be deleted in a config"),
        ("del config.optimizer.head.rule", "mine.py, line 5: rule of a role cannot be deleted in a config"),
        ("config.workers = 4", "line 5: there is no workers in a config; use fault_tolerance.group_size"),
        ("config.optimizer.lr = '0.02'", "mine.py: optimizer.lr must be a number; got the text '0.02'"),
        (
            "config.training.precision = 'bf16'",
            "training.precision must be one of .*; got 'bf16'; did you mean bfloat16?",
        ),
        ("config.fault_tolerance.transport = 'inprocess'", "got 'inprocess'; did you mean in_process?"),
        ("config.training = None", "mine.py: section training must be a Training, or a dict of its fields; got None"),
        ("FaultTolerance(sync_step=3)", "line 5: TypeError: .*; did you mean fault_tolerance.sync_steps?"),
        ("raise RuntimeError('two\\nlines')", "line 5: RuntimeError: two lines"),
        ("import nothing_of_that_name", "line 5: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise SystemExit", "line 5: SystemExit"),
        ("1 +", "line 5: invalid syntax"),
        ("return None", "returned NoneType, not a muloco.settings.config.Config"),
    ],
)
def test_a_mistake_in_a_python_config_is_one_line(line: str, message: str, tmp_path: Path) -> None:
    """With its file, and its line where Python knows it."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from muloco.settings.config import Config, FaultTolerance\n\n"
        f"def config():\n    config = Config()\n    {line}\n    return config\n"
    )
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as refusal:
        load_config(str(file))
    assert "\n" not in str(refusal.value) and str(file) in str(refusal.value)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("", "cannot be read: Expecting value"),
        ('{"resolved": {"training"', "cannot be read: Expecting"),
        (b"\xff\xfe{}", "cannot be read: 'utf-8' codec can't decode"),
        ("[]", "is not the config.json of a run"),
        ('{"resolved": []}', "the config must hold fields by name; got []"),
        ('{"resolved": {"training": 3}}', "section training must hold fields by name; got 3"),
        ('{"resolved": {"optimizer": {"head": null}}}', "section optimizer.head must hold fields by name; got None"),
        ('{"resolved": {"training": {"steps": "7"}}}', "training.steps must be a whole number; got the text '7'"),
        ('{"resolved": {"training": {"steps": NaN}}}', "training.steps must be a whole number; got nan"),
        ('{"resolved": {"training": {"steps": Infinity}}}', "training.steps must be a whole number; got inf"),
        ('{"resolved": {"training": {"compile": true}}}', "unknown field training.compile; use compile.enable"),
        ('{"resolved": {"run": {"name": ".."}}}', "run.name must be the name of a folder"),
    ],
)
def test_a_damaged_config_json_is_one_line(stored: str | bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(stored if isinstance(stored, bytes) else stored.encode())
    with pytest.raises(UserError) as refusal:
        load_config(str(file))
    assert message in str(refusal.value) and str(file) in str(refusal.value) and "\n" not in str(refusal.value)


def test_numbers_as_python_writes_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom muloco.settings.config import Config\n\ndef config():\n    config = Config()\n"
        "    config.training.tokens, config.optimizer.lr = 3e9, np.float32(0.5)\n"
        "    config.fault_tolerance.group_size = np.int64(2)\n    return config\n"
    )
    config = load_config(str(tmp_path / "mine.py"))
    assert (config.training.tokens, config.optimizer.lr, config.workers) == (3_000_000_000, 0.5, 2)
    assert json.loads(json.dumps(to_dict(config)))["training"]["tokens"] == 3_000_000_000


def test_own_configs_can_build_on_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from muloco.recipes import base\n\ndef config():\n    return base.laptop('tiny')\n"
    )
    assert load_config(str(tmp_path / "mine.py")).model.flavor == "tiny"


def test_options_are_those_of_the_optimizers() -> None:
    """The config repeats the names, so that mistakes are told without torch."""
    hints = get_type_hints(Optimizer)
    assert set(get_args(hints["orthogonalization"])) == set(PRESETS)
    assert set(get_args(hints["adjust_lr"])) == set(LR_SCALES)
    assert set(get_args(hints["symmetric_products"])) == set(WAYS)
    assert set(get_args(get_args(get_type_hints(Role)["rule"])[0])) == set(RULES)


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["train"], "muloco train needs a CONFIG"),
        (["train", "nothing.py"], "there is no config nothing.py"),
        (["worker", "config/laptop/muloco.py"], "all workers of a run need the same --run.name"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_help_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    assert "--resume" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["train", "config/laptop/muloco.py", "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "muloco train config/laptop/muloco.py [--dry-run] [--resume] [-v] " in " ".join(shown.split())
    assert "--optimizer.embedding.lr_factor FLOAT" in shown
    assert "--fault_tolerance.sync_steps INT" in shown and "(default: 30)" in shown


def test_mistakes_are_told_without_waiting_for_torch() -> None:
    code = "import sys, muloco.cli; assert muloco.cli.main(['train', 'x.py']) == 2; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
