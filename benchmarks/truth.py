"""`python -m benchmarks.truth run`: estimates of `diagnose` against exact values.

The models are those with closed forms.
"""

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
from uncollapse.measures.amortization_gap import refine
from uncollapse.measures.fisher import fisher_divergence_of_rows
from uncollapse.models import EnumeratedMixtureModel, VAEModel

app = typer.Typer(add_completion=False, no_args_is_help=True)
N_ROWS, N_REFINED, N_POSTERIOR_DRAWS = 500, 64, 20
# Half-width of the 95% interval of a normal error, in standard errors.
WIDTH = 1.96


@dataclass(frozen=True)
class Case:
    """A model with closed forms.

    Attributes:
        name: of the case.
        model: the diagnosed model.
        draw: returns rows, given their number and a generator.
        exact: returns exact values by the names of estimates, given rows; values of the population
            ignore the rows.
    """

    name: str
    model: Any
    draw: Callable[[int, torch.Generator], np.ndarray]
    exact: Callable[[np.ndarray], dict[str, float]]


class LinearDecoder(Decoder):
    """The decoder eta = W z."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, z: Tensor) -> Tensor:
        """Return W z."""
        return z @ self.weight.T

    @property
    def constant(self) -> float:
        """The smallest singular value of W."""
        return float(torch.linalg.svdvals(self.weight.detach()).min())

    def start_at(self, eta: Tensor) -> None:
        """Do nothing: the weight is given."""


class LinearPosterior(Posterior):
    """The posterior q(z|x) = N(M x, diag(s^2))."""

    def __init__(self, matrix: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.matrix, self.scale = nn.Parameter(matrix), nn.Parameter(scale)

    def forward(self, x: Tensor) -> Independent[Normal]:
        """Return q(z|x)."""
        mean = x @ self.matrix.T
        return Independent(Normal(mean, self.scale.expand_as(mean)), 1)


def randn(*shape: int, seed: int) -> Tensor:
    """Return standard normal draws from a seed."""
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def linear_vae(
    gains: Tensor, n_features: int, seed: int, widened: float = 1.0, awake: float = 1.0
) -> tuple[VAEModel, Tensor]:
    """Return the model x = W z + noise, and W.

    The columns of W are orthogonal, so that the exact posterior is a diagonal Gaussian.

    Args:
        gains: lengths of the columns.
        n_features: of x.
        seed: of their directions.
        widened: factor of the deviation of the exact posterior.
        awake: moves the encoder's posterior from the prior (0) to the exact one (1).
    """
    weight = torch.linalg.qr(randn(n_features, len(gains), seed=seed))[0] * gains
    precision = 1 + gains.square()
    matrix = awake * weight.T / precision[:, None]
    scale = widened * precision.rsqrt() if awake else torch.ones_like(gains)
    model = VAEModel(
        StandardNormal(len(gains)),
        LinearPosterior(matrix, scale),
        LinearDecoder(weight),
        Gaussian(1.0),
    )
    return model.double().requires_grad_(False).eval(), weight


def draw_linear(weight: Tensor, n: int, generator: torch.Generator) -> np.ndarray:
    """Return rows of x = W z + noise."""
    z, noise = (
        torch.randn(n, k, dtype=torch.double, generator=generator)
        for k in (weight.shape[1], len(weight))
    )
    return (z @ weight.T + noise).numpy()


def linear_case(
    name: str, gains: Tensor, n_features: int, widened: float = 1.0, awake: float = 1.0
) -> Case:
    """Return a linear Gaussian VAE, which has closed forms of all quantities."""
    model, weight = linear_vae(gains, n_features, 0, widened, awake)
    squares = gains.square()
    variances = widened**2 / (1 + squares) if awake else torch.ones_like(squares)
    spread = awake * squares / (1 + squares)  # Var E_q[z|x]
    entropy = PPCA(weight.numpy(), 1.0).marginal().entropy().item()
    kl = 0.5 * float((variances + spread - 1 - variances.log()).sum())
    to_prior = 0.5 * float((variances + spread - 1 - (variances + spread).log()).sum())
    # KL(q || p(z|x)), which refinement removes, with exact means or with means of 0.
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
    """PPCA with the diagonal Gaussian nearest to the posterior, which is no VAE of ours."""

    def posterior(self, x: Tensor) -> Normal:
        """Return q(z|x)."""
        exact = super().posterior(x)
        return Normal(exact.mean, exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt())


def mean_field() -> MeanField:
    """Return PPCA with two latents in five dimensions, as in W21's appendix."""
    return MeanField(randn(5, 2, seed=1).numpy(), 1.0)


