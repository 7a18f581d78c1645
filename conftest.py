"""Import the packages in which a function has the name of its module, before pytest does.

For doctests, pytest imports files one by one, and sets each module as an attribute of its package.
That would put the module `diagnose` in the place of the function.
"""

from importlib import import_module

for name in ("certificates", "cli", "diagnostics", "experiments.papers", "training"):
    import_module(f"uncollapse.{name}")
