"""The sequential VAE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from uncollapse import models
from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.parameters import check_parameters
from uncollapse._utils.progress import spinner
from uncollapse._utils.random import derived_seed
from uncollapse._utils.run_folders import SavedVocabulary, Settings
from uncollapse._utils.signals import deferred_interrupt
from uncollapse._utils.validation import check_count, check_positive
from uncollapse._utils.vocabulary import Document, Level, Vocabulary, list_documents
from uncollapse.estimators.base import Estimator, Plan, digest_of
from uncollapse.estimators.building import sequence_decoder, some_rows
from uncollapse.estimators.settings import SequenceSettings
from uncollapse.families import Categorical
from uncollapse.latent import (
    ChainPosterior,
    CommittedPrior,
    DiagonalGaussian,
    Posterior,
    Prior,
    StandardNormal,
)
from uncollapse.maps import InverseLipschitzDecoder
from uncollapse.maps.embedding import MAX_ROWS_BESIDE_CONTEXT
from uncollapse.networks import BackwardLSTMEncoder, LSTMEncoder
from uncollapse.training.budget import Budget
from uncollapse.training.resume import Checkpoint

HELD_OUT_SHARE = 0.1
# What is added to the counts that log-odds begin at, as some symbols may have been held out.
UNSEEN_COUNT = 0.5
# Documents count as if they were no farther from the mean than so many times the median distance.
OUTLIER = 2.0


@dataclass(frozen=True)
class _Rows:
    """Documents as rows of numbers, for training and to find the best epoch by."""

    vocabulary: Vocabulary
    train: np.ndarray
    validation: np.ndarray


class SequenceVAE(Estimator, SequenceSettings):
    """A VAE of sequences, such as sentences: one z for each, from which and from the symbols before
    it every symbol follows.

    An LSTM turns the symbols before into h. With `inverse_lipschitz` a number, that is all that it
    sees, and Brenier maps turn [z; h] into the log-odds of the next symbol, and move them at least
    that much when z moves, whatever h is: IL-LIDSVAE (K23 definition 4.3), and LIDSVAE (W21 example
    2) at 0. With None a linear map does, and the LSTM sees z beside every symbol: the sequential
    VAE (Bowman et al. 2016), which can do without z.

    Attributes:
        model_: the trained `uncollapse.models.SequenceVAE`.
        vocabulary_: the symbols, a `uncollapse._utils.vocabulary.Vocabulary`.
        history_: the training, a row for each epoch: epoch, loss, reconstruction and kl in nats per
            document, since the start seconds and evaluations of the decoder (one for each symbol),
            and the negative ELBO on documents that training does not see (`validation`).
        seed_: the seed that was used.
        inverse_lipschitz_: the constants in force, one for each map; None for an ordinary decoder.

    >>> import uncollapse as uc
    >>> documents = ["the cat sat", "the dog sat", "a dog ran", "a cat ran"] * 20
    >>> sizes = {"latent_dim": 2, "hidden": (32,), "hidden_dim": 16}
    >>> vae = uc.SequenceVAE(**sizes, max_epochs=2, random_state=0).fit(documents)
    >>> vae.transform(["the dog sat"]).shape
    (1, 2)
    """

    history_columns: ClassVar[tuple[str, ...]] = (*Estimator.history_columns, "validation")

    @staticmethod
    def _build(parameters: Mapping[str, Any], n_features: int) -> models.SequenceVAE:
        """An untrained model of sequences of `n_features` symbols, the unknown one and the end
        among them.

        Raises:
            InputError: if the parameters do not suit each other or the number of symbols.
        """
        sizes = {name: parameters[name] for name in ("embedding_dim", "hidden_dim", "n_layers")}
        family, latent_dim = Categorical(n_features), parameters["latent_dim"]
        decoder = sequence_decoder(parameters, family)
        seen = 0 if decoder.constants else latent_dim
        encoder_sizes = {
            name: parameters[f"encoder_{name}"] or sizes[name]
            for name in ("embedding_dim", "hidden_dim")
        }
        pooled = parameters["posterior"] == "pooled-lstm"
        encoder_sizes = {**sizes, **encoder_sizes}
        prior: Prior
        posterior: Posterior
        if parameters["committed_rate"] is None:
            prior, posterior = (
                StandardNormal(latent_dim),
                DiagonalGaussian(
                    LSTMEncoder(n_features, 2 * latent_dim, **encoder_sizes, pooled=pooled)
                ),
            )
        elif pooled or parameters["annealing"]:
            name, value = ("posterior", "'pooled-lstm'") if pooled else ("annealing", "True")
            raise ParameterError(
                f"committed_rate gives every symbol a z, and does not go with {name} = {value}: "
                "leave one of them out."
            )
        else:
            prior = CommittedPrior(
                parameters["max_length"] + 1, latent_dim, parameters["committed_rate"]
            )
            encoder = BackwardLSTMEncoder(n_features, 2 * latent_dim, **encoder_sizes)
            posterior = ChainPosterior(encoder, prior)
        history = models.History(n_features, **sizes, latent_dim=seen)
        additive = isinstance(decoder, InverseLipschitzDecoder) and not decoder.context_dim
        head = (
            nn.Linear(sizes["hidden_dim"], family.natural_dim(1), bias=False) if additive else None
        )
        return models.SequenceVAE(
            prior, posterior, history, decoder, family, head, parameters["word_dropout"]
        )

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        validation: Any = None,
        budget: Budget | None = None,
        callbacks: Sequence[Any] = (),
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Train on documents.

        Args:
            X: strings, or sequences of whole numbers >= 0, at least two.
            y: ignored.
            validation: documents by whose ELBO the best epoch is found; a tenth of X, held out from
                training, if not given.
            budget: what training may use up, in place of `max_epochs`.
            callbacks: functions that are called with each `uc.training.Epoch`.
            checkpoint: a folder for the state of the training and its log, a JSON line for each
                epoch. Where it holds the state of this very training, that is taken up, and ends in
                the same parameters as if nothing had interrupted it.

        Raises:
            InputError: if a parameter or a document cannot be used, or the folder holds another
                training. What was fitted before is left as it was.
            NonFiniteLossError: if training meets a loss that is not finite; the estimator then
                holds the best epoch so far.
            KeyboardInterrupt: after Ctrl-C or SIGTERM; the estimator then holds the best epoch so
                far.
        """
        del y
        parameters = check_parameters(type(self), self.get_params(deep=False))
        with spinner("preparing", parameters["verbose"]):
            kept = None if checkpoint is None else Checkpoint(Path(checkpoint))
            vocabulary, encoded = _read(X, parameters)
            held_out = (
                None
                if validation is None
                else _encode(validation, vocabulary, parameters["max_length"], "validation")
            )
            others = None if held_out is None else digest_of(held_out)
            data = {"shape": encoded.shape, "digest": digest_of(encoded), "validation": others}
            seed = self._agree_on_seed(parameters, data, budget, kept)
            rows = _split(vocabulary, encoded, held_out, seed)
            model = self._new_model(parameters, len(rows.vocabulary), seed)
            model.decoder.initialize_from_data(*_shares(rows, parameters["latent_dim"]))
            model.decoder.start_at(_log_odds(rows))
            plan = Plan.of(
                model,
                rows.train,
                parameters,
                seed,
                rows.validation,
                budget=budget,
                callbacks=callbacks,
                checkpoint=kept,
            )
        with deferred_interrupt():  # what belongs to one fit is taken over as one
            self.vocabulary_ = rows.vocabulary
            self._train(model, plan)
        return self

    def _learn(self, model: models.VAE, plan: Plan) -> None:
        lengths = torch.as_tensor((plan.rows >= 0).sum(1))
        self._minimise(model, plan, range(plan.parameters["max_epochs"]), plan.seed, lengths)

    def check_rows(self, X: Any) -> np.ndarray:
        """Documents as rows of the numbers of their symbols, shape (n, max_length + 1), float32.

        Raises:
            InputError: if a document is empty, too long, or holds nothing that is known.
        """
        return next(self._checked_pieces(X))

    def _checked_pieces(self, X: Any) -> Iterator[np.ndarray]:
        check_is_fitted(self)
        yield _encode(X, self.vocabulary_, self.parameters_["max_length"])

    def inverse_transform(self, Z: Any) -> list[Any]:
        """The most probable symbol after symbol, given z: n documents.

        Raises:
            InputError: if Z is not of shape (n, latent_dim) or not finite.
        """
        codes = self._check_codes(Z)
        return self._generate(codes, greedy=True)

    def reconstruct(self, X: Any) -> list[Any]:
        """`inverse_transform` at the posterior means of X: n documents."""
        return self.inverse_transform(self.transform(X))

    def sample(
        self,
        n_samples: int = 1,
        random_state: Any = None,
        temperature: float = 1.0,
        greedy: bool = False,
    ) -> list[Any]:
        """Documents from the model, of z from the prior.

        Args:
            n_samples: how many.
            random_state: a seed or a RandomState; None draws anew at each call.
            temperature: 1 draws symbols from the model; less goes to the more probable ones.
            greedy: take the most probable symbol each time, so that only z is left to chance.

        Raises:
            InputError: if `n_samples` or `temperature` is not positive.
        """
        check_is_fitted(self)
        check_positive("temperature", temperature)
        return self._sample(
            self._prior_draws,
            lambda codes: self._generate(codes, temperature, greedy),
            n_samples,
            random_state,
        )

    def interpolate(self, a: Document, b: Document, n_steps: int = 5) -> list[Any]:
        """Documents on the way from one to another: `inverse_transform` along the line between
        their posterior means.

        Args:
            a: where the way begins.
            b: where it ends.
            n_steps: documents, those at both ends among them; at least 2.

        Raises:
            InputError: if a document cannot be used, or `n_steps` is below 2.
        """
        check_count("n_steps", n_steps, at_least=2)
        start, end = self.transform([a, b])
        share = np.linspace(0, 1, n_steps, dtype=np.float32)[:, None]
        return self.inverse_transform((1 - share) * start + share * end)

    def perplexity(self, X: Any, n_importance: int = 64) -> float:
        """exp(-log p(X) / number of symbols), the ends of the documents among them.

        Args:
            X: documents.
            n_importance: draws of z for each, as for `score_samples`.
        """
        n_symbols = (self.check_rows(X) >= 0).sum()
        return float(np.exp(-self.score_samples(X, n_importance).sum(dtype=np.float64) / n_symbols))

    def _generate(
        self, codes: np.ndarray, temperature: float = 1.0, greedy: bool = False
    ) -> list[Any]:
        model, max_length = self.model_, self.parameters_["max_length"]
        assert isinstance(model, models.SequenceVAE)
        rows = self._in_batches(codes, lambda z: model.generate(z, max_length, temperature, greedy))
        return self.vocabulary_.decode(rows)

    @property
    def _size(self) -> int:
        return len(self.vocabulary_)

    @property
    def _saved_vocabulary(self) -> SavedVocabulary:
        return SavedVocabulary(level=self.vocabulary_.level, known=list(self.vocabulary_.known))

    def _restore(self, settings: Settings) -> None:
        saved = settings.vocabulary
        if saved is None or len(saved.known) + 2 != settings.n_features:
            raise ParameterError(
                "its vocabulary is missing, or not the one that the model was trained with"
            )
        vocabulary = Vocabulary(saved.level, tuple(saved.known))
        if saved.level not in ("token", self.level) or not vocabulary.check_invariants():
            raise ParameterError(f"its vocabulary is not one of {saved.level}s")
        self.vocabulary_ = vocabulary

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags


