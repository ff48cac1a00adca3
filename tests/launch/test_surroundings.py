"""What a run needs of its surroundings is looked at before it starts."""

import sys
from types import SimpleNamespace

import pytest

from muloco.errors import UserError
from muloco.launch.surroundings import check_surroundings
from muloco.settings.config import Config


@pytest.fixture
def config() -> Config:
    config = Config()
    config.fault_tolerance.group_size = 2
    return config


def check(config: Config, *, here: bool = True, **environment: str) -> None:
    check_surroundings(config, environment, here=here)


def test_an_interface_has_to_be_there(config: Config) -> None:
    with pytest.raises(UserError, match="names ib7, and this machine has no such network interface; it has .*lo"):
        check(config, GLOO_SOCKET_IFNAME="lo,ib7")
    check(config, GLOO_SOCKET_IFNAME="lo")
    check(config, GLOO_SOCKET_IFNAME="ib7", here=False)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no-such-host.invalid", "not a known name or address"),
        ("192.0.2.1", r"\(192.0.2.1\) is not an address of this"),
    ],
)
def test_a_host_has_to_be_this_machine(config: Config, host: str, message: str) -> None:
    config.fault_tolerance.host = host
    with pytest.raises(UserError, match=message):
        check(config)
    config.fault_tolerance.host = "127.0.0.1"
    check(config)


@pytest.mark.parametrize(
    ("mode", "answer", "message"),
    [
        ("online", False, "there is no login to Weights & Biases"),
        ("online", ValueError("the key is too short"), "metrics.wandb: the key is too short"),
        ("online", True, None),
        ("offline", False, None),
        ("disabled", False, None),
    ],
)
def test_somebody_has_to_be_logged_in_to_wandb(
    config: Config, monkeypatch: pytest.MonkeyPatch, mode: str, answer: bool | Exception, message: str | None
) -> None:
    def login(*, prompt: bool, verify: bool) -> bool:
        assert not prompt and not verify
        if isinstance(answer, Exception):
            raise answer
        return answer

    wandb = SimpleNamespace(
        setup=lambda: SimpleNamespace(settings=SimpleNamespace(mode=mode)),
        login=login,
        teardown=lambda: None,
        Error=ValueError,
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config.metrics.wandb = True
    if message is None:
        check(config)
    else:
        with pytest.raises(UserError, match=message):
            check(config)
