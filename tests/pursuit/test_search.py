"""The int8 search: its bound holds for every input, and it chooses the atoms of a float64 search."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sith_hf.errors import InputError
from sith_hf.pursuit import build_index, int8, pursuit, search
from sith_hf.pursuit import index as index_module
from sith_hf.pursuit.atoms import CentredAtoms, SomeAtoms, TensorAtoms, as_atoms, centred, fixed_order_dot, total
from sith_hf.pursuit.index import DictionaryIndex
from sith_hf.pursuit.int8 import Int8Atoms, Rotation, int8_is_faster, round_atoms, round_queries
from sith_hf.pursuit.pursuit import Pursuit, SparseCode

repeatable = settings(deadline=None, derandomize=True, max_examples=25)

GREEDY = ("comp", "omp", "mp", "top-k")
KINDS = ("independent", "spiky", "near ties", "equal", "clusters", "grid")


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dictionary(kind: str, seed: int, count: int, width: int) -> Tensor:
    """Unit atoms, float64, of kinds that are hard in different ways."""
    rows = gaussian(seed, count, width)
    if kind == "spiky":
        rows[:, 0] *= 40
    elif kind == "near ties":
        rows = gaussian(seed + 1, 1, width) + 1e-4 * rows
    elif kind == "equal":
        rows = rows[: -(-count // 7)].repeat(7, 1)[:count]
    elif kind == "clusters":
        rows = gaussian(seed + 1, 5, width)[torch.arange(count) % 5] + 0.05 * rows
    elif kind == "grid":
        rows = rows.sign()
    return unit(rows)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    seed, width = draw(st.integers(0, 2**31)), draw(st.integers(2, 80))
    atoms = dictionary(draw(st.sampled_from(KINDS)), seed, draw(st.integers(8, 400)), width)
    x = unit(gaussian(seed + 9, draw(st.integers(1, 20)), width))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return x.to(dtype), atoms.to(dtype)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 for every dictionary, however small, in small blocks, however many candidates it keeps."""
    monkeypatch.setattr(index_module, "MIN_NUMBERS", 0)
    monkeypatch.setattr(index_module, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(index_module, "int8_is_faster", lambda device, threads: True)
    monkeypatch.setattr(int8, "BLOCK", 128)
    monkeypatch.setattr(search, "MAX_LEFT", 1)


def plainly(x: Tensor, atoms: Tensor, method: str = "comp", sparsity: int = 5) -> SparseCode:
    """The same pursuit without int8."""
    source = as_atoms(atoms)
    return Pursuit(method, sparsity)(x, DictionaryIndex(source, x.device, 1.01, None))


def same(left: SparseCode, right: SparseCode) -> bool:
    return torch.equal(left.index, right.index) and torch.equal(left.weight, right.weight)


# ---------------------------------------------------------------- the bound


@repeatable
@given(problems())
def test_no_rounded_product_misses_by_more_than_the_bound(problem: tuple[Tensor, Tensor]) -> None:
    x, atoms = problem[0].double(), problem[1]
    exact = x @ atoms.double().T
    for rotation in (None, Rotation.of(x.shape[1])):
        source = Int8Atoms(TensorAtoms(atoms), x.device, rotation, 128, ())
        queries = source.queries(x)
        for block in source.blocks():
            digits = queries.digits.long() @ block.digits.long().T
            rough = digits[: len(x), : block.stop - block.start] * (queries.scale * block.scale).unsqueeze(1)
            gap = (rough - exact[:, block.start : block.stop]).abs().amax(1)
            assert (gap <= queries.error_bound(block)).all()


def test_the_bound_is_nearly_reached() -> None:
    # Negative control: a query along what rounding took from an atom is missed by nearly as much as the bound says.
    atoms = unit(gaussian(0, 50, 96)).float()
    block = round_atoms(atoms, 0, 0.0)
    left = atoms.double() - block.scale * block.digits[:50, :96].double()
    worst = int(left.norm(dim=1).argmax())
    queries = round_queries(unit(left[[worst]]), atoms.device)
    product = queries.digits.long() @ block.digits.long().T
    rough = product[0, worst] * queries.scale[0] * block.scale
    gap = float((rough - unit(left[[worst]])[0] @ atoms[worst].double()).abs())
    assert 0.5 * float(queries.error_bound(block)[0]) < gap <= float(queries.error_bound(block)[0])
    assert gap > float(queries.length[0]) * block.error * 0.9


@pytest.mark.parametrize("width", [1, 2, 64, 97])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotation_keeps_inner_products(width: int, dtype: torch.dtype) -> None:
    rotation, rows = Rotation.of(width), unit(gaussian(0, 40, width))
    exact = rotation(rows)
    torch.testing.assert_close(exact @ exact.T, rows @ rows.T, atol=1e-12, rtol=0)
    gap = (rotation(rows.to(dtype)).double() - rotation(rows.to(dtype).double())).norm(dim=1).max()
    assert gap <= rotation.error(dtype) < (2e-4 if dtype == torch.float32 else 1e-12)
    if width > 2:
        assert float((exact - rows).abs().max()) > 0.1  # the control: something was rotated


def test_spikes_are_spread_before_rounding() -> None:
    rows = dictionary("spiky", 0, 300, 96).float()
    blunt = round_atoms(rows, 0, 0.0)
    turned = Int8Atoms.of(TensorAtoms(rows), rows.device)
    assert turned.rotation is not None
    assert turned.held[0].error < blunt.error / 2
    assert Int8Atoms.of(TensorAtoms(unit(gaussian(0, 300, 96)).float()), rows.device).rotation is None


# ---------------------------------------------------------------- the atoms


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", KINDS)
def test_int8_chooses_the_same_atoms(kind: str) -> None:
    # The methods share the search: "comp" asks for one atom at a time, "top-k" for all at once.
    for method, dtype, seed, count, width in (
        ("comp", torch.float32, 0, 700, 48),
        ("mp", torch.float64, 1, 129, 13),
        ("top-k", torch.float64, 0, 700, 48),
        ("top-k", torch.float32, 1, 129, 13),
    ):
        atoms, x = dictionary(kind, seed, count, width).to(dtype), unit(gaussian(seed + 5, 40, width)).to(dtype)
        x[:5] = unit(atoms[:5] + 0.1 * x[:5])
        for block_size in (None, 1, 100):
            found = Pursuit(method, block_size=block_size)(x, atoms)
            assert same(found, plainly(x, atoms, method)), (method, dtype, block_size)


@pytest.mark.usefixtures("eager")
def test_one_step_is_the_argmax_in_float64() -> None:
    for kind in KINDS:
        atoms, x = dictionary(kind, 3, 2000, 64).float(), unit(gaussian(4, 64, 64)).float()
        exact = unit(x.double()) @ atoms.double().T
        lead = exact.topk(2).values
        clear = lead[:, 0] - lead[:, 1] > 1e-11
        index = Pursuit(sparsity=1)(x, atoms).index[:, 0]
        assert torch.equal(index[clear], exact.argmax(1)[clear])
        # Of equal atoms the first.
        assert all(
            int(i) == int((row >= row.max() - 1e-12).int().argmax()) for i, row in zip(index, exact, strict=True)
        )


@pytest.mark.usefixtures("eager")
def test_int8_is_used_and_its_bound_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Negative control for all of these: with the error taken for nothing, other atoms are chosen.
    atoms, x = dictionary("clusters", 0, 3000, 64).float(), unit(gaussian(1, 200, 64)).float()
    assert same(Pursuit()(x, atoms), plainly(x, atoms))
    monkeypatch.setattr(int8.Queries, "error_bound", lambda self, block: 0 * self.error)
    assert not same(Pursuit()(x, atoms), plainly(x, atoms))


@pytest.mark.usefixtures("eager")
def test_what_is_not_held_is_rounded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, x = dictionary("independent", 0, 1000, 40).float(), unit(gaussian(1, 30, 40)).float()
    expected = plainly(x, atoms)
    for held, blocks in ((0, 0), (2 * 128 * 64, 2), (2**31, 8)):
        made = Int8Atoms.of(TensorAtoms(atoms), x.device, held=held)
        assert len(made.held) == blocks
        assert [block.stop for block in made.blocks()][-1] == 1000
        assert same(Pursuit()(x, DictionaryIndex(TensorAtoms(atoms), x.device, 1.01, made)), expected)


@pytest.mark.usefixtures("eager")
def test_floats_take_over_where_int8_keeps_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, x = dictionary("near ties", 0, 2000, 64).float(), unit(gaussian(1, 30, 64)).float()
    expected = plainly(x, atoms)
    monkeypatch.setattr(search, "MAX_LEFT", 64)
    asked, matmul = [], torch.matmul
    monkeypatch.setattr(torch, "matmul", lambda *given, out: asked.append(1) or matmul(*given, out=out))
    assert same(Pursuit()(x, atoms), expected)
    assert len(asked) == 5
    spread = dictionary("independent", 0, 20000, 64).float()
    assert same(Pursuit()(x, spread), plainly(x, spread))
    assert len(asked) == 10  # five of them the plain pursuit's


@pytest.mark.usefixtures("eager")
def test_precision_settings_change_nothing() -> None:
    atoms, x = dictionary("spiky", 0, 600, 48).float(), unit(gaussian(1, 30, 48)).float()
    expected = plainly(x, atoms)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(Pursuit()(x, atoms), expected)
        assert same(Pursuit()(x, build_index(atoms)), expected)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert same(Pursuit()(x, atoms), expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_small_dictionaries_are_not_rounded_and_large_ones_are() -> None:
    small, large = unit(gaussian(0, 500, 64)).float(), unit(gaussian(0, 9000, 600)).float()
    assert build_index(small).int8 is None
    assert build_index(large, products=10).int8 is None
    assert (build_index(large).int8 is not None) == int8_is_faster(torch.device("cpu"), torch.get_num_threads())
    x = unit(gaussian(1, 120, 600)).float()
    assert same(Pursuit()(x, large), plainly(x, large))


@pytest.mark.parametrize("fault", ["raises", "saturates", "slow"])
def test_a_device_without_exact_integers_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    product, wall = torch._int_mm, iter(range(10**6))

    def broken(left: Tensor, right: Tensor) -> Tensor:
        if fault == "raises":
            raise RuntimeError("no such kernel")
        if fault == "slow":
            for _ in range(50):
                next(wall)
        found = product(left, right)
        return found.clamp(-(2**15), 2**15) if fault == "saturates" else found

    monkeypatch.setattr(int8.time, "perf_counter", lambda: next(wall))
    assert int8_is_faster.__wrapped__(torch.device("cpu"), 1) is False  # both take one tick: not faster
    monkeypatch.setattr(torch, "_int_mm", broken)
    assert int8_is_faster.__wrapped__(torch.device("cpu"), 1) is False


# ---------------------------------------------------------------- where atoms are kept


def test_centred_blocks_are_within_their_slack() -> None:
    rows = unit(gaussian(0, 500, 300) + 3).float()
    atoms = CentredAtoms(TensorAtoms(rows), rows.mean(0))
    gap = (atoms.block(0, 500).double() - atoms.rows(torch.arange(500)).double()).norm(dim=1).max()
    assert 0 < gap <= atoms.slack < 1e-4
    assert float(atoms.rows(torch.arange(500)).norm(dim=1).max()) <= atoms.longest
    assert torch.equal(atoms.rows(torch.arange(500)), centred(rows, rows.mean(0)))


def test_a_row_does_not_depend_on_its_company() -> None:
    rows = unit(gaussian(0, 60, 77) + 1).float()
    mean = rows.mean(0)
    whole = centred(rows, mean)
    assert torch.equal(whole, torch.cat([centred(row, mean) for row in rows.split(1)]))
    assert torch.equal(whole[[5, 3]], centred(rows[[5, 3]].T.contiguous().T, mean))
    left, right = gaussian(1, 60, 77), gaussian(2, 60, 77)
    torch.testing.assert_close(fixed_order_dot(left, right), (left * right).sum(1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("bits", [True, False])
def test_streamed_atoms_are_the_atoms(bits: bool, request: pytest.FixtureRequest) -> None:
    if bits:
        request.getfixturevalue("eager")
    rows = unit(gaussian(0, 700, 40) + 0.5).float()
    mean = (total(TensorAtoms(rows)) / 700).float()
    x = unit(gaussian(1, 50, 40)).float()
    streamed, tensor = CentredAtoms(TensorAtoms(rows), mean), centred(rows, mean)
    for method in GREEDY:
        assert same(Pursuit(method)(x, streamed), Pursuit(method)(x, tensor))
    code = Pursuit()(x, streamed)
    assert torch.equal(code.reconstruct(streamed), code.reconstruct(tensor))
    # The control: without centring other atoms are chosen.
    assert not torch.equal(code.index, Pursuit()(x, rows).index)
    some = torch.tensor([5, 699, 3, *range(100, 300)])
    chosen = Pursuit()(x, SomeAtoms(streamed, some))
    assert same(chosen, Pursuit()(x, tensor[some]))
    assert same(Pursuit()(x, build_index(streamed)), code)


def test_what_is_prepared_is_for_one_device() -> None:
    ready = DictionaryIndex(TensorAtoms(unit(gaussian(0, 9, 4))), torch.device("meta"), 1.01, None)
    with pytest.raises(InputError, match="the index is on meta"):
        Pursuit(sparsity=1)(unit(gaussian(1, 2, 4)), ready)
    with pytest.raises(InputError, match=r"atoms\[3\] is not finite"):
        build_index(unit(gaussian(0, 9, 4)).index_fill(0, torch.tensor(3), torch.nan))


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("bits", [True, False])
def test_smaller_blocks_are_tried_when_memory_is_short(
    bits: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    atoms, x = unit(gaussian(0, 900, 24)).float(), unit(gaussian(1, 300, 24)).float()
    expected = plainly(x, atoms)
    if bits:
        request.getfixturevalue("eager")
    matmul, int_mm, refused = torch.matmul, torch._int_mm, []

    def short(product: object, most: int) -> object:
        def call(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
            if out.numel() > most:
                refused.append(out.numel())
                raise torch.OutOfMemoryError("CUDA out of memory")
            return product(left, right, out=out)  # type: ignore[operator]

        return call

    monkeypatch.setattr(torch, "matmul", short(matmul, 40_000))
    monkeypatch.setattr(torch, "_int_mm", short(int_mm, 100))
    seen: list[int] = []
    assert same(Pursuit()(x, atoms, progress=seen.append), expected)
    assert refused
    assert sum(seen) == 300
    monkeypatch.setattr(torch, "matmul", short(matmul, 10))
    with pytest.raises(InputError, match="too little memory"):
        Pursuit()(x, atoms)

    def broken(*args: object, **kwargs: object) -> Tensor:
        raise RuntimeError("another fault")

    monkeypatch.setattr(torch, "matmul", broken)
    with pytest.raises(RuntimeError, match="another fault"):
        Pursuit()(x, atoms, progress=None)


def test_a_dictionary_that_cannot_be_rounded_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, x = unit(gaussian(0, 400, 24)).float(), unit(gaussian(1, 30, 24)).float()
    monkeypatch.setattr(index_module, "MIN_NUMBERS", 0)
    monkeypatch.setattr(index_module, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(index_module, "int8_is_faster", lambda device, threads: True)

    def full(*args: object) -> Int8Atoms:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Int8Atoms, "of", full)
    assert same(Pursuit()(x, atoms), plainly(x, atoms))


def test_memory_is_bounded_beforehand() -> None:
    comp = Pursuit()
    million = comp.memory(1024, 10**6, 768)
    assert 10**6 * 768 < million < 2**31
    # Beyond what is held of the eight-bit form it hardly grows, and few vectors do without that form.
    assert comp.memory(1024, 10**8, 768) - comp.memory(1024, 10**7, 768) < 2**31
    assert comp.memory(8, 10**6, 768) < million - 7 * 10**8
    assert comp.memory(10**6, 10**5, 768) < 2 * comp.memory(1024, 10**5, 768)


def test_no_more_is_allocated_than_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.profiler import ProfilerActivity, profile

    for module in (search, pursuit):
        monkeypatch.setattr(module, "PAIRS", 2**12)
    monkeypatch.setattr(search, "SCORES", 2**12)
    monkeypatch.setattr(pursuit, "READ", 2**12)
    atoms, x = unit(gaussian(0, 9000, 600)).float(), unit(gaussian(1, 120, 600)).float()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        Pursuit()(x, atoms)
    held = most = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    assert 9000 * 600 < most <= Pursuit().memory(120, 9000, 600)