def _read(X: Any, parameters: dict[str, Any]) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary of documents, and the documents as rows."""
    documents, are_tokens = list_documents(X)
    if len(documents) < 2:
        raise DataError(
            f"training expects at least 2 documents, got {len(documents)}: give more data."
        )
    level: Level = "token" if are_tokens else parameters["level"]
    vocabulary = Vocabulary.of(
        documents, level, parameters["min_count"], parameters["max_vocabulary"]
    )
    return vocabulary, vocabulary.encode(documents, parameters["max_length"])


def _split(
    vocabulary: Vocabulary, rows: np.ndarray, validation: np.ndarray | None, seed: int
) -> _Rows:
    """Documents for training, and to find the best epoch by: those that are given, or some that are
    held out."""
    if validation is not None:
        return _Rows(vocabulary, rows, validation)
    order = np.random.default_rng(derived_seed(seed, "held out")).permutation(len(rows))
    n_held_out = max(1, round(HELD_OUT_SHARE * len(rows)))
    return _Rows(vocabulary, rows[order[n_held_out:]], rows[order[:n_held_out]])


def _encode(X: Any, vocabulary: Vocabulary, max_length: int, name: str = "X") -> np.ndarray:
    documents, are_tokens = list_documents(X, name)
    if documents and are_tokens != (vocabulary.level == "token"):
        expected, got = (
            ("arrays of tokens", "strings")
            if vocabulary.level == "token"
            else ("strings", "arrays of tokens")
        )
        raise DataError(
            f"{name} expects {expected}, as in training, got {got}: give documents of the same "
            "kind."
        )
    if not documents:
        raise DataError(f"{name} expects at least one document, got none: give some.")
    return vocabulary.encode(documents, max_length, name)


def _shares(rows: _Rows, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    """The shares of the most frequent symbols in some of the documents, and the deviations of such
    shares by chance alone.

    Args:
        rows: the documents.
        at_least: of so many symbols, if there are.

    Returns:
        shares: shape (n, m), float32.
        noise: shape (m,), up to a factor. By chance alone a share's variance is proportional to its
            mean, to which 1 / V, the average, is added: what the rarest symbols do by chance would
            count for much.
    """
    n_symbols = min(len(rows.vocabulary) - 1, max(MAX_ROWS_BESIDE_CONTEXT, at_least))
    some = some_rows(rows.train, n_symbols)
    counts = np.zeros((len(some), n_symbols), np.float32)
    documents, places = np.nonzero((some >= 0) & (some < n_symbols))
    np.add.at(counts, (documents, some[documents, places].astype(np.int64)), 1)
    shares = counts / (some >= 0).sum(1, keepdims=True)
    noise = np.sqrt(shares.mean(0) + 1 / len(rows.vocabulary))
    return _without_outliers(shares, noise), noise


def _without_outliers(shares: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The same, with what is far from the mean drawn nearer: a document that repeats one word would
    have a direction for itself."""
    mean = shares.mean(0)
    distance = np.linalg.norm((shares - mean) / noise, axis=1)
    limit = OUTLIER * np.median(distance)
    far = distance > limit
    drawn = shares.copy()
    drawn[far] = mean + (limit / distance[far])[:, None] * (shares[far] - mean)
    return drawn


def _log_odds(rows: _Rows) -> torch.Tensor:
    """The natural parameters of the shares that the symbols have in training."""
    counts = (
        np.bincount(rows.train[rows.train >= 0].astype(np.int64), minlength=len(rows.vocabulary))
        + UNSEEN_COUNT
    )
    return torch.as_tensor(np.log(counts[:-1] / counts[-1]), dtype=torch.float32)
