"""Documents as rows of numbers, one for each symbol."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from uncollapse._utils.errors import DataError

PAD = -1  # fills a row after the end of its document

Level = Literal["word", "character", "token"]
Document = str | Sequence[int] | np.ndarray
UNKNOWN_NAMES: dict[str, Any] = {
    "word": "<unk>",
    "character": "\N{REPLACEMENT CHARACTER}",
    "token": -1,
}


@dataclass(frozen=True)
class Vocabulary:
    """Numbers of symbols: first the known ones, then the unknown symbol and the end of a document.

    Attributes:
        level: kind of symbol: a "word" between white space, a "character", or a "token", a number
            that the user has chosen.
        known: the known symbols, frequent ones first: strings, or integers for tokens.

    >>> vocabulary = Vocabulary.of(["a b a", "c a b"], level="word", min_count=2, max_size=10)
    >>> vocabulary.known, len(vocabulary)
    (('a', 'b'), 4)
    >>> vocabulary.encode(["b c"], max_length=3).tolist()
    [[1.0, 2.0, 3.0, -1.0]]
    >>> vocabulary.decode([[1.0, 2.0, 3.0, -1.0]])
    ['b <unk>']
    """

    level: Level
    known: tuple[Any, ...]

    @classmethod
    def of(
        cls, documents: Sequence[Document], level: Level, min_count: int, max_size: int
    ) -> Vocabulary:
        """Collect the most frequent symbols that occur at least `min_count` times.

        Symbols that documents mark as unknown, by the name in `UNKNOWN_NAMES`, do not count.

        Raises:
            DataError: if a document is empty, or fewer than two symbols are left.
        """
        counts = Counter(symbol for symbols in _checked(documents, level) for symbol in symbols)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        unknown = UNKNOWN_NAMES[level]
        frequent = [name for name, count in ranked if count >= min_count and name != unknown]
        known = tuple(frequent[:max_size])
        if len(known) < 2:
            raise DataError(
                f"a vocabulary expects at least 2 {level}s that occur {min_count} times or more, "
                f"got {len(known)} {_quoted(known)}of {len(counts)}: lower min_count, raise "
                "max_vocabulary, or give other documents."
            )
        return cls(level, known)

    def __len__(self) -> int:
        """Number of symbols, the unknown one and the end among them."""
        return len(self.known) + 2

    def check_invariants(self) -> bool:
        """Return whether the known symbols are distinct, and of the kind that `level` says."""
        if len(set(self.known)) != len(self.known):
            return False
        if self.level == "token":
            return all(isinstance(symbol, int) and 0 <= symbol < 2**63 for symbol in self.known)
        return all(
            isinstance(symbol, str)
            and not _has_surrogates(symbol)
            and list(_symbols(symbol, self.level)) == [symbol]
            for symbol in self.known
        )

    @property
    def unknown(self) -> int:
        """Number of every unknown symbol."""
        return len(self.known)

    @property
    def end(self) -> int:
        """Number of the end of a document, the last one."""
        return len(self.known) + 1

    def encode(self, documents: Sequence[Document], max_length: int, name: str = "X") -> np.ndarray:
        """Return documents as rows of numbers, shape (n, max_length + 1), float32.

        Each row ends with the end of the document, and then `PAD`. All rows have one width, so that
        a row does not depend on the documents beside it.

        Args:
            documents: strings, or sequences of tokens.
            max_length: largest number of symbols in a document.
            name: name of the documents in messages.

        Raises:
            DataError: if a document is empty or too long, or no document holds a known symbol.
        """
        numbers = {symbol: number for number, symbol in enumerate(self.known)}
        rows = np.full((len(documents), max_length + 1), PAD, np.float32)
        for index, symbols in enumerate(_checked(documents, self.level, max_length, name)):
            encoded = [numbers.get(symbol, self.unknown) for symbol in symbols]
            rows[index, : len(symbols) + 1] = [*encoded, self.end]
        if len(rows) and not ((rows >= 0) & (rows < self.unknown)).any():
            raise DataError(
                f"the documents of {name} hold no {self.level} that the vocabulary knows, only "
                f"{_quoted(_symbols(documents[0], self.level))}and the like: give documents like "
                "those of the training."
            )
        return rows

    def decode(self, rows: Any) -> list[Any]:
        """Return documents from rows of numbers: strings, or arrays of tokens with -1 for unknown
        ones."""
        names = [*self.known, UNKNOWN_NAMES[self.level]]
        documents = [
            [names[int(number)] for number in row if 0 <= number < self.end] for row in rows
        ]
        if self.level == "token":
            return [np.array(document, dtype=np.int64) for document in documents]
        return [(" " if self.level == "word" else "").join(document) for document in documents]


def list_documents(X: Any, name: str = "X") -> tuple[list[Document], bool]:
    """Return documents as a list, and whether they are tokens.

    Args:
        X: a list, a tuple, an array or a Series of strings, or of sequences of whole numbers >= 0;
            -1 stands for an unknown token.
        name: name of X in messages.

    Raises:
        DataError: if X is anything else.
    """
    import pandas as pd

    is_list = isinstance(X, list | tuple | np.ndarray | pd.Series)
    if not is_list or (isinstance(X, np.ndarray) and X.ndim == 0):
        raise DataError(
            f"{name} expects a list of documents, got {type(X).__name__}: give strings, such as "
            "one column of a table, or arrays of tokens."
        )
    documents = list(X)
    if not any(isinstance(document, str | bytes) for document in documents):
        names = (f"document {index} of {name}" for index in range(len(documents)))
        return list(map(_tokens, names, documents)), True
    for index, document in enumerate(documents):
        if not isinstance(document, str):
            remedy = (
                "decode it, as UTF-8 in all likelihood"
                if isinstance(document, bytes)
                else "give strings, or arrays of tokens"
            )
            raise DataError(
                f"document {index} of {name} expects a string, like others, got "
                f"{_shortened(document)}: {remedy}."
            )
        if _has_surrogates(document):
            raise DataError(
                f"document {index} of {name} holds half a character: decode its file as UTF-8."
            )
    return documents, False


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _tokens(name: str, document: Any) -> np.ndarray:
    try:
        tokens = np.asarray(document)
    except ValueError:  # nested sequences of different lengths
        tokens = np.asarray(None)
    is_whole = tokens.ndim == 1 and (tokens.dtype.kind in "iu" or len(tokens) == 0)
    if not is_whole or (tokens < UNKNOWN_NAMES["token"]).any() or (tokens >= 2**63).any():
        raise DataError(
            f"{name} expects a string, or a sequence of whole numbers >= 0, got "
            f"{_shortened(document)}: give strings, or arrays of tokens."
        )
    return tokens


def _checked(
    documents: Sequence[Document], level: Level, max_length: float = math.inf, name: str = "X"
) -> Iterator[Sequence[Any]]:
    """Yield the symbols of each document; raise `DataError` if it is empty or too long."""
    for index, document in enumerate(documents):
        symbols = _symbols(document, level)
        if len(symbols) == 0:
            raise DataError(
                f"document {index} of {name} is empty: expected at least one {level}; remove it."
            )
        if len(symbols) > max_length:
            raise DataError(
                f"document {index} of {name} has {len(symbols)} {level}s, more than "
                f"max_length={max_length}: raise max_length, or shorten it."
            )
        yield symbols


def _symbols(document: Any, level: Level) -> Sequence[Any]:
    if level == "token":
        return [int(token) for token in document]
    return document.split() if level == "word" else document  # type: ignore[no-any-return]


def _quoted(symbols: Sequence[Any]) -> str:
    if not len(symbols):
        return ""
    shown = ", ".join(map(_shortened, symbols[:3]))
    return f"({shown}{', ...' if len(symbols) > 3 else ''}) "


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
