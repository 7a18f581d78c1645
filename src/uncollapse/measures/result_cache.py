"""What of a diagnosis has been found already, so that nothing is evaluated twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from uncollapse._utils.errors import InputError
from uncollapse._utils.signals import deferred_interrupt
from uncollapse._utils.state_files import StateFolder, digest

PART = "diagnosis"
WRITING_SHARE = 0.02  # of the time, that writing down what was found may take
Piece = dict[str, np.ndarray]  # what was found of some rows, by name


class Page:
    """What has been found for one purpose, piece by piece.

    Attributes:
        pieces: in the order of the rows that they are about.
    """

    def __init__(self, pieces: list[Piece], write_if_due: Callable[[], None]) -> None:
        self.pieces = pieces
        self._write_if_due = write_if_due

    def add(self, piece: Piece) -> None:
        """Take down what was found of the next rows."""
        self.pieces.append(piece)
        self._write_if_due()

    def replace(self, piece: Piece) -> None:
        """Take down what stands for all that was found before."""
        self.pieces[:] = [piece]
        self._write_if_due()

    def rest(self, batches: Sequence[slice]) -> Sequence[slice]:
        """Those batches of rows that nothing is known of yet."""
        sizes = [{len(values) for values in piece.values()} for piece in self.pieces]
        n_known = sum(map(max, sizes))
        if any(len(size) > 1 for size in sizes) or n_known not in {
            0,
            *(batch.stop for batch in batches),
        }:
            self.pieces.clear()  # of batches that were cut in another way
            n_known = 0
        return [batch for batch in batches if batch.start >= n_known]

    def whole(self) -> Piece:
        """All pieces as one, the first dimension of which is that of the rows."""
        return {
            name: np.concatenate([piece[name] for piece in self.pieces]) for name in self.pieces[0]
        }


class Ledger:
    """Pages on which a diagnosis takes down what it finds, and from which another process goes on.

    As a context manager, it writes down at the end what has not been written yet, however the end
    has come.

    Args:
        folder: where pages are kept, as often as takes a small share of the time; None keeps them
            nowhere.

    Raises:
        InputError: if what is in the folder is damaged.
    """

    def __init__(self, folder: StateFolder | None = None) -> None:
        self._folder = folder
        found = folder.read(PART) if folder is not None else None
        self._pages = {title: [_arrays(columns)] for title, columns in (found or {}).items()}
        self._ended, self._took, self._is_written = time.perf_counter(), 0.0, True

    @property
    def is_kept(self) -> bool:
        """Whether another process can go on from it."""
        return self._folder is not None

    def page(self, title: str, rows: np.ndarray | None = None) -> Page:
        """The page for a purpose, on which stands what was found before.

        Args:
            title: the purpose, without a "/".
            rows: what it is about; that of other rows is another page.
        """
        if self._folder is None:
            return Page([], lambda: None)
        key = title if rows is None else f"{title}, {digest({'rows': torch.as_tensor(rows)})}"
        return Page(self._pages.setdefault(key, []), self._write_if_due)

    def once(
        self, title: str, rows: np.ndarray, find: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Numbers and arrays by name, which are found now if they have not been before. The
        arguments are those of `page`."""
        page = self.page(title, rows)
        if not page.pieces:
            page.add({name: np.asarray(value) for name, value in find().items()})
        return {
            name: value if value.ndim else value.item() for name, value in page.pieces[0].items()
        }

    def of_other_rows(self, difference: str) -> InputError:
        """The error for data that are not those which were looked at before."""
        assert self._folder is not None
        return self._folder.of_other_work(difference)

    def _write_if_due(self) -> None:
        self._is_written = False
        if WRITING_SHARE * (time.perf_counter() - self._ended) >= self._took:
            self._write()

    def _write(self) -> None:
        assert self._folder is not None
        start = time.perf_counter()
        self._folder.begin()
        pages = {
            title: Page(pieces, self._write_if_due)
            for title, pieces in self._pages.items()
            if pieces
        }
        self._folder.write(PART, {title: _tensors(page) for title, page in pages.items()})
        self._ended, self._is_written = time.perf_counter(), True
        self._took = self._ended - start

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_written:
            with deferred_interrupt():  # an impatient second Ctrl-C must not cost what was found
                self._write()


def _arrays(columns: Mapping[str, torch.Tensor]) -> Piece:
    return {name: column.numpy() for name, column in columns.items()}


def _tensors(page: Page) -> dict[str, torch.Tensor]:
    found = page.pieces[0] if len(page.pieces) == 1 else page.whole()
    return {name: torch.from_numpy(values) for name, values in found.items()}
