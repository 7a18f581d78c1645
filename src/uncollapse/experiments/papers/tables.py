"""Tables of the papers' experiments: shares of units, and our numbers beside the printed ones."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def with_shares(results: pd.DataFrame, latent_dim: int | pd.Series) -> pd.DataFrame:
    """The results with shares of their units: active ones (`au`), as the papers give them, and
    informative ones (`iu`)."""
    return results.assign(
        au=results["active_units"] / latent_dim, iu=results["informative_units"] / latent_dim
    )


def beside(
    table: pd.DataFrame, printed: pd.DataFrame, by: Sequence[str], paper: str
) -> pd.DataFrame:
    """The table with the paper's numbers to its right, and what only the paper has below.

    Args:
        table: ours.
        printed: the paper's, with a column `source`.
        by: the columns that say which rows are about the same.
        paper: its short name.
    """
    numbers = printed.drop(columns="source")
    numbers = numbers.rename(
        columns={name: f"{paper}: {name}" for name in numbers if name not in by}
    )
    ours = table.astype(object).merge(numbers, how="left", on=list(by))
    known = ours[list(by)].apply(tuple, axis=1).tolist()
    rest = numbers[~numbers[list(by)].apply(tuple, axis=1).isin(known)]
    parts = (ours, rest.reindex(columns=ours.columns))
    return pd.concat([part.astype(object) for part in parts], ignore_index=True)
