"""How alike are two sets of states of the same tokens? Nothing is fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from ground_probe.capture import Trace
from ground_probe.errors import InputError
from ground_probe.metrics import as_array

States = Float[np.ndarray, "tokens dim"]


def linear_cka(
    x: Float[np.ndarray, "tokens dim_x"],
    y: Float[np.ndarray, "tokens dim_y"],
    unbiased: bool = True,
) -> float:
    """Linear centered kernel alignment: 1 for states that differ by a rotation and a scale.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the Gram matrices K = x xᵀ and L = y yᵀ. The plain
    form (Kornblith et al. 2019, arXiv 1905.00414) takes tr(K H L H) for HSIC and is near 1 for
    *any* two states of more dimensions than tokens. So the default is the unbiased estimate of Song
    et al. 2012 (JMLR 13, eq. 5), as for minibatches in Nguyen et al. 2021 (arXiv 2010.15327): about
    0, and as often below it, for states that have nothing in common.

    Args:
        x, y: rows are the same tokens in the same order.
        unbiased: whether HSIC is estimated without bias.

    Raises:
        InputError: other numbers of tokens, fewer than four, or states that do not vary.

    >>> rng = np.random.default_rng(0)
    >>> x, other = rng.normal(size=(2, 60, 200))
    >>> rotation, _ = np.linalg.qr(rng.normal(size=(200, 200)))
    >>> round(linear_cka(x, 3 * x @ rotation), 6)
    1.0
    >>> linear_cka(x, other, unbiased=False) > 0.7 > 0.1 > abs(linear_cka(x, other))
    True
    """
    x, y = _paired(x, y)
    hsic = _unbiased_hsic if unbiased else _hsic
    scale = hsic(x, x) * hsic(y, y)
    if not scale > 0:
        raise InputError("states that are the same at every token have no alignment with others")
    return float(hsic(x, y) / scale**0.5)


def rsa(
    x: Float[np.ndarray, "tokens dim_x"],
    y: Float[np.ndarray, "tokens dim_y"],
    metric: str = "correlation",
) -> float:
    """Representational similarity: do two states set the same tokens apart?

    Spearman's correlation of the distances among the rows of x with those among the rows of y
    (Kriegeskorte et al. 2008, doi 10.3389/neuro.06.004.2008). It takes tokens² / 2 distances: keep
    some hundred tokens.

    Args:
        x, y: rows are the same tokens in the same order.
        metric: of the distances, any of `scipy.spatial.distance.pdist`.

    Raises:
        InputError: other numbers of tokens, or fewer than four.

    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> round(rsa(x, 2 * x), 6), rsa(x, x, "cosine") > rsa(x, x[::-1])
    (1.0, True)
    """
    x, y = _paired(x, y)
    return float(spearmanr(pdist(x, metric), pdist(y, metric)).statistic)


def similarity_table(
    traces: Sequence[Trace],
    others: Sequence[Trace] | None = None,
    measure: Callable[[States, States], float] = linear_cka,
) -> pd.DataFrame:
    """Every site of some traces against every site of the same, or of other traces.

    ```python
    gp.similarity_table(traces)  # CKA of all blocks with all blocks
    ```

    The tokens of all traces stand below each other, so that the measure sees differences between
    images as well as within them. Sites of as many tokens are compared, the rest is NaN.

    Args:
        traces: of the same editor, a trace an image.
        others: of another editor, seed, instruction or step, of the same images in the same order.
        measure: `linear_cka`, `rsa` or any function of two arrays of states.

    Returns:
        a row for each (block, step, stream) of `traces`, a column for each of `others`.

    Raises:
        InputError: no traces, or other numbers of them.
    """
    traces, others = list(traces), list(traces if others is None else others)
    if not traces or len(traces) != len(others):
        raise InputError(f"{len(traces)} and {len(others)} traces: give one of each image in both")
    rows, columns = map(_stacked, (traces, others))
    values = [
        [measure(x, y) if len(x) == len(y) else np.nan for y in columns.values()]
        for x in rows.values()
    ]
    names = ("block", "step", "stream")
    return pd.DataFrame(
        values,
        index=pd.MultiIndex.from_tuples(rows, names=names),
        columns=pd.MultiIndex.from_tuples(columns, names=names),
    )


def _stacked(traces: Sequence[Trace]) -> dict[tuple, States]:
    """The conditional states of every site that all traces have, token below token."""
    sites = [site for site in traces[0].hidden if len(site) == 3]
    shared = [site for site in sites if all(site in trace.hidden for trace in traces)]
    if not shared:
        raise InputError("the traces have no (block, step, stream) in common")
    return {
        site: np.concatenate([as_array(trace.hidden[site]) for trace in traces]) for site in shared
    }


def _paired(x: States, y: States) -> tuple[States, States]:
    x, y = (np.asarray(as_array(states), dtype=np.float64) for states in (x, y))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 4:
        raise InputError(
            f"states of the shapes {x.shape} and {y.shape}: give (tokens, dim) of the same four or "
            "more tokens"
        )
    return x - x.mean(0), y - y.mean(0)


def _hsic(x: States, y: States) -> float:
    """tr(K H L H) of centered states: |xᵀy|², without a Gram matrix."""
    return float(np.square(x.T @ y).sum())


def _unbiased_hsic(x: States, y: States) -> float:
    """[tr(K̃ L̃) + 1ᵀK̃1 · 1ᵀL̃1 / (n-1)(n-2) - 2 · 1ᵀK̃L̃1 / (n-2)] / n(n-3), diagonals at 0.

    Rows of the Gram matrix of centered states sum to 0, and without their diagonals a to -a.
    """
    n, a, b = len(x), np.square(x).sum(1), np.square(y).sum(1)
    both, total = a @ b, a.sum() * b.sum() / ((n - 1) * (n - 2))
    return float((_hsic(x, y) - both + total - 2 * both / (n - 2)) / (n * (n - 3)))
