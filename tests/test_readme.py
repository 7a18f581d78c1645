"""What the README says runs."""

import re
import shlex
from pathlib import Path

import pytest

from uncollapse.data import NAMED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def shortened(example):
    """Return an example with few epochs: what it says holds for any number."""
    return re.sub(r"max_epochs=\d+", "max_epochs=2", example)


def run_example(block, name, namespace):
    exec(compile(shortened(block), name, "exec"), namespace)


def commands(program):
    lines = (line for block in blocks("console") for line in block.splitlines())
    return [line.split("#")[0].strip() for line in lines if line.startswith(program)]


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for command in commands("make"):
        assert command.split()[1] in targets


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_python_examples_of_the_docs_run(page, tmp_path, monkeypatch, short_diagnoses):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(
        r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL
    ):
        run_example(block, page.name, namespace)


@pytest.mark.slow
def test_python_examples_run(tmp_path, monkeypatch, short_diagnoses):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks("python"):
        run_example(block, "README.md", namespace)
    assert namespace["log_p"].shape == (1000,)
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_commands_run(tmp_path, monkeypatch, command_line, short_diagnoses):
    """In order, with few epochs and few importance draws."""
    monkeypatch.chdir(tmp_path)
    for command in commands("uncollapse"):
        words = shlex.split(shortened(command))[1:]
        missing = [
            name for name in NAMED if name in words and "to fetch" in NAMED[name].whereabouts()
        ]
        if missing:
            pytest.skip(
                f"{missing[0]} is not on this machine (UNCOLLAPSE_DATA); the commands before it ran"
            )
        if words[:2] == ["fit", "fashion-mnist"]:
            words.append("max_epochs=1")
        if words[0] in ("diagnose", "certify"):
            words += ["--n-importance", "10"]
        code, _, err = command_line(*words)
        assert code == 0, f"{command}\n{err}"
