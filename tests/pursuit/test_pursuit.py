"""Sparse coding: properties for every input, and equality with a literal Method, sec. 4."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard
from scipy.optimize import nnls as scipy_nnls
from torch import Tensor

from sith_hf.errors import InputError, MissingExtra
from sith_hf.pursuit import build_index
from sith_hf.pursuit.methods import METHODS
from sith_hf.pursuit.pursuit import Pursuit, SparseCode
from sith_hf.pursuit.search import AtomSearch

repeatable = settings(deadline=None, derandomize=True, max_examples=25)

GREEDY = ("comp", "omp", "mp", "top-k")


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def problems(draw: st.DrawFn, ties: bool = False, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, int]:
    """Unit vectors, unit atoms and K; with ``ties``, among them equal atoms and atoms equal but for rounding."""
    seed, width = draw(st.integers(0, 2**32 - 1)), draw(st.integers(2, 40))
    sparsity = draw(st.integers(1, 6))
    count = draw(st.integers(max(2, sparsity), 150))
    dtype = dtype or draw(st.sampled_from([torch.float32, torch.float64]))
    atoms = unit(gaussian(seed, count, width)).to(dtype)
    if ties:
        atoms[count // 2 :] = atoms[: count - count // 2].clone()
        atoms[-(count // 4 + 1) :] += 1e-7 * gaussian(seed + 1, count // 4 + 1, width).to(dtype)
    return unit(gaussian(seed + 2, draw(st.integers(1, 8)), width)).to(dtype), atoms, sparsity


def literal(x: Tensor, atoms: Tensor, sparsity: int, coherence: float) -> tuple[list[int], np.ndarray, float]:
    """COMP of one vector as it is written; with it, the smallest lead that a chosen atom had over the next."""
    vector, dictionary = x.double().numpy(), atoms.double().numpy()
    chosen: list[int] = []
    residual, weight, lead = vector, np.zeros(0), np.inf
    for _ in range(sparsity):
        score = dictionary @ residual
        if chosen:
            score += coherence * (dictionary @ dictionary[chosen].T).mean(1)
            score[chosen] = -np.inf
        order = np.argsort(-score)
        if len(order) > 1:
            lead = min(lead, score[order[0]] - score[order[1]])
        chosen.append(int(order[0]))
        weight, _ = scipy_nnls(dictionary[chosen].T, vector)
        residual = vector - weight @ dictionary[chosen]
    return chosen, weight, lead


@repeatable
@given(problems(), st.sampled_from([0.0, 0.3, 1.0]))
def test_comp_is_the_literal_comp(problem: tuple[Tensor, Tensor, int], coherence: float) -> None:
    x, atoms, sparsity = problem
    code = Pursuit(sparsity=sparsity, coherence_weight=coherence)(x, atoms)
    tolerance = 1e-6 if x.dtype == torch.float32 else 1e-10
    for row, vector in enumerate(x):
        chosen, weight, lead = literal(vector, atoms, sparsity, coherence)
        if lead > 1e-6:
            assert set(code.index[row].tolist()) == set(chosen)
            rebuilt = torch.from_numpy(weight) @ atoms[chosen].double()
            ours = SparseCode(code.index[[row]], code.weight[[row]]).reconstruct(atoms)[0]
            torch.testing.assert_close(ours.double(), rebuilt, atol=tolerance, rtol=0)
            # Weights of atoms that depend on one another are not unique.
            gram = atoms[chosen].double() @ atoms[chosen].double().T
            if torch.linalg.eigvalsh(gram)[0] > 0.01:
                np.testing.assert_allclose(code.weight[row].numpy(), np.sort(weight)[::-1], atol=10 * tolerance)


def test_coherence_and_refit_matter() -> None:
    # Negative control for the test above: another lambda, or another method, is not the literal COMP.
    x, atoms = unit(gaussian(0, 40, 24)), unit(gaussian(1, 400, 24))
    expected = [set(literal(vector, atoms, 5, 0.3)[0]) for vector in x]
    for other in (Pursuit(coherence_weight=0.0), Pursuit(coherence_weight=1.0), Pursuit("mp"), Pursuit("top-k")):
        assert [set(row) for row in other(x, atoms).index.tolist()] != expected
    assert [set(row) for row in Pursuit()(x, atoms).index.tolist()] == expected


@repeatable
@given(problems(ties=True), st.integers(1, 200), st.sampled_from(GREEDY))
def test_block_size_changes_nothing(problem: tuple[Tensor, Tensor, int], block_size: int, method: str) -> None:
    x, atoms, sparsity = problem
    whole, blocks = (Pursuit(method, sparsity, block_size=size)(x, atoms) for size in (None, block_size))
    assert torch.equal(whole.index, blocks.index)
    assert torch.equal(whole.weight, blocks.weight)


@repeatable
@given(problems(ties=True), st.sampled_from(GREEDY))
def test_batch_changes_nothing(problem: tuple[Tensor, Tensor, int], method: str) -> None:
    x, atoms, sparsity = problem
    together = Pursuit(method, sparsity)(x, atoms)
    alone = [Pursuit(method, sparsity)(row, atoms) for row in x.split(1)]
    for row, code in enumerate(alone):
        assert sorted(code.index[0].tolist()) == sorted(together.index[row].tolist())
        torch.testing.assert_close(code.weight[0], together.weight[row], atol=1e-6, rtol=0)


def support(code: SparseCode) -> Tensor:
    return code.index.sort(1).values


def near_ties(seed: int) -> tuple[Tensor, Tensor]:
    """Float32 atoms so alike that a float32 product cannot order them."""
    atoms = unit(gaussian(seed, 1, 300) + 3e-7 * gaussian(seed + 1, 500, 300)).float()
    return unit(gaussian(seed + 2, 64, 300)).float(), atoms


@pytest.mark.parametrize("block_size", [None, 1, 7, 64, 499])
def test_near_ties_are_decided_in_float64(block_size: int | None) -> None:
    x, atoms = near_ties(0)
    exact = unit(x.double()) @ atoms.double().T
    index = Pursuit(sparsity=1, block_size=block_size)(x, atoms).index[:, 0]
    assert torch.equal(index, exact.argmax(1))
    # Negative control: on these atoms the plain float32 product chooses others.
    assert not torch.equal((x @ atoms.T).argmax(1), exact.argmax(1))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_matmul_precision_changes_nothing(precision: str) -> None:
    atoms = unit(gaussian(0, 1, 96) + 0.1 * gaussian(1, 3000, 96)).float()
    x = unit(gaussian(2, 64, 96)).float()
    expected = [Pursuit(method)(x, atoms).index for method in GREEDY]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = [Pursuit(method)(x, atoms).index for method in GREEDY]
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(torch.equal(left, right) for left, right in zip(expected, found, strict=True))


def test_the_rounding_bound_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Negative control for the two tests above: with products as coarse as bfloat16's and no allowance for it,
    # other atoms are chosen.
    atoms = unit(gaussian(0, 1, 96) + 0.1 * gaussian(1, 3000, 96)).float()
    x = unit(gaussian(2, 64, 96)).float()
    expected = Pursuit()(x, atoms).index
    product = torch.matmul

    def coarse(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
        return out.copy_(product(left.bfloat16(), right.bfloat16()))

    monkeypatch.setattr(torch, "matmul", coarse)
    assert not torch.equal(Pursuit()(x, atoms).index, expected)
    monkeypatch.setattr("sith_hf.pursuit.search.reduced_precision", lambda: True)
    monkeypatch.setattr(
        "sith_hf.pursuit.search.REDUCED", 2**-6
    )  # bfloat16 results are rounded too, unlike a real kernel's
    assert torch.equal(Pursuit()(x, atoms).index, expected)


def test_autocast_changes_nothing() -> None:
    x, atoms = unit(gaussian(0, 16, 32)).float(), unit(gaussian(1, 500, 32)).float()
    expected = Pursuit()(x, atoms)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Pursuit()(x, atoms)
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.weight, expected.weight)


@repeatable
@given(problems(dtype=torch.float64), st.sampled_from(GREEDY), st.randoms(use_true_random=False))
def test_order_of_the_dictionary_changes_nothing(problem: tuple[Tensor, Tensor, int], method: str, random) -> None:
    x, atoms, sparsity = problem
    places = list(range(len(atoms)))
    random.shuffle(places)
    order = torch.tensor(places)
    straight, shuffled = Pursuit(method, sparsity)(x, atoms), Pursuit(method, sparsity)(x, atoms[order])
    named = torch.where(shuffled.index < 0, -1, order[shuffled.index.clamp(min=0)])
    # A vector that is explained to the last bit leaves ties, and those go by index.
    clear = (x - straight.reconstruct(atoms)).norm(dim=1) > 1e-9
    assert torch.equal(support(straight)[clear], named.sort(1).values[clear])


@repeatable
@given(problems(), st.sampled_from(GREEDY), st.integers(-20, 20))
def test_length_of_x_scales_the_weights(problem: tuple[Tensor, Tensor, int], method: str, exponent: int) -> None:
    x, atoms, sparsity = problem
    once, scaled = Pursuit(method, sparsity)(x, atoms), Pursuit(method, sparsity)(x * 2.0**exponent, atoms)
    assert torch.equal(once.index, scaled.index)
    assert torch.equal(once.weight * 2.0**exponent, scaled.weight)


def test_extreme_lengths() -> None:
    atoms = unit(gaussian(0, 50, 8))
    x = unit(gaussian(1, 4, 8))
    expected = Pursuit()(x, atoms)
    for length in (1e-300, 1e-160, 1e160, 1e300):
        code = Pursuit()(x * length, atoms)
        assert torch.equal(code.index, expected.index)
        torch.testing.assert_close(code.weight / length, expected.weight)


@repeatable
@given(problems(dtype=torch.float64), st.sampled_from(["comp", "omp", "top-k", "lasso"]))
def test_weights_are_optimal(problem: tuple[Tensor, Tensor, int], method: str) -> None:
    x, atoms, sparsity = problem
    code = Pursuit(method, sparsity)(x, atoms)
    residual = x - code.reconstruct(atoms)
    gradient = (atoms[code.index.clamp(min=0)] @ residual.unsqueeze(2)).squeeze(2).masked_fill(code.index < 0, 0.0)
    assert (code.weight >= 0).all()
    assert (gradient <= 1e-8).all()
    assert ((gradient * code.weight).abs() <= 1e-8).all()


@repeatable
@given(problems(ties=True), st.sampled_from(list(METHODS)))
def test_what_a_code_is(problem: tuple[Tensor, Tensor, int], method: str) -> None:
    x, atoms, sparsity = problem
    code = Pursuit(method, sparsity)(x, atoms)
    assert code.index.shape == code.weight.shape == (len(x), sparsity)
    assert code.index.dtype == torch.long
    assert code.weight.dtype == x.dtype
    for index, weight in zip(code.index.tolist(), code.weight.tolist(), strict=True):
        chosen = [atom for atom in index if atom >= 0]
        assert index == chosen + [-1] * (sparsity - len(chosen))
        assert len(set(chosen)) == len(chosen)
        assert all(value == 0 for value in weight[len(chosen) :])
        pairs = [(-value, atom) for value, atom in zip(weight, chosen, strict=False)]
        assert pairs == sorted(pairs)
        if method in ("comp", "omp", "top-k"):
            assert len(chosen) == sparsity


@repeatable
@given(problems(dtype=torch.float64), st.sampled_from(GREEDY))
def test_another_atom_never_makes_it_worse(problem: tuple[Tensor, Tensor, int], method: str) -> None:
    x, atoms, sparsity = problem
    lengths = [(x - Pursuit(method, k)(x, atoms).reconstruct(atoms)).norm(dim=1) for k in range(1, sparsity + 1)]
    for more, fewer in zip(lengths[1:], lengths[:-1], strict=True):
        assert (more <= fewer + 1e-12).all()
    assert (lengths[0] <= x.norm(dim=1) + 1e-12).all()


def incoherent() -> Tensor:
    """Spikes and signs in 64 dimensions: no two atoms are closer than 1/8, so OMP recovers up to 4 (Tropp, 2004)."""
    return torch.cat([torch.eye(64), torch.from_numpy(hadamard(64)) / 8]).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@repeatable
@given(seed=st.integers(0, 2**32 - 1), sparsity=st.integers(1, 4))
def test_planted_combination_is_recovered(dtype: torch.dtype, seed: int, sparsity: int) -> None:
    atoms = incoherent()
    rng = np.random.default_rng(seed)
    planted = torch.from_numpy(rng.choice(len(atoms), sparsity, replace=False))
    weight = torch.from_numpy(rng.uniform(0.2, 1.0, sparsity))
    x = (weight @ atoms[planted]).unsqueeze(0).to(dtype)
    for method in ("omp", "lasso"):
        code = Pursuit(method, sparsity)(x, atoms.to(dtype))
        assert set(code.index[0].tolist()) == set(planted.tolist())
        expected = weight.sort(descending=True).values.to(dtype)
        torch.testing.assert_close(code.weight[0], expected, atol=1e-6 if dtype == torch.float32 else 1e-12, rtol=0)


def test_a_negative_combination_is_not() -> None:
    # Negative control: weights are non-negative, so what was planted with a minus sign stays in the residual.
    atoms = incoherent()
    x = (atoms[3] - atoms[70]).unsqueeze(0)
    assert (x - Pursuit("omp", 4)(x, atoms).reconstruct(atoms)).norm() > 0.5


def test_explained_to_the_end() -> None:
    atoms = incoherent()
    code = Pursuit("omp", 4)(atoms[[7, 70]].float(), atoms.float())
    # Past the perfect explanation all scores tie: lowest indices, weights of exactly zero.
    assert code.index.tolist() == [[7, 0, 1, 2], [70, 0, 1, 2]]
    assert code.weight.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 2


@repeatable
@given(problems(ties=True))
def test_lambda_zero_is_omp(problem: tuple[Tensor, Tensor, int]) -> None:
    x, atoms, sparsity = problem
    comp, omp = (
        Pursuit("comp", sparsity, coherence_weight=0.0)(x, atoms),
        Pursuit("omp", sparsity, coherence_weight=0.7)(x, atoms),
    )
    assert torch.equal(comp.index, omp.index)
    assert torch.equal(comp.weight, omp.weight)


def test_equal_atoms_are_taken_in_order() -> None:
    for dtype, block_size, count in ((torch.float32, None, 100), (torch.float64, 1, 5), (torch.float32, 3, 100)):
        atoms = unit(gaussian(0, 1, 16)).to(dtype).repeat(count, 1)
        x = torch.cat([atoms[:1] + 0.1 * gaussian(1, 20, 16).to(dtype), -atoms[:1], gaussian(2, 20, 16).to(dtype)])
        for method in ("comp", "omp", "top-k"):
            code = Pursuit(method, block_size=block_size)(x, atoms)
            assert (code.index == torch.arange(5)).all(), (method, dtype, block_size)
        code = Pursuit("mp", block_size=block_size)(x[:21], atoms)
        assert code.index.tolist() == [[0, -1, -1, -1, -1]] * 20 + [[-1] * 5], (dtype, block_size)


def test_more_ties_than_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, x = unit(gaussian(0, 4, 8)).repeat(60, 1).float(), unit(gaussian(1, 12, 8)).float()
    expected = [Pursuit(method)(x, atoms) for method in GREEDY]
    monkeypatch.setattr("sith_hf.pursuit.search.PAIRS", 150)
    monkeypatch.setattr("sith_hf.pursuit.search.SCORES", 320)
    for cost in (0, 10**9):
        monkeypatch.setattr("sith_hf.pursuit.search.PAIR_COST", cost)
        for method, before in zip(GREEDY, expected, strict=True):
            assert torch.equal(Pursuit(method)(x, atoms).index, before.index)


def test_matching_pursuit_may_take_an_atom_again() -> None:
    half = 0.5**0.5
    atoms = torch.tensor([[1.0, 0.0], [half, half], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    code = Pursuit("mp", 4)(torch.tensor([[0.5, 1.0], [2.0, 0.0]], dtype=torch.float64), atoms)
    # The first vector takes atoms 1, 2, 1, 2, and their correlations add up; the second is done after one.
    assert code.index.tolist() == [[1, 2, -1, -1], [0, -1, -1, -1]]
    expected = torch.tensor([[1.75 * half, 0.375, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(code.weight, expected)


def test_lasso_is_the_lasso_of_the_whole_dictionary() -> None:
    lars_path_gram = pytest.importorskip("sklearn.linear_model").lars_path_gram
    # Atoms in clusters: the most similar ones crowd one side of x, so a pool of them alone would not do.
    atoms = unit(gaussian(0, 12, 24).repeat_interleave(30, 0) + 0.25 * gaussian(1, 360, 24))
    x = unit(gaussian(2, 30, 24))
    code = Pursuit("lasso", 4)(x, atoms)
    pooled = 0
    for row, vector in enumerate(x):
        products = (atoms @ vector).numpy()
        _, _, path = lars_path_gram(
            products, (atoms @ atoms.T).numpy(), n_samples=1, max_iter=40, method="lasso", positive=True
        )
        crowded = (path > 0).sum(0) > 4
        knot = int(crowded.argmax()) - 1
        support = set(np.flatnonzero(path[:, knot] > 0).tolist())
        assert {atom for atom in code.index[row].tolist() if atom >= 0} == support
        pooled += support <= set(np.argsort(-products)[:32].tolist())
    # Negative control: for some vectors the pool really had to grow.
    assert pooled < len(x)


def test_lasso_with_nothing_to_gain() -> None:
    pytest.importorskip("sklearn")
    atoms = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    code = Pursuit("lasso", 2)(torch.tensor([[-1.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 2.0, 0.0]]), atoms)
    assert code.index.tolist() == [[-1, -1], [-1, -1], [1, -1]]
    assert code.weight.tolist() == [[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]]


def test_lasso_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtra, match=r"sith-hf\[lasso\]"):
        Pursuit("lasso")(torch.ones(1, 8), unit(gaussian(0, 9, 8)).float())


def test_search_gives_the_same_as_asking_one_by_one() -> None:
    atoms = unit(gaussian(0, 40, 6).repeat(3, 1)).float()
    search = AtomSearch(build_index(atoms), 17)
    query = gaussian(1, 20, 6)
    index, score = search.best(query, 9)
    taken = torch.empty(20, 0, dtype=torch.long)
    for _ in range(9):
        taken = torch.cat([taken, search.best(query, exclude=taken)[0]], 1)
    assert torch.equal(index, taken)
    assert ((score[:, :-1] - score[:, 1:]) >= -1e-12).all()
    torch.testing.assert_close(score, (query @ atoms.double().T).gather(1, index))


def test_reconstruction_is_the_weighted_sum() -> None:
    atoms = unit(gaussian(0, 10, 4))
    code = SparseCode(torch.tensor([[3, 7], [2, -1]]), torch.tensor([[2.0, 1.0], [0.5, 0.0]]))
    expected = torch.stack([2 * atoms[3] + atoms[7], 0.5 * atoms[2]])
    torch.testing.assert_close(code.reconstruct(atoms), expected)
    with pytest.raises(InputError, match="index 7"):
        code.reconstruct(atoms[:7])


def test_progress_counts_every_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sith_hf.pursuit.pursuit.ROWS", 4)
    x, atoms = unit(gaussian(0, 10, 8)), unit(gaussian(1, 30, 8))
    seen: list[int] = []
    code = Pursuit()(x, atoms, progress=seen.append)
    assert seen == [4, 4, 2]
    monkeypatch.undo()
    assert torch.equal(code.index, Pursuit()(x, atoms).index)


def test_leaves_its_input_alone() -> None:
    atoms = unit(gaussian(0, 30, 8)).T.contiguous().T.requires_grad_()
    x = gaussian(1, 20, 8)[::2]
    before = x.clone(), atoms.detach().clone()
    for method in METHODS:
        code = Pursuit(method)(x, atoms)
        assert not code.weight.requires_grad
        assert len(Pursuit(method)(x[:0], atoms).index) == 0
    assert torch.equal(x, before[0])
    assert torch.equal(atoms.detach(), before[1])


def test_a_method_says_what_it_is() -> None:
    for name in METHODS:
        assert METHODS[name].title
        assert "SITH, sec. 4" in METHODS[name].source
        assert "SITH, sec. 4" in str(METHODS[name].run.__doc__)


X, ATOMS = unit(gaussian(0, 3, 8)), unit(gaussian(1, 6, 8))


@pytest.mark.parametrize(
    ("x", "atoms", "says"),
    [
        (X[0], ATOMS, r"\[N, P\]"),
        (X, ATOMS[0], r"\[N, P\]"),
        (X[:, :7], ATOMS, r"\[N, P\]"),
        (X.float(), ATOMS, "both"),
        (X.half(), ATOMS.half(), "both"),
        (X.long(), ATOMS.long(), "both"),
        (X.to("meta"), ATOMS, "device"),
        (X, ATOMS[:4], "needs at least 5"),
        (X, ATOMS[:0], "needs at least 5"),
        (X * torch.tensor([[1.0], [0.0], [1.0]]), ATOMS, r"x\[1\] is zero"),
        (X * torch.tensor([[1.0], [1.0], [torch.nan]]), ATOMS, r"x\[2\] is not finite"),
        (X / 0, ATOMS, r"x\[0\] is not finite"),
        (X, ATOMS.index_fill(0, torch.tensor(4), torch.nan), r"atoms\[4\] is not finite"),
        (X, ATOMS * 2, r"atoms\[0\] does not have unit length"),
        (X, ATOMS.index_fill(0, torch.tensor(5), 0.0), r"atoms\[5\] does not have unit length"),
    ],
)
def test_refuses_input(x: Tensor, atoms: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Pursuit()(x, atoms)


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"method": "COMP"}, "the methods are comp, omp, mp, top-k, lasso"),
        ({"sparsity": 0}, "sparsity"),
        ({"sparsity": 2.0}, "sparsity"),
        ({"sparsity": True}, "sparsity"),
        ({"coherence_weight": -0.1}, "coherence"),
        ({"coherence_weight": float("nan")}, "coherence"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_refuses_settings(settings_: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Pursuit(**settings_)
