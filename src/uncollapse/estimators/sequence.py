"""The sequential VAE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from uncollapse import families, latent, models
from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.progress import spinner
from uncollapse._utils.signals import deferred_interrupt
from uncollapse._utils.validation import check_count, check_positive
from uncollapse._utils.vocabulary import Document, Level, Vocabulary, list_documents
from uncollapse.estimators.base import Estimator
from uncollapse.estimators.settings import SequenceSettings

if TYPE_CHECKING:
    from uncollapse._utils.run_folders import SavedRun, SavedVocabulary
    from uncollapse.estimators.plan import TrainingData
    from uncollapse.training import Budget

HELD_OUT_SHARE = 0.1


class SequenceVAE(Estimator["models.SequenceModel", SequenceSettings], SequenceSettings):
    """A VAE of sequences, such as sentences: one z for each, and every symbol depends on z and on
    the symbols before it.

    An LSTM summarizes the symbols before as h. With constants in `inverse_lipschitz`, it sees
    nothing else, and Brenier maps turn [z; h] into the log-odds of the next symbol, which move at
    least that much when z moves, whatever h is: IL-LIDSVAE (K23 definition 4.3), and LIDSVAE (W21
    example 2) at 0. With None, the maps become one linear map, and the LSTM sees z at every symbol:
    the sequential VAE (Bowman et al. 2016), which can ignore z.

    Attributes:
        model_: the trained `uncollapse.models.SequenceModel`.
        vocabulary_: the symbols, a `uncollapse._utils.vocabulary.Vocabulary`.
        history_: table with a row for each epoch: epoch, loss, reconstruction and kl in nats per
            document, seconds and decoder evaluations (one for each symbol) since the start, and
            the negative ELBO on held-out documents (`validation`).
        settings_: the validated settings of the fit.
        seed_: the seed that the fit used.
        inverse_lipschitz_: constants after training, one per map; None for an ordinary decoder.

    >>> import uncollapse as uc
    >>> documents = ["the cat sat", "the dog sat", "a dog ran", "a cat ran"] * 20
    >>> sizes = {"latent_dim": 2, "hidden": (32,), "hidden_dim": 16}
    >>> vae = uc.SequenceVAE(**sizes, max_epochs=2, random_state=0).fit(documents)
    >>> vae.transform(["the dog sat"]).shape
    (1, 2)
    """

    settings_type = SequenceSettings
    history_columns: ClassVar[tuple[str, ...]] = (*Estimator.history_columns, "validation")

    @staticmethod
    def _build(settings: SequenceSettings, size: int) -> models.SequenceModel:
        from torch import nn

        from uncollapse.estimators.building import sequence_decoder

        family, latent_dim = families.Categorical(size), settings.latent_dim
        decoder = sequence_decoder(settings, family)
        prior, posterior = _build_latent(settings, size)
        history = models.HistoryLSTM(
            size,
            settings.embedding_dim,
            settings.hidden_dim,
            settings.n_layers,
            latent_dim=0 if decoder.constants else latent_dim,
        )
        is_additive = bool(decoder.constants) and settings.context != "joint"
        head = (
            nn.Linear(settings.hidden_dim, family.natural_dim(1), bias=False)
            if is_additive
            else None
        )
        return models.SequenceModel(
            prior, posterior, history, decoder, family, head, settings.word_dropout
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
            validation: documents by whose ELBO the best epoch is found; if not given, a tenth of X
                is held out from training.
            budget: limit of training, which overrides `max_epochs`.
            callbacks: functions that are called with each `uc.training.Epoch`.
            checkpoint: folder for the state of the training and its log, a JSON line for each
                epoch. If it holds the state of the same fit, training resumes, and ends in the
                same parameters as an uninterrupted fit.

        Raises:
            InputError: if an argument or a document cannot be used, or the folder belongs to
                another training. An earlier fit is kept.
            NonFiniteLossError: if a loss is not finite; the estimator keeps the best epoch so far.
            KeyboardInterrupt: after Ctrl-C or SIGTERM; the estimator keeps the best epoch so far.
        """
        del y
        from uncollapse.estimators.plan import prepare

        settings = self.check_settings()
        with spinner("preparing", settings.verbose):
            vocabulary, data = _read(X, validation, settings)
            model, plan = prepare(self, settings, data, budget, callbacks, checkpoint)
        with deferred_interrupt():  # a fit must not leave the vocabulary of one model with another
            self.vocabulary_ = vocabulary
            self._train(model, plan)
        return self

    def _hold_out(self, data: TrainingData, seed: int) -> TrainingData:
        if data.validation is None:
            data = data.hold_out(max(1, round(HELD_OUT_SHARE * len(data.rows))), seed)
            return replace(data, validation=data.held_out)
        return replace(data, held_out=data.validation)

    def _initialize(
        self, model: models.SequenceModel, settings: SequenceSettings, data: TrainingData
    ) -> None:
        from uncollapse.estimators.building import initialize_sequences

        del settings
        initialize_sequences(model, data)

    def _checked_pieces(self, X: Any) -> Iterator[np.ndarray]:
        """Yield documents as rows of the numbers of their symbols, shape (n, max_length + 1)."""
        check_is_fitted(self)
        yield _encode(X, self.vocabulary_, self.settings_.max_length)

    def inverse_transform(self, Z: Any) -> list[Any]:
        """Return the document for each row of Z, taking the most probable symbol at each place.

        Raises:
            DataError: if Z is not of shape (n, latent_dim) or not finite.
        """
        return self._generate(self._check_codes(Z), greedy=True)

    def sample(
        self,
        n_samples: int = 1,
        random_state: Any = None,
        temperature: float = 1.0,
        greedy: bool = False,
    ) -> list[Any]:
        """Draw documents from the model, with z from the prior.

        Args:
            n_samples: number of documents.
            random_state: a seed or a RandomState; None draws anew at each call.
            temperature: 1 draws symbols from the model; lower values favor probable ones.
            greedy: take the most probable symbol at each place, so that only z is random.

        Raises:
            ParameterError: if `n_samples` or `temperature` is not positive.
        """
        check_is_fitted(self)
        check_positive("temperature", temperature)
        with self._sampling(n_samples, random_state):
            codes = self.model_.draw_prior(n_samples).cpu().numpy()
            return self._generate(codes, temperature, greedy)

    def interpolate(self, a: Document, b: Document, n_steps: int = 5) -> list[Any]:
        """Return documents along the line between the posterior means of two documents.

        Args:
            a: document at the start.
            b: document at the end.
            n_steps: number of documents, both ends included; at least 2.

        Raises:
            InputError: if a document cannot be used, or `n_steps` is below 2.
        """
        check_count("n_steps", n_steps, at_least=2)
        start, end = self.transform([a, b])
        share = np.linspace(0, 1, n_steps, dtype=np.float32)[:, None]
        return self.inverse_transform((1 - share) * start + share * end)

    def perplexity(self, X: Any, n_importance: int = 64) -> float:
        """Return exp(-log p(X) / number of symbols), counting the ends of documents as symbols.

        Args:
            X: documents.
            n_importance: number of draws of z for each, as for `score_samples`.
        """
        n_symbols = (self.check_rows(X) >= 0).sum()
        return float(np.exp(-self.score_samples(X, n_importance).sum(dtype=np.float64) / n_symbols))

    def _generate(
        self, codes: np.ndarray, temperature: float = 1.0, greedy: bool = False
    ) -> list[Any]:
        model, max_length = self.model_, self.settings_.max_length
        rows = self._in_batches(codes, lambda z: model.generate(z, max_length, temperature, greedy))
        return self.vocabulary_.decode(rows)

    @property
    def _size(self) -> int:
        return len(self.vocabulary_)

    @property
    def _saved_vocabulary(self) -> SavedVocabulary:
        from uncollapse._utils.run_folders import SavedVocabulary

        return SavedVocabulary(level=self.vocabulary_.level, known=list(self.vocabulary_.known))

    def _restore(self, run: SavedRun) -> None:
        saved = run.vocabulary
        if saved is None or len(saved.known) + 2 != run.n_features:
            raise DataError(
                "its vocabulary is missing, or not the one that the model was trained with"
            )
        vocabulary = Vocabulary(saved.level, tuple(saved.known))
        if saved.level not in ("token", self.level) or not vocabulary.check_invariants():
            raise DataError(f"its vocabulary is not one of {saved.level}s")
        self.vocabulary_ = vocabulary

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags


