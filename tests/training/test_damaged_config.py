"""However the config.json of a run is damaged: it is still understood, or refused in one line."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from muloco.errors import UserError
from muloco.resolve import resolve
from muloco.settings.load import load_config, locate
from muloco.training.resuming import check_content, config_json, take_up
from muloco.training.trained import find_trained

VALUES: list[Any] = [
    *(None, True, -1, 10**400, 1e308, float("nan"), 0, -0.5, "", "x\n", "\0", "../x", "$(id)", "a" * 5000),
    *([], {}, {"a": 1}, [[1]]),
]


def other_bytes(whole: bytes, random_: random.Random) -> bytes:
    """Flips a bit, cuts off the end, cuts something out, or puts something in."""
    content, place = bytearray(whole), random_.randrange(len(whole))
    kind = random_.randrange(4)
    if kind == 0:
        content[place] ^= 1 << random_.randrange(8)
    elif kind == 1:
        del content[place:]
    elif kind == 2:
        del content[place : place + random_.randrange(1, 50)]
    else:
        content[place:place] = random_.randbytes(random_.randrange(1, 8))
    return bytes(content)


def other_value(whole: bytes, random_: random.Random) -> bytes:
    """Still JSON, with another value at one place."""
    node = values = json.loads(whole)
    while True:
        key = random_.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], dict | list) or not node[key] or random_.random() < 0.15:
            break
        node = node[key]
    node[key] = random_.choice(VALUES)
    return json.dumps(values).encode()


@pytest.mark.parametrize("change", [other_bytes, other_value])
@pytest.mark.parametrize("use", ["train", "resume", "eval, export, generate"])
def test_a_damaged_config_json_is_never_a_traceback(change, use: str, tmp_path: Path) -> None:
    file = tmp_path / "run" / "config.json"
    file.parent.mkdir()
    chosen = load_config("config/laptop/muloco.py", ["--run.name", "run", "--run.outputs", str(tmp_path)])
    content = {"text": ["c0"], "files": None, "held out": None, "tokenizer": "t0"}
    whole = json.dumps(config_json(chosen, resolve(chosen), content), indent=2).encode()
    random_, refused = random.Random(use), 0
    for _ in range(150):
        file.write_bytes(change(whole, random_))
        try:
            if use == "train":
                config = load_config(str(file))
                locate(config, file, [])
                resolve(config)
            elif use == "resume":
                config = load_config(str(file))
                locate(config, file, [])
                check_content(take_up(config), content)
            else:
                find_trained(str(file.parent))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20
