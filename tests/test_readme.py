"""What the README says runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from uncollapse.data import NAMED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run_example(block, name, namespace):
    """Run a block with few epochs: what it says holds for any number."""
    short = re.sub(r"max_epochs=\d+", "max_epochs=2", block)
    exec(compile(short, name, "exec"), namespace)


def commands(program):
    lines = (line for block in blocks("console") for line in block.splitlines())
    return [line.split("#")[0].strip() for line in lines if line.startswith(program)]


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for command in commands("make"):
        assert command.split()[1] in targets


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_python_examples_of_the_docs_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(
        r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL
    ):
        run_example(block, page.name, namespace)


@pytest.mark.slow
def test_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks("python"):
        run_example(block, "README.md", namespace)
    assert namespace["log_p"].shape == (1000,)
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_commands_run(tmp_path):
    """In order, with one epoch where the README trains for minutes."""
    for command in commands("uncollapse"):
        words = shlex.split(command)[1:]
        missing = [
            name for name in NAMED if name in words and "to fetch" in NAMED[name].whereabouts()
        ]
        if missing:
            pytest.skip(
                f"{missing[0]} is not on this machine (UNCOLLAPSE_DATA); the commands before it ran"
            )
        if words[:2] == ["fit", "fashion-mnist"]:
            words.append("max_epochs=1")
        call = [sys.executable, "-c", "from uncollapse.cli import main; main()", *words]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
