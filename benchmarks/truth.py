"""`python -m benchmarks.truth run`: what `diagnose` says of models of which everything is known,
against the exact values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from scipy.special import gammaln, psi
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Dirichlet,
    Independent,
    MixtureSameFamily,
    Multinomial,
    Normal,
)

from benchmarks.timing import print_row, provenance
from uncollapse.adapters import adapt_model
from uncollapse.classical import PPCA
from uncollapse.diagnostics import Report, diagnose
from uncollapse.families import Gaussian
from uncollapse.latent import LearnedComponents, Posterior, StandardNormal
from uncollapse.maps import Decoder
from uncollapse.measures.fisher import relative_fisher_divergence
from uncollapse.measures.refinement import refine
from uncollapse.models import VAE, EnumeratedMixtureVAE

app = typer.Typer(add_completion=False, no_args_is_help=True)
N_ROWS, N_REFINED, N_POSTERIOR_DRAWS = 500, 64, 20
# A 95% interval of a normal error.
WIDTH = 1.96


@dataclass(frozen=True)
class Case:
    """A model of which everything is known.

    Attributes:
        name: of the case.
        model: what is diagnosed.
        draw: makes rows of data of a number of rows and a generator.
        exact: by the names of estimates, values at rows; those of the whole population do not look
            at them.
    """

    name: str
    model: Any
    draw: Callable[[int, torch.Generator], np.ndarray]
    exact: Callable[[np.ndarray], dict[str, float]]


class LinearDecoder(Decoder):
    """eta = W z."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, z: Tensor) -> Tensor:
        """W z."""
        return z @ self.weight.T

    @property
    def constant(self) -> float:
        """The least singular value of W."""
        return float(torch.linalg.svdvals(self.weight.detach()).min())

    def start_at(self, eta: Tensor) -> None:
        """Nothing to be done."""


