"""Documents and the numbers of their symbols."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from uncollapse._utils.errors import DataError

# What fills a row after the end of its document.
PAD = -1

Level = Literal["word", "character", "token"]
Document = str | Sequence[int] | np.ndarray
UNKNOWN_NAMES: dict[str, Any] = {
    "word": "<unk>",
    "character": "\N{REPLACEMENT CHARACTER}",
    "token": -1,
}


@dataclass(frozen=True)
class Vocabulary:
    """Symbols by number: the known ones from 0 on, frequent ones first, then the unknown symbol,
    then the end of a document.

    Attributes:
        level: what a symbol is: a "word" between white space, a "character", or a "token", a number
            that somebody else has chosen.
        known: the symbols that have a number of their own: strings, or integers for tokens.

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
        """The symbols that occur at least `min_count` times, at most `max_size` of them, the most
        frequent first.

        What documents call unknown themselves (by its name in `UNKNOWN_NAMES`) is none of them.

        Raises:
            InputError: if a document is empty, or fewer than two symbols are left.
        """
        counts = Counter(symbol for symbols in _checked(documents, level) for symbol in symbols)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        name = UNKNOWN_NAMES[level]
        known = tuple(symbol for symbol, count in ranked if count >= min_count and symbol != name)[
            :max_size
        ]
        if len(known) < 2:
            raise DataError(
                f"a vocabulary expects at least 2 {level}s that occur {min_count} times or more, "
                f"got {len(known)} "
                f"{_quoted(known)}of {len(counts)}: lower min_count, raise max_vocabulary, or give "
                "other documents."
            )
        return cls(level, known)

    def __len__(self) -> int:
        """The number of symbols, the unknown one and the end among them."""
        return len(self.known) + 2

    def check_invariants(self) -> bool:
        """Whether the symbols are such as documents of this level can hold, each once."""
        if len(set(self.known)) != len(self.known):
            return False
        if self.level == "token":
            return all(isinstance(symbol, int) and 0 <= symbol < 2**63 for symbol in self.known)
        strings = all(
            isinstance(symbol, str) and not _has_surrogates(symbol) for symbol in self.known
        )
        return strings and all(
            list(_symbols(symbol, self.level)) == [symbol] for symbol in self.known
        )

    @property
    def unknown(self) -> int:
        """The number of every symbol that is not known."""
        return len(self.known)

    @property
    def end(self) -> int:
        """The number of the end of a document: the last."""
        return len(self.known) + 1

    def encode(self, documents: Sequence[Document], max_length: int, name: str = "X") -> np.ndarray:
        """Documents as rows of numbers, each with its end and then `PAD`, shape (n, max_length +
        1), float32.

        All rows have one width, so that a row does not depend on the documents beside it.

        Args:
            documents: strings, or sequences of tokens.
            max_length: symbols of a document at most.
            name: what to call the documents in messages.

        Raises:
            InputError: if a document is empty or too long, or no document holds a symbol that is
                known.
        """
        numbers = {symbol: number for number, symbol in enumerate(self.known)}
        rows = np.full((len(documents), max_length + 1), PAD, np.float32)
        for index, symbols in enumerate(_checked(documents, self.level, max_length, name)):
            rows[index, : len(symbols) + 1] = [
                *(numbers.get(symbol, self.unknown) for symbol in symbols),
                self.end,
            ]
        if len(rows) and not ((rows >= 0) & (rows < self.unknown)).any():
            raise DataError(
                f"the documents of {name} hold no {self.level} that the vocabulary knows, only "
                f"{_quoted(_symbols(documents[0], self.level))}and the like: give documents like "
                "those of the training."
            )
        return rows

    def decode(self, rows: Any) -> list[Any]:
        """Documents from rows of numbers: strings, or arrays of tokens, in which -1 is what was
        unknown."""
        names = [*self.known, UNKNOWN_NAMES[self.level]]
        documents = [
            [names[int(number)] for number in row if 0 <= number < self.end] for row in rows
        ]
        if self.level == "token":
            return [np.array(document, dtype=np.int64) for document in documents]
        return [(" " if self.level == "word" else "").join(document) for document in documents]


def list_documents(X: Any, name: str = "X") -> tuple[list[Document], bool]:
    """Documents as a list, and whether they are tokens and not text.

    Args:
        X: a list, a tuple, an array or a Series of strings, or of sequences of whole numbers >= 0;
            -1 stands for an unknown token.
        name: what to call it in messages.

    Raises:
        InputError: if X is anything else.
    """
    if not isinstance(X, list | tuple | np.ndarray | pd.Series) or (
        isinstance(X, np.ndarray) and X.ndim == 0
    ):
        raise DataError(
            f"{name} expects a list of documents, got {type(X).__name__}: give strings, such as "
            "one column of a table, or arrays "
            "of tokens."
        )
    documents = list(X)
    if not any(isinstance(document, str | bytes) for document in documents):
        return [
            _tokens(f"document {index} of {name}", document)
            for index, document in enumerate(documents)
        ], True
    for index, document in enumerate(documents):
        if not isinstance(document, str):
            remedy = (
                "decode it, as UTF-8 in all likelihood"
                if isinstance(document, bytes)
                else "give strings, or arrays of tokens"
            )
            raise DataError(
                f"document {index} of {name} expects a string, like others, got "
                f"{_shortened(repr(document))}: {remedy}."
            )
        if _has_surrogates(document):
            raise DataError(
                f"document {index} of {name} holds half a character (a lone surrogate): decode its "
                "file as UTF-8."
            )
    return documents, False


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _tokens(name: str, document: Any) -> np.ndarray:
    try:
        tokens = np.asarray(document)
    except ValueError:  # ragged
        tokens = np.asarray(None)
    whole = tokens.ndim == 1 and (tokens.dtype.kind in "iu" or len(tokens) == 0)
    if not whole or (tokens < UNKNOWN_NAMES["token"]).any() or (tokens >= 2**63).any():
        raise DataError(
            f"{name} expects a string, or a sequence of whole numbers >= 0, got "
            f"{_shortened(repr(document))}: give "
            "strings, or arrays of tokens."
        )
    return tokens


def _checked(
    documents: Sequence[Document], level: Level, max_length: float = math.inf, name: str = "X"
) -> Iterator[Sequence[Any]]:
    """The symbols of each document; an `InputError` at the first that is empty or too long."""
    for index, document in enumerate(documents):
        symbols = _symbols(document, level)
        n_symbols = len(symbols)
        if n_symbols == 0:
            raise DataError(
                f"document {index} of {name} is empty: expected at least one {level}; remove it."
            )
        if n_symbols > max_length:
            raise DataError(
                f"document {index} of {name} has {n_symbols} {level}s, more than "
                f"max_length={max_length}: raise max_length, or "
                "shorten it."
            )
        yield symbols


def _symbols(document: Any, level: Level) -> Sequence[Any]:
    if level == "token":
        return [int(token) for token in document]
    return document.split() if level == "word" else document  # type: ignore[no-any-return]


def _quoted(symbols: Sequence[Any]) -> str:
    if not len(symbols):
        return ""
    return (
        "("
        + ", ".join(_shortened(repr(symbol)) for symbol in symbols[:3])
        + (", ...) " if len(symbols) > 3 else ") ")
    )


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
