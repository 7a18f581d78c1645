"""Tables of results: means and standard deviations over seeds, and where they come from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


def results_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return a line for each row: its model, labels, seed, seconds, and estimates by name.

    ``constant`` is the geometric mean of the constants of the maps; ``active_share`` and
    ``informative_share`` are shares of the latent units.
    """
    return pd.DataFrame([_line(row) for row in rows])


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    constants, estimates = (
        row["constants"],
        {name: value_of(row, name) for name in row["estimates"]},
    )
    n_units = row.get("config", {}).get("arguments", {}).get("latent_dim", math.nan)
    return {
        "model": row["model"],
        **row["labels"],
        "seed": row["seed"],
        "seconds": row["seconds"],
        "constant": math.prod(constants) ** (1 / len(constants)) if constants else math.nan,
        "active_share": estimates.get("active_units", math.nan) / n_units,
        "informative_share": estimates.get("informative_units", math.nan) / n_units,
        **estimates,
    }


def value_of(row: Mapping[str, Any], name: str) -> float:
    """Return the value of an estimate of a row, or NaN where it is missing."""
    value = row.get("estimates", {}).get(name, {}).get("value")
    return math.nan if value is None else float(value)


def over_seeds(
    results: pd.DataFrame, by: Sequence[str], columns: Mapping[str, str], digits: int = 2
) -> pd.DataFrame:
    """Return mean ± standard deviation over seeds, with a row for each group.

    Args:
        results: of `results_frame`.
        by: columns that make a group. Groups keep the order of their first rows.
        columns: columns of the results, by their names in the table.
        digits: number of decimals.
    """
    lines = []
    for group, members in results.groupby(list(by), sort=False, dropna=False):
        shown = {
            name: mean_and_deviation(members[column], digits)
            for name, column in columns.items()
            if column in members
        }
        counts = {"seeds": len(members), "seconds": round(members["seconds"].mean())}
        lines.append({**dict(zip(by, group, strict=True)), **shown, **counts})
    return pd.DataFrame(lines)


def mean_and_deviation(values: pd.Series, digits: int) -> str:
    """Return mean ± standard deviation, or the value alone if there is only one.

    >>> mean_and_deviation(pd.Series([1.0, 2.0, 3.0]), 1)
    '2.0 ± 1.0'
    >>> mean_and_deviation(pd.Series([1.0]), 2), mean_and_deviation(pd.Series([math.nan]), 1)
    ('1.00', '')
    """
    known = values.dropna().to_numpy(float)
    if not len(known):
        return ""
    mean = f"{known.mean():.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {known.std(ddof=1):.{digits}f}"


def beside(
    table: pd.DataFrame, published: pd.DataFrame, by: Sequence[str], paper: str
) -> pd.DataFrame:
    """Return the table with a paper's numbers to its right, and rows of the paper alone below.

    Rows correspond where they agree in the columns `by`.
    """
    numbers = published.drop(columns="source")
    names = {name: f"{paper}: {name}" for name in numbers if name not in by}
    numbers = numbers.rename(columns=names)
    ours = table.astype(object).merge(numbers, how="left", on=list(by))
    known = ours[list(by)].apply(tuple, axis=1).tolist()
    rest = numbers[~numbers[list(by)].apply(tuple, axis=1).isin(known)]
    parts = (ours, rest.reindex(columns=ours.columns))
    return pd.concat([part.astype(object) for part in parts], ignore_index=True)


def provenance(rows: Sequence[dict[str, Any]]) -> str:
    """Return one line with the commits, versions, devices and dates of rows."""
    environments = [row["environment"] for row in rows]

    def values(key: str, separator: str = ", ") -> str:
        return separator.join(dict.fromkeys(str(found[key]) for found in environments))

    n_failed = sum("error" in row for row in rows)
    failures = f", {n_failed} of them without a result" if n_failed else ""
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    dates = sorted(found["finished"] for found in environments)
    where = f"torch {values('torch')}, {values('threads')} threads on {values('device', ' and ')}"
    return (
        f"{len(rows)} runs{failures}, seeds {seeds}; commit {values('commit')}; {where}; "
        f"{dates[0]} to {dates[-1]}."
    )


def to_markdown(title: str, table: pd.DataFrame, notes: str, source: str) -> str:
    """Return a Markdown page with the table, notes and the source of the numbers."""
    header = "| " + " | ".join(map(str, table.columns)) + " |"
    rule = "|" + "---|" * len(table.columns)
    body = [
        "| " + " | ".join(_cell(value) for value in row) + " |"
        for row in table.itertuples(index=False)
    ]
    return "\n".join([f"# {title}", "", header, rule, *body, "", notes, source, ""])


def _cell(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
