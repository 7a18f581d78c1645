"""Documents and the numbers of their symbols."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from uncollapse.errors import InputError

# What fills a row after the end of its document.
PAD = -1

Level = Literal["word", "character", "token"]
Document = str | Sequence[int] | np.ndarray
UNKNOWN_NAMES = {"word": "<unk>", "character": "\N{REPLACEMENT CHARACTER}", "token": -1}


@dataclass(frozen=True)
class Vocabulary:
    """Symbols by number: the known ones from 0 on, frequent ones first, then the unknown symbol, then the end of a document.

    Attributes:
        level: what a symbol is: a "word" between white space, a "character", or a "token", a number that somebody else has chosen.
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
    def of(cls, documents: Sequence[Document], level: Level, min_count: int, max_size: int) -> Vocabulary:
        """The symbols that occur at least `min_count` times, at most `max_size` of them, the most frequent first.

        Raises:
            InputError: if a document is empty, or fewer than two symbols are left.
        """
        _check(documents, level)
        counts = Counter(symbol for document in documents for symbol in _symbols(document, level))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        known = tuple(symbol for symbol, count in ranked if count >= min_count)[:max_size]
        if len(known) < 2:
            raise InputError(
                f"a vocabulary expects at least 2 {level}s that occur {min_count} times or more, got {len(known)} "
                f"{_quoted(known)}of {len(counts)}: lower min_count, raise max_vocabulary, or give other documents."
            )
        return cls(level, known)

    def __len__(self) -> int:
        """The number of symbols, the unknown one and the end among them."""
        return len(self.known) + 2

    @property
    def unknown(self) -> int:
        """The number of every symbol that is not known."""
        return len(self.known)

    @property
    def end(self) -> int:
        """The number of the end of a document: the last."""
        return len(self.known) + 1

    def encode(self, documents: Sequence[Document], max_length: int) -> np.ndarray:
        """Documents as rows of numbers, each with its end and then `PAD`, shape (n, max_length + 1), float32.

        All rows have one width, so that a row does not depend on the documents beside it.

        Raises:
            InputError: if a document is empty or too long, or no document holds a symbol that is known.
        """
        _check(documents, self.level, max_length)
        numbers = {symbol: number for number, symbol in enumerate(self.known)}
        rows = np.full((len(documents), max_length + 1), PAD, np.float32)
        for index, document in enumerate(documents):
            symbols = _symbols(document, self.level)
            rows[index, : len(symbols) + 1] = [*(numbers.get(symbol, self.unknown) for symbol in symbols), self.end]
        if len(rows) and not ((rows >= 0) & (rows < self.unknown)).any():
            raise InputError(
                f"the documents hold no {self.level} that the vocabulary knows, only {_quoted(_symbols(documents[0], self.level))}"
                "and the like: give documents like those of the training."
            )
        return rows

    def decode(self, rows: Any) -> list[Any]:
        """Documents from rows of numbers: strings, or arrays of tokens, in which -1 is what was unknown."""
        names = [*self.known, UNKNOWN_NAMES[self.level]]
        documents = [[names[int(number)] for number in row if 0 <= number < self.end] for row in rows]
        if self.level == "token":
            return [np.array(document, dtype=np.int64) for document in documents]
        return [(" " if self.level == "word" else "").join(document) for document in documents]


def read_documents(X: Any) -> tuple[list[Document], bool]:
    """Documents as a list, and whether they are tokens and not text.

    Raises:
        InputError: if X is no sequence of strings, or of sequences of whole numbers >= 0.
    """
    if isinstance(X, str | bytes) or not hasattr(X, "__len__") or not hasattr(X, "__iter__"):
        raise InputError(f"X expects a list of documents, got {type(X).__name__}: give strings, or arrays of tokens.")
    documents = list(X)
    if not any(isinstance(document, str | bytes) for document in documents):
        return [_tokens(index, document) for index, document in enumerate(documents)], True
    for index, document in enumerate(documents):
        if not isinstance(document, str):
            remedy = "decode it, as UTF-8 in all likelihood" if isinstance(document, bytes) else "give strings, or arrays of tokens"
            raise InputError(f"document {index} expects a string, like others, got {_shortened(repr(document))}: {remedy}.")
        if not document.isascii() and any("\ud800" <= character <= "\udfff" for character in document):
            raise InputError(f"document {index} holds half a character (a lone surrogate): decode its file as UTF-8.")
    return documents, False


def _tokens(index: int, document: Any) -> np.ndarray:
    try:
        tokens = np.asarray(document)
    except ValueError:  # ragged
        tokens = np.asarray(None)
    whole = tokens.ndim == 1 and (tokens.dtype.kind in "iu" or len(tokens) == 0)
    if not whole or (tokens < 0).any():
        raise InputError(
            f"document {index} expects a string, or a sequence of whole numbers >= 0, got {_shortened(repr(document))}: give "
            "strings, or arrays of tokens."
        )
    return tokens


def _check(documents: Sequence[Document], level: Level, max_length: float = math.inf) -> None:
    """Raise `InputError` for the first document that is empty or too long."""
    for index, document in enumerate(documents):
        n_symbols = len(_symbols(document, level))
        if n_symbols == 0:
            raise InputError(f"document {index} is empty: expected at least one {level}; remove it.")
        if n_symbols > max_length:
            raise InputError(
                f"document {index} has {n_symbols} {level}s, more than max_length={max_length}: raise max_length, or shorten it."
            )


def _symbols(document: Any, level: Level) -> Sequence[Any]:
    if level == "token":
        return [int(token) for token in document]
    return document.split() if level == "word" else document  # type: ignore[no-any-return]


def _quoted(symbols: Sequence[Any]) -> str:
    if not len(symbols):
        return ""
    return "(" + ", ".join(_shortened(repr(symbol)) for symbol in symbols[:3]) + (", ...) " if len(symbols) > 3 else ") ")


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
