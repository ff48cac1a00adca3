"""A machine to install on, with everything heavy replaced."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from muloco.settings.load import CHECKOUT

COREUTILS = ["bash", "cat", "cp", "cut", "dirname", "env", "head", "mkdir", "sed", "sort", "touch"]
PYTHON = """#!/usr/bin/env bash
# Stands in for Python {version}: makes a venv of copies of itself, notes what pip is to do, runs what is quick.
case "$1" in
    -m) if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
        else echo "${{PROTOC:+PROTOC=$PROTOC }}${{*:3}}" >> "$CALLS"; fi ;;
    --version) echo "Python {version}" ;;
    -c) case "$2" in
            *sys.version_info*) exec {real} -S -c '
import sys
sys.version_info = tuple(map(int, "{version}".split(".")))
exec(sys.argv[1])' "$2" ;;
            *torch.version.cuda*) [ -n "${{CUDA:-}}" ] ;;
            *"import muloco"*) echo "installed" ;;
            *) exec {real} -S "$@" ;;
        esac ;;
esac
"""


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


class Machine:
    """A checkout of the scripts, and a PATH with nothing on it but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.bin, self.calls_file = folder / "a checkout", folder / "bin", folder / "calls"
        (self.checkout / "muloco").mkdir(parents=True)
        for name in ("install_dependencies.sh", "setup.sh", "pyproject.toml", "muloco/cli.py"):
            shutil.copy(CHECKOUT / name, self.checkout / name)
        self.bin.mkdir()
        for name in COREUTILS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.env = {"PATH": str(self.bin), "HOME": str(folder), "CALLS": str(self.calls_file)}
        self.python("python3", "3.12.1")
        self.says("uname", '[ "$1" = -s ] && echo Linux || echo x86_64')
        self.says("getconf", "echo glibc 2.36")

    def says(self, tool: str, command: str) -> None:
        script(self.bin / tool, f"#!/usr/bin/env bash\n{command}\n")

    def python(self, name: str, version: str) -> None:
        script(self.bin / name, PYTHON.format(version=version, real=sys.executable))

    def rust(self, version: str = "1.80.1") -> None:
        self.says("cargo", f"echo 'cargo {version} (abc 2024-01-01)'")
        self.says("rustc", "true")
        self.says("cc", "true")

    def install(self, *options: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.checkout / "install_dependencies.sh", *options],
            env=self.env | env, cwd=cwd or "/", capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def calls(self) -> list[str]:
        """What pip was told to install, one string a call, without the options that all calls have."""
        common = r"install (--disable-pip-version-check|--python \S+) --quiet "
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [re.sub(common, "", line) for line in lines]

    def installs(self, *options: str, **env: str) -> list[str]:
        done = self.install(*options, **env)
        assert done.returncode == 0, done.stderr
        return self.calls

    def refuses(self, *options: str, status: int = 1, **env: str) -> str:
        done = self.install(*options, **env)
        assert done.returncode == status and not self.calls and not (self.checkout / ".venv").exists()
        assert done.stderr.startswith("install_dependencies.sh: ") and done.stderr.count("\n") == 1
        return done.stderr
