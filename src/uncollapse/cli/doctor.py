"""`uncollapse doctor`."""

import time

import typer

from uncollapse.cli.endings import fail


def doctor() -> None:
    """Print the facts that a bug report needs, and check in a few seconds that a small model
    trains correctly."""
    from uncollapse.experiments.doctor import SECTIONS, self_test

    for title, find in SECTIONS.items():
        facts = find()
        width = max(map(len, facts))
        lines = [f"  {name:<{width}}  {fact}" for name, fact in facts.items()]
        typer.echo("\n".join([title, *lines, ""]))
    start = time.perf_counter()
    if failure := self_test():
        fail(f"self-test: {failure}. Please report this, with everything above.", 1)
    typer.echo(f"self-test\n  ok, {time.perf_counter() - start:.1f} s")