def ppca_case() -> Case:
    """Return PPCA with two latents in five dimensions, as in W21's appendix."""
    model = mean_field()
    weight, covariance = torch.as_tensor(model.weight), model.marginal().covariance_matrix
    # The means at unit vectors are the rows of the matrix that maps x to its mean.
    q = model.posterior(torch.eye(5, dtype=torch.double))
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
    """Exact q(y|x) and q(z|x, y) of x = w z + noise in one dimension, with z from a mixture."""

    def __init__(self, weight: float, means: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.weight, self.means, self.scales = weight, means, scales

    def marginal(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of x given y."""
        return self.weight * self.means, (1 + (self.weight * self.scales).square()).sqrt()

    def forward(self, x: Tensor) -> MixtureSameFamily:
        """Return q(y, z|x)."""
        logits = Normal(*self.marginal()).log_prob(x).log_softmax(-1)
        precision = self.scales**-2 + self.weight**2
        means = (self.means / self.scales**2 + self.weight * x) / precision
        each = Independent(
            Normal(means[..., None], precision.rsqrt()[:, None].expand(*means.shape, 1)), 1
        )
        return MixtureSameFamily(Categorical(logits=logits), each)


def mixture_case() -> Case:
    """Return three components on a line, with entropies from integrals."""
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
        EnumeratedMixtureModel(prior, posterior, decoder, Gaussian(1.0))
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
        # The KL of the exact posterior is that of z and y together, and I(x; z, y) = I(x; z),
        # because y affects x through z alone.
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
    """Counts of n symbols with probabilities z, and a Dirichlet prior of z."""

    def __init__(self, concentration: Tensor, n: int) -> None:
        self.concentration, self.n = concentration, n

    def prior(self) -> Dirichlet:
        """Return p(z)."""
        return Dirichlet(self.concentration)

    def posterior(self, x: Tensor) -> Dirichlet:
        """Return the exact posterior, which is conjugate."""
        return Dirichlet(self.concentration + x)

    def likelihood(self, z: Tensor) -> Multinomial:
        """Return p(x|z)."""
        return Multinomial(self.n, probs=z)


def categorical_case() -> Case:
    """Return twelve symbols of four kinds, with all 455 counts listed."""
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
    """Return all cases."""
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
    """Yield the name, the exact value and the error of each estimate on a draw of data.

    The last item says whether the 95% interval covers the exact value.
    """
    rows = case.draw(N_ROWS, torch.Generator().manual_seed(seed))
    estimates = diagnose(case.model, rows, thorough=thorough, verbose=False).estimates
    # Diagnoses draw the same z for the Fisher divergence each time.
    if estimates["fisher_divergence"] is not None:
        model = adapt_model(case.model).model
        estimates["fisher_divergence"] = fisher_divergence_of_rows(
            model, rows.astype(np.float32), seed=seed
        )
    for name, exact in case.exact(rows.astype(np.float32).astype(float)).items():
        estimate = estimates.get(name)
        if estimate is not None:
            error = estimate.value - exact
            # Exact estimates have rounding errors only.
            limit = WIDTH * np.nan_to_num(estimate.standard_error) + 1e-6
            yield name, exact, error, abs(error) <= limit


def posterior_error(weight: Tensor, model: Any, seed: int) -> float:
    """Return the mean KL between refined and exact posteriors of x = W z + noise, in nats."""
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
    """Yield name, W, model, and KL of the nearest diagonal Gaussian to the exact posterior."""
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
    """Return a linear VAE of random size in a known state, data, and its uninformative units."""
    generator = np.random.default_rng(seed)
    n_units = int(generator.integers(2, 17))
    # 8% to 80% of a unit's variance comes from the data.
    gains = torch.as_tensor(generator.uniform(0.3, 2.0, n_units))
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
    # Every second encoder moves with the data nevertheless.
    if state == "collapsed in the model" and seed % 2:
        model.posterior.matrix.copy_(0.3 * randn(n_units, 2 * n_units, seed=seed))
        dead = []
    rows = draw_linear(weight, N_ROWS, torch.Generator().manual_seed(seed))
    # The data lie three deviations of the prior away, along one unit.
    if state == "prior mismatch":
        distance = (3 * (1 + gains.square()) / gains).numpy()[0]
        rows = rows + distance * (weight[:, 0] / gains[0]).numpy()
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
        typer.Argument(help="File that rows are appended to. An interrupted run resumes."),
    ],
    n_draws: Annotated[int, typer.Option(help="Data sets for each case.")] = 1000,
    n_thorough: Annotated[
        int, typer.Option(help="Number of these with refinement and annealing.")
    ] = 200,
    n_models: Annotated[int, typer.Option(help="Models of known state.")] = 200,
) -> None:
    """Write one JSON line for each case and estimate, and one for each state."""
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
def table(results: Annotated[Path, typer.Argument(help="Output of `run`.")]) -> None:
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
