"""Tables of results: means and standard deviations over seeds, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


def flat(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row for each trial: its model, its labels, its seed, its seconds, and the value of each
    estimate by name."""
    return pd.DataFrame(
        [
            {
                "model": row["model"],
                **row["labels"],
                "seed": row["seed"],
                "seconds": row["seconds"],
                "constants": row["constants"],
                **{name: value_of(row, name) for name in row["estimates"]},
            }
            for row in rows
        ]
    )


def value_of(row: Mapping[str, Any], name: str) -> float:
    """An estimate of a row; NaN where there is none."""
    value = row.get("estimates", {}).get(name, {}).get("value")
    return math.nan if value is None else float(value)


def over_seeds(
    results: pd.DataFrame, by: Sequence[str], columns: dict[str, str], digits: int = 2
) -> pd.DataFrame:
    """Mean ± standard deviation over seeds, a row for each group, in the order in which the groups
    came.

    Args:
        results: of `flat`.
        by: columns that make a group.
        columns: of the results, by what the table calls them.
        digits: after the point.
    """
    lines = []
    for group, members in results.groupby(list(by), sort=False, dropna=False):
        shown = {
            name: spread(members[column], digits)
            for name, column in columns.items()
            if column in members
        }
        lines.append(
            {
                **dict(zip(by, group, strict=True)),
                **shown,
                "seeds": len(members),
                "seconds": round(members["seconds"].mean()),
            }
        )
    return pd.DataFrame(lines)


def spread(values: pd.Series, digits: int) -> str:
    """Mean ± standard deviation; the number alone where there is one.

    >>> spread(pd.Series([1.0, 2.0, 3.0]), 1), spread(pd.Series([1.0]), 2), spread(pd.Series([math.nan]), 1)
    ('2.0 ± 1.0', '1.00', '')
    """
    known = values.dropna().to_numpy(float)
    if not len(known):
        return ""
    mean = f"{known.mean():.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {known.std(ddof=1):.{digits}f}"


def provenance(rows: Sequence[dict[str, Any]]) -> str:
    """Commits, versions, devices and dates of rows, in a line."""
    found, n_failed = [row["environment"] for row in rows], sum("error" in row for row in rows)

    def values(key: str, between: str = ", ") -> str:
        return between.join(dict.fromkeys(str(environment[key]) for environment in found))

    failures = f", {n_failed} of them without a result" if n_failed else ""
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    dates = sorted(environment["finished"] for environment in found)
    where = f"torch {values('torch')}, {values('threads')} threads on {values('device', ' and ')}"
    return f"{len(rows)} runs{failures}, seeds {seeds}; commit {values('commit')}; {where}; {dates[0]} to {dates[-1]}."


def to_markdown(title: str, table: pd.DataFrame, notes: str, source: str) -> str:
    """The table as Markdown, with what must be said beside it."""
    header = "| " + " | ".join(map(str, table.columns)) + " |"
    rule = "|" + "---|" * len(table.columns)
    body = [
        "| " + " | ".join(_cell(value) for value in row) + " |"
        for row in table.itertuples(index=False)
    ]
    return "\n".join([f"# {title}", "", header, rule, *body, "", notes, source, ""])


def _cell(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