class LinearPosterior(Posterior):
    """q(z|x) = N(M x, diag(s^2))."""

    def __init__(self, matrix: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.matrix, self.scale = nn.Parameter(matrix), nn.Parameter(scale)

    def forward(self, x: Tensor) -> Independent[Normal]:
        """q(z|x)."""
        mean = x @ self.matrix.T
        return Independent(Normal(mean, self.scale.expand_as(mean)), 1)


def randn(*shape: int, seed: int) -> Tensor:
    """Standard normal draws that a seed decides."""
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def linear_vae(
    gains: Tensor, n_features: int, seed: int, widened: float = 1.0, awake: float = 1.0
) -> tuple[VAE, Tensor]:
    """x = W z + noise with orthogonal columns of these lengths, so that the exact posterior is a
    diagonal Gaussian; and W.

    Args:
        gains: lengths of the columns.
        n_features: of x.
        seed: of their directions.
        widened: times the deviation of the exact posterior.
        awake: the encoder's posterior, from the prior (0) to the exact one (1).
    """
    weight = torch.linalg.qr(randn(n_features, len(gains), seed=seed))[0] * gains
    precision = 1 + gains.square()
    matrix = awake * weight.T / precision[:, None]
    scale = widened * precision.rsqrt() if awake else torch.ones_like(gains)
    model = VAE(
        StandardNormal(len(gains)),
        LinearPosterior(matrix, scale),
        LinearDecoder(weight),
        Gaussian(1.0),
    )
    return model.double().requires_grad_(False).eval(), weight


def draw_linear(weight: Tensor, n: int, generator: torch.Generator) -> np.ndarray:
    """Rows of the model's own."""
    z, noise = (
        torch.randn(n, k, dtype=torch.double, generator=generator)
        for k in (weight.shape[1], len(weight))
    )
    return (z @ weight.T + noise).numpy()


def linear_case(
    name: str, gains: Tensor, n_features: int, widened: float = 1.0, awake: float = 1.0
) -> Case:
    """A linear Gaussian VAE, whose quantities all have a closed form."""
    model, weight = linear_vae(gains, n_features, 0, widened, awake)
    squares = gains.square()
    variances = widened**2 / (1 + squares) if awake else torch.ones_like(squares)
    spread = awake * squares / (1 + squares)  # Var E_q[z|x]
    entropy = PPCA(weight.numpy(), 1.0).marginal().entropy().item()
    kl = 0.5 * float((variances + spread - 1 - variances.log()).sum())
    to_prior = 0.5 * float((variances + spread - 1 - (variances + spread).log()).sum())
    # KL(q || p(z|x)), which posteriors that are fitted row by row take away, of the exact means or
    # of none.
    gap = (
        0.5
        * (
            variances * (1 + squares)
            - 1
            - (variances * (1 + squares)).log()
            + (0 if awake else squares)
        ).sum()
    )

    def exact(rows: np.ndarray) -> dict[str, float]:
        projected = torch.as_tensor(rows) @ weight
        gram = weight.T @ weight
        return {
            "nll_nats": entropy,
            "kl_nats": kl,
            "mutual_information_nats": kl - to_prior,
            "aggregate_kl_nats": to_prior,
            "fisher_divergence": float(projected.square().sum(1).mean() + (gram @ gram).trace()),
            "recovered_nats": float(gap),
            "annealing_gain_nats": 0.0,
        }

    return Case(name, model, partial(draw_linear, weight), exact)


class MeanField(PPCA):
    """PPCA with the diagonal Gaussian that is nearest to the posterior: a model that is none of our
    VAEs."""

    def posterior(self, x: Tensor) -> Normal:
        """q(z|x)."""
        exact = super().posterior(x)
        return Normal(exact.mean, exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt())


def mean_field() -> MeanField:
    """Two latents in five dimensions, as in W21's appendix."""
    return MeanField(randn(5, 2, seed=1).numpy(), 1.0)


def ppca_case() -> Case:
    """Two latents in five dimensions, as in W21's appendix."""
    model = mean_field()
    weight, covariance = torch.as_tensor(model.weight), model.marginal().covariance_matrix
    q = model.posterior(
        torch.eye(5, dtype=torch.double)
    )  # whose means are the rows of the matrix that makes them of x
    of_means, variances = (q.mean.T @ covariance @ q.mean).diagonal(), q.variance[0]
    kl = 0.5 * float((variances + of_means - 1 - variances.log()).sum())
    gram = weight.T @ weight
    # E over x and z of |W'(x - W z)|^2.
    score = float((weight.T @ covariance @ weight).trace() + (gram @ gram).trace())

    def exact(_: np.ndarray) -> dict[str, float]:
        nothing = {"recovered_nats": 0.0, "annealing_gain_nats": 0.0}
        return {
            "nll_nats": float(model.marginal().entropy()),
            "kl_nats": kl,
            "fisher_divergence": score,
            **nothing,
        }

    return Case("probabilistic PCA", model, partial(draw_linear, weight), exact)


class ExactComponents(Posterior):
    """q(y|x) and q(z|x, y) of x = w z + noise in one dimension, and z from a mixture."""

    def __init__(self, weight: float, means: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.weight, self.means, self.scales = weight, means, scales

    def marginal(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of x given y."""
        return self.weight * self.means, (1 + (self.weight * self.scales).square()).sqrt()

    def forward(self, x: Tensor) -> MixtureSameFamily:
        """q(y, z|x)."""
        logits = Normal(*self.marginal()).log_prob(x).log_softmax(-1)
        precision = self.scales**-2 + self.weight**2
        means = (self.means / self.scales**2 + self.weight * x) / precision
        each = Independent(
            Normal(means[..., None], precision.rsqrt()[:, None].expand(*means.shape, 1)), 1
        )
        return MixtureSameFamily(Categorical(logits=logits), each)


def mixture_case() -> Case:
    """Three components on a line, whose entropies are integrals."""
    means, scales, weight = (
        torch.tensor([-2.0, 0.5, 3.0]).double(),
        torch.tensor([0.5, 1.0, 0.7]).double(),
        1.5,
    )
    prior = LearnedComponents(3, 1).double()
    prior.start_at(means[:, None], torch.diag_embed(scales[:, None]).square())
    posterior = ExactComponents(weight, means, scales)
    decoder = LinearDecoder(torch.full((1, 1), weight, dtype=torch.double))
    model = (
        EnumeratedMixtureVAE(prior, posterior, decoder, Gaussian(1.0))
        .double()
        .requires_grad_(False)
        .eval()
    )
    given = Normal(*posterior.marginal())
    x = torch.linspace(-40, 40, 400_001, dtype=torch.double)
    log_p_y = given.log_prob(x[:, None])
    log_p = log_p_y.logsumexp(1) - math.log(3)
    entropy = -float(torch.trapezoid(log_p.exp() * log_p, x))
    of_component = entropy - float(given.entropy().mean())
    of_z = entropy - 0.5 * math.log(2 * math.pi * math.e)

    def draw(n: int, generator: torch.Generator) -> np.ndarray:
        y = torch.randint(3, (n,), generator=generator)
        noise = torch.randn(n, dtype=torch.double, generator=generator)
        return (given.mean[y] + given.stddev[y] * noise)[:, None].numpy()

    def exact(_: np.ndarray) -> dict[str, float]:
        # Of the exact posterior, the KL is that of z and y together: I(x; z, y) = I(x; z), as z
        # tells all that x knows of y.
        return {
            "nll_nats": entropy,
            "kl_nats": of_z,
            "kl_y_nats": of_component,
            "mutual_information_nats": of_z,
            "component_information_nats": of_component,
            "annealing_gain_nats": 0.0,
        }

    return Case("Gaussian mixture", model, draw, exact)


class DirichletCategorical:
    """z of a Dirichlet, and counts of n symbols that have the probabilities z."""

    def __init__(self, concentration: Tensor, n: int) -> None:
        self.concentration, self.n = concentration, n

    def prior(self) -> Dirichlet:
        """p(z)."""
        return Dirichlet(self.concentration)

    def posterior(self, x: Tensor) -> Dirichlet:
        """The exact posterior, which is conjugate."""
        return Dirichlet(self.concentration + x)

    def likelihood(self, z: Tensor) -> Multinomial:
        """p(x|z)."""
        return Multinomial(self.n, probs=z)


def categorical_case() -> Case:
    """Twelve symbols of four kinds: all 455 counts can be listed."""
    n, a = 12, np.array([0.7, 1.0, 1.5, 2.0])
    counts = np.array([c for c in product(range(n + 1), repeat=len(a)) if sum(c) == n])
    log_p = (
        gammaln(n + 1)
        - gammaln(counts + 1).sum(1)
        + gammaln(a.sum())
        - gammaln(a.sum() + n)
        + (gammaln(a + counts) - gammaln(a)).sum(1)
    )
    after = a + counts
    kl = (
        gammaln(after.sum(1)) - gammaln(a.sum()) + (gammaln(a) - gammaln(after)).sum(1)
        + (counts * (psi(after) - psi(after.sum(1, keepdims=True)))).sum(1)
    )  # fmt: skip
    p = np.exp(log_p)
    model = DirichletCategorical(torch.as_tensor(a), n)

    def draw(n_rows: int, generator: torch.Generator) -> np.ndarray:
        return counts[
            torch.multinomial(torch.as_tensor(p), n_rows, replacement=True, generator=generator)
        ].astype(float)

    def exact(_: np.ndarray) -> dict[str, float]:
        return {
            "nll_nats": -float(p @ log_p),
            "kl_nats": float(p @ kl),
            "mutual_information_nats": float(p @ kl),
        }

    return Case("conjugate categorical", model, draw, exact)


def cases() -> list[Case]:
    """All cases."""
    gains = torch.linspace(0.2, 0.9, 16, dtype=torch.double)
    return [
        linear_case("linear Gaussian VAE, 16 units", gains, 32),
        linear_case("the same, posterior 30% too wide", gains, 32, widened=1.3),
        linear_case("the same, dead encoder", gains, 32, awake=0.0),
        linear_case("collapsed: the same, decoder of no weight", 0 * gains, 32),
        ppca_case(),
        mixture_case(),
        categorical_case(),
    ]


def errors_of(case: Case, seed: int, thorough: bool) -> Iterator[tuple[str, float, float, bool]]:
    """Of a draw of data: the name of each estimate, the exact value, its error, and whether its 95%
    interval covers it."""
    rows = case.draw(N_ROWS, torch.Generator().manual_seed(seed))
    estimates = diagnose(case.model, rows, thorough=thorough, verbose=False).estimates
    if (
        estimates["fisher_divergence"] is not None
    ):  # whose draws of z are the same in every diagnosis
        model = adapt_model(case.model).model
        estimates["fisher_divergence"] = relative_fisher_divergence(
            model, rows.astype(np.float32), seed=seed
        )
    for name, exact in case.exact(rows.astype(np.float32).astype(float)).items():
        estimate = estimates.get(name)
        if estimate is not None:
            error = estimate.value - exact
            # What is exact has no error to be covered, but for rounding.
            yield (
                name,
                exact,
                error,
                abs(error) <= WIDTH * np.nan_to_num(estimate.standard_error) + 1e-6,
            )


def posterior_error(weight: Tensor, model: Any, seed: int) -> float:
    """KL between posteriors of x = W z + noise that were refined, and the exact ones, mean over
    rows, in nats."""
    rows = draw_linear(weight, N_REFINED, torch.Generator().manual_seed(seed))
    found = refine(adapt_model(model).model, rows)
    precision = torch.eye(weight.shape[1], dtype=torch.double) + weight.T @ weight
    gaps = (
        torch.as_tensor(found.means)
        - torch.as_tensor(rows) @ torch.linalg.solve(precision, weight.T).T
    )
    variances = torch.as_tensor(found.variances)
    kl = (
        (variances * precision.diagonal() - 1 - variances.log()).sum(1)
        + torch.einsum("nk,kl,nl->n", gaps, precision, gaps)
        - torch.logdet(precision)
    )
    return 0.5 * float(kl.mean())


def posterior_cases() -> Iterator[tuple[str, Tensor, Any, float]]:
    """Name, W, model, and the KL from the exact posterior that the nearest diagonal Gaussian
    has."""
    model, weight = linear_vae(torch.linspace(0.2, 0.9, 16, dtype=torch.double), 32, 0, awake=0.0)
    yield "linear Gaussian VAE, 16 units, dead encoder, refined", weight, model, 0.0
    ppca = mean_field()
    weight = torch.as_tensor(ppca.weight)
    precision = torch.eye(2, dtype=torch.double) + weight.T @ weight
    yield (
        "probabilistic PCA, refined",
        weight,
        ppca,
        0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision)),
    )


STATES = (
    "healthy",
    "partly collapsed",
    "collapsed in the model",
    "collapsed in inference",
    "prior mismatch",
)


def model_of_state(state: str, seed: int) -> tuple[Any, np.ndarray, list[int]]:
    """A linear VAE of random size in a known state, data, and the units that the data do not
    move."""
    generator = np.random.default_rng(seed)
    n_units = int(generator.integers(2, 17))
    gains = torch.as_tensor(
        generator.uniform(0.3, 2.0, n_units)
    )  # 8% to 80% of a unit's variance comes from the data
    dead = []
    if state == "collapsed in the model":
        gains, dead = 0 * gains, list(range(n_units))
    if state == "partly collapsed":
        dead = sorted(
            generator.choice(n_units, int(generator.integers(1, n_units)), replace=False).tolist()
        )
        gains[dead] = 0
    if state == "collapsed in inference":
        dead = list(range(n_units))
    model, weight = linear_vae(
        gains, 2 * n_units, seed, awake=0.0 if state == "collapsed in inference" else 1.0
    )
    if (
        state == "collapsed in the model" and seed % 2
    ):  # an encoder that moves with the data all the same
        model.posterior.matrix.copy_(0.3 * randn(n_units, 2 * n_units, seed=seed))
        dead = []
    rows = draw_linear(weight, N_ROWS, torch.Generator().manual_seed(seed))
    if (
        state == "prior mismatch"
    ):  # data in a place of which the prior knows nothing: three deviations away along a unit
        rows = (
            rows + (3 * (1 + gains.square()) / gains).numpy()[0] * (weight[:, 0] / gains[0]).numpy()
        )
    return model, rows, dead


def _judged(state: str, seed: int) -> dict[str, Any]:
    model, rows, dead = model_of_state(state, seed)
    report: Report = diagnose(model, rows, verbose=False)
    found = report.units.loc[~report.units["informative"], "unit"].tolist()
    return {
        "state": state,
        "seed": seed,
        "verdict": report.verdict,
        "right": report.verdict == state and found == dead,
    }


@app.command()
def run(
    output: Annotated[
        Path,
        typer.Argument(help="Rows are added to this file, so that a run that was stopped goes on."),
    ],
    n_draws: Annotated[int, typer.Option(help="Data sets for each case.")] = 1000,
    n_thorough: Annotated[int, typer.Option(help="Of these, with refinement and annealing.")] = 200,
    n_models: Annotated[int, typer.Option(help="Models of known state.")] = 200,
) -> None:
    """Diagnose, and write one JSON line for each case and estimate, and one for each state."""
    done = (
        {row["case"] for row in map(json.loads, output.read_text().splitlines())}
        if output.exists()
        else set()
    )
    torch.set_num_threads(1)
    for case in cases():
        if case.name in done:
            continue
        found: dict[str, list[tuple[float, float, bool]]] = {}
        for seed in range(n_draws):
            for name, exact, error, covered in errors_of(case, seed, thorough=seed < n_thorough):
                found.setdefault(name, []).append((exact, error, covered))
        for name, values in found.items():
            exact, errors, covered = map(np.array, zip(*values, strict=True))
            _write(
                output,
                case=case.name,
                estimate=name,
                exact=float(exact.mean().round(12)),
                mean_error=float(errors.mean()),
                rms_error=float(np.sqrt(np.square(errors).mean())),
                coverage=float(covered.mean()),
                n_draws=len(values),
                n_rows=N_ROWS,
            )
    for name, weight, model, exact_kl in posterior_cases():
        if name not in done:
            errors = np.array(
                [
                    posterior_error(weight, model, seed) - exact_kl
                    for seed in range(N_POSTERIOR_DRAWS)
                ]
            )
            _write(
                output,
                case=name,
                estimate="posterior",
                exact=exact_kl,
                mean_error=float(errors.mean()),
                rms_error=float(np.sqrt(np.square(errors).mean())),
                coverage=None,
                n_draws=len(errors),
                n_rows=N_REFINED,
            )
    if n_models and "verdicts" not in done:
        judged = [
            _judged(state, seed) for seed in range(n_models // len(STATES)) for state in STATES
        ]
        for state in STATES:
            rows = [row for row in judged if row["state"] == state]
            wrong = [f"{row['seed']}: {row['verdict']}" for row in rows if not row["right"]]
            _write(output, case="verdicts", estimate=state, n_draws=len(rows), wrong=wrong)


def _write(output: Path, **row: Any) -> None:
    with output.open("a") as file:
        file.write(json.dumps({**row, **provenance()}) + "\n")
    print_row(**row)


@app.command()
def table(results: Annotated[Path, typer.Argument(help="What `run` has written.")]) -> None:
    """Print the tables of the documentation."""
    rows = pd.DataFrame(map(json.loads, results.read_text().splitlines()))
    numbers, verdicts = rows[rows["case"] != "verdicts"], rows[rows["case"] == "verdicts"]
    typer.echo(
        "| Model | Estimate | Exact | Mean error | RMS error | Coverage of the 95% interval | "
        "Draws |"
    )
    typer.echo("|---|---|---:|---:|---:|---:|---:|")
    for row in numbers.itertuples():
        typer.echo(
            f"| {row.case} | `{row.estimate}` | {row.exact:.4g} | {row.mean_error:+.4f} | "
            f"{row.rms_error:.4f} | "
            f"{'' if pd.isna(row.coverage) else f'{row.coverage:.1%}'} | {row.n_draws:,} |"
        )
    typer.echo("\n| State of the model | Models | Wrong verdicts |\n|---|---:|---:|")
    for row in verdicts.itertuples():
        typer.echo(f"| {row.estimate} | {row.n_draws} | {len(row.wrong)} |")


if __name__ == "__main__":
    app()