def _build_latent(settings: SequenceSettings, size: int) -> tuple[latent.Prior, latent.Posterior]:
    """Build the prior and the posterior of one z for each document, or of one for each symbol."""
    from uncollapse.networks import BackwardLSTMEncoder, LSTMEncoder

    latent_dim, pooled = settings.latent_dim, settings.posterior == "pooled-lstm"
    sizes = {
        "embedding_dim": settings.encoder_embedding_dim or settings.embedding_dim,
        "hidden_dim": settings.encoder_hidden_dim or settings.hidden_dim,
        "n_layers": settings.n_layers,
    }
    if settings.committed_rate is None:
        encoder = LSTMEncoder(size, 2 * latent_dim, **sizes, pooled=pooled)
        return latent.StandardNormal(latent_dim), latent.DiagonalGaussian(encoder)
    if pooled or settings.annealing:
        excluded = "posterior='pooled-lstm'" if pooled else "annealing=True"
        raise ParameterError(
            f"committed_rate gives every symbol a z, which excludes {excluded}. Leave one of them "
            "out."
        )
    prior = latent.CommittedPrior(settings.max_length + 1, latent_dim, settings.committed_rate)
    backward = BackwardLSTMEncoder(size, 2 * latent_dim, **sizes)
    return prior, latent.ChainPosterior(backward, prior)


def _read(X: Any, validation: Any, settings: SequenceSettings) -> tuple[Vocabulary, TrainingData]:
    """Return the vocabulary of documents, and the documents as rows of numbers."""
    from uncollapse.estimators.plan import TrainingData, digest_of

    documents, are_tokens = list_documents(X)
    if len(documents) < 2:
        raise DataError(
            f"training expects at least 2 documents, got {len(documents)}. Give more data."
        )
    level: Level = "token" if are_tokens else settings.level
    vocabulary = Vocabulary.of(documents, level, settings.min_count, settings.max_vocabulary)
    rows = vocabulary.encode(documents, settings.max_length)
    given = (
        None
        if validation is None
        else _encode(validation, vocabulary, settings.max_length, "validation")
    )
    return vocabulary, TrainingData(
        rows, len(vocabulary), digest_of(rows), are_sequences=True, validation=given
    )


def _encode(X: Any, vocabulary: Vocabulary, max_length: int, name: str = "X") -> np.ndarray:
    documents, are_tokens = list_documents(X, name)
    if documents and are_tokens != (vocabulary.level == "token"):
        expected, got = "strings", "arrays of tokens"
        if vocabulary.level == "token":
            expected, got = got, expected
        raise DataError(
            f"{name} expects {expected}, as in training, got {got}. Give documents of the same "
            "kind."
        )
    if not documents:
        raise DataError(f"{name} expects at least one document, got none. Give some.")
    return vocabulary.encode(documents, max_length, name)
