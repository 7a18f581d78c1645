"""Import the packages in which a function has the name of its module, before pytest does.

For doctests, pytest imports files one by one, and sets each module as an attribute of its package.
That would put the module `diagnose` in the place of the function.
"""

from importlib import import_module
from pathlib import Path

for name in ("certificates", "cli", "diagnostics", "experiments.papers", "training"):
    import_module(f"uncollapse.{name}")


def pytest_ignore_collect(collection_path):
    """Leave modules without examples alone: some import libraries that take seconds."""
    source = Path(__file__).parent / "src"
    if collection_path.suffix == ".py" and collection_path.is_relative_to(source):
        return ">>>" not in collection_path.read_text() or None
    return None
