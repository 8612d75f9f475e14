"""Non-negative least squares against scipy's and against its own optimality conditions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls as scipy_nnls
from torch import Tensor

from sith_hf.errors import InputError
from sith_hf.pursuit.nnls import nnls

repeatable = settings(deadline=None, derandomize=True, max_examples=25)

KINDS = ("general", "positive", "close", "repeated", "low rank", "zero columns", "scaled", "exact")


def problem(kind: str, count: int, size: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Columns as rows ``[N, K, P]`` and targets ``[N, P]``."""
    rng = np.random.default_rng(seed)
    a, x = rng.standard_normal((count, size, width)), rng.standard_normal((count, width))
    match kind:
        case "positive":
            a = np.abs(a)
        case "close":
            a = a[:, :1] + 1e-5 * a
        case "repeated":
            a = a[:, rng.integers(0, (size + 1) // 2, size)]
        case "low rank":
            a = a @ rng.standard_normal((width, 3)) @ rng.standard_normal((3, width))
        case "zero columns":
            a[:, ::2] = 0
        case "scaled":
            a *= 10 ** rng.uniform(-6, 6, (count, size, 1))
        case "exact":
            x = np.einsum("nk,nkp->np", rng.random((count, size)) * (rng.random((count, size)) < 0.5), a)
    return torch.from_numpy(a), torch.from_numpy(x)


def solve(a: Tensor, x: Tensor, start: Tensor | None = None) -> Tensor:
    return nnls(a @ a.mT, (a @ x.unsqueeze(2)).squeeze(2), start)


def residual(a: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return x - (weight.unsqueeze(1) @ a).squeeze(1)


problems = st.tuples(
    st.sampled_from(KINDS), st.integers(1, 6), st.integers(1, 50), st.integers(3, 60), st.integers(0, 2**32 - 1)
)


@repeatable
@given(problems)
def test_residual_is_that_of_scipy(shape: tuple[str, int, int, int, int]) -> None:
    a, x = problem(*shape)
    ours = torch.linalg.vector_norm(residual(a, x, solve(a, x)), dim=1)
    pairs = zip(a, x, strict=True)
    theirs = [scipy_nnls(columns.T.numpy(), target.numpy(), maxiter=5000)[1] for columns, target in pairs]
    scale = torch.linalg.vector_norm(x, dim=1)
    assert ((ours - torch.tensor(theirs, dtype=torch.float64)).abs() <= 1e-9 * scale + 1e-12).all()


@repeatable
@given(problems)
def test_weights_are_optimal(shape: tuple[str, int, int, int, int]) -> None:
    a, x = problem(*shape)
    weight = solve(a, x)
    length = torch.linalg.vector_norm(a, dim=2)
    gradient = (a @ residual(a, x, weight).unsqueeze(2)).squeeze(2) / length.clamp(min=1e-30)
    scale = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    assert (weight >= 0).all()
    assert (gradient <= 1e-10 * scale + 1e-12).all()
    assert ((gradient * weight * length).abs() <= 1e-8 * scale.square() + 1e-12).all()


@pytest.mark.parametrize("size", [1, 2, 5, 13, 50])
def test_weights_are_those_of_scipy_for_independent_columns(size: int) -> None:
    a, x = problem("general", 30, size, 64, size)
    pairs = zip(a, x, strict=True)
    theirs = np.stack([scipy_nnls(columns.T.numpy(), target.numpy())[0] for columns, target in pairs])
    np.testing.assert_allclose(solve(a, x).numpy(), theirs, atol=1e-10)


def test_the_constraint_is_what_makes_it_hard() -> None:
    # Negative control: without the constraint the same problems have negative weights and smaller residuals.
    a, x = problem("general", 30, 13, 64, 0)
    free = torch.linalg.lstsq(a.mT, x.unsqueeze(2)).solution.squeeze(2)
    assert (free < 0).any(1).all()
    assert (residual(a, x, free).norm(dim=1) < residual(a, x, solve(a, x)).norm(dim=1) - 1e-6).all()


@repeatable
@given(problems)
def test_start_does_not_change_the_minimum(shape: tuple[str, int, int, int, int]) -> None:
    a, x = problem(*shape)
    start = torch.rand(a.shape[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cold, warm = residual(a, x, solve(a, x)), residual(a, x, solve(a, x, start))
    torch.testing.assert_close(cold, warm, atol=1e-7 * float(x.abs().max()), rtol=0)


@repeatable
@given(problems)
def test_a_problem_does_not_feel_its_batch(shape: tuple[str, int, int, int, int]) -> None:
    a, x = problem(*shape)
    alone = torch.cat([solve(a[row : row + 1], x[row : row + 1]) for row in range(len(a))])
    torch.testing.assert_close(
        residual(a, x, solve(a, x)), residual(a, x, alone), atol=1e-9 * float(x.abs().max()), rtol=0
    )


def test_of_equal_columns_the_first_carries_the_weight() -> None:
    a = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    assert torch.equal(solve(a, torch.tensor([[2.0, 3.0]]).double()), torch.tensor([[2.0, 3.0, 0.0, 0.0]]).double())


def test_nothing_to_fit() -> None:
    a, x = problem("general", 4, 6, 10, 0)
    assert torch.equal(solve(a, torch.zeros_like(x)), torch.zeros(4, 6, dtype=torch.float64))
    assert solve(a[:0], x[:0]).shape == (0, 6)
    assert torch.equal(solve(torch.zeros_like(a), x), torch.zeros(4, 6, dtype=torch.float64))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    gram, rhs = torch.eye(2, dtype=torch.float64).expand(3, 2, 2), torch.ones(3, 2, dtype=torch.float64)
    assert torch.equal(nnls(gram, rhs), rhs)  # the control
    for pair in ((gram * bad, rhs), (gram, rhs * bad)):
        with pytest.raises(InputError, match="must be finite"):
            nnls(*pair)
