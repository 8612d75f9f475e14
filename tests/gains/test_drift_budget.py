"""A drift budget is kept and used up, and no other use of it removes more of the topic."""

import math

import pytest
import torch

from sith_hf.errors import InputError
from sith_hf.gains import Gains, by_name
from sith_hf.gains.drift import drift_of, drift_shares
from sith_hf.gains.drift_budget import budgeted


@pytest.fixture(scope="module")
def drift(editor, made):
    return drift_shares(editor.tower, made)


@pytest.fixture(scope="module")
def share(made):
    share = torch.rand(made.singular_values.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(share < 0.3, 0.0, share)


@pytest.fixture(scope="module")
def wanted(made):
    return by_name(made, 0.0, layers=[1, 2]).then(Gains({(0, 0, 0): -1.0, (0, 0, 1): 0.5}))


def spent(made, drift, wanted, gains):
    """(vector, part carried out, cost) of what is left of an edit."""
    return [
        (key, (gains.gain.get(key, 1.0) - 1) / (gain - 1), (1 - gain) ** 2 * float(drift[key]))
        for key, gain in wanted.gain.items()
    ]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("part", [0.01, 0.2, 0.6])
def test_the_limit_is_kept_and_spent(part, whole, made, wanted, share, drift):
    limit = part * drift_of(made, drift, wanted)
    chosen = budgeted(made, wanted, share, drift, limit, whole=whole)
    found = drift_of(made, drift, chosen)
    assert found <= limit * (1 + 1e-9)
    assert found == pytest.approx(limit, rel=1e-4)
    for key, gain in chosen.gain.items():
        assert min(wanted.gain[key], 1) <= gain < 1
        assert share[key] > 0
        assert "drift" in chosen.reason[key]


def test_an_edit_within_the_limit_stays_as_it_is(made, wanted, share, drift):
    assert budgeted(made, wanted, share, drift, 10.0) is wanted
    assert budgeted(made, wanted, share, drift, 0.0).gain == {}
    assert budgeted(made, Gains(), share, drift, 0.0).gain == {}


def test_no_other_choice_takes_more_out(made, wanted, share, drift):
    limit = 0.2 * drift_of(made, drift, wanted)
    ours = budgeted(made, wanted, share, drift, limit)
    parts = spent(made, drift, wanted, ours)
    best = sum(float(share[key]) * u * cost for key, u, cost in parts)
    generator = torch.Generator().manual_seed(1)
    shares = torch.tensor([float(share[key]) for key, _, _ in parts]).double()
    costs = torch.tensor([cost for _, _, cost in parts]).double()
    near = torch.tensor([u for _, u, _ in parts]).double()
    better = []
    for scale in (1e-3, 0.05, 1.0):
        for _ in range(100):
            u = (near + scale * torch.randn(len(parts), generator=generator).double()).clamp(0, 1)
            # Brought within the limit, as ours is.
            u = u * min(1.0, math.sqrt(limit / float((costs * u**2).sum())))
            better.append(float((shares * costs * u).sum()))
    assert max(better) <= best * (1 + 1e-4)
    # One by one is one such choice, and what is evenly weakened another; ours is strictly better than both.
    single = budgeted(made, wanted, share, drift, limit, whole=True)
    even = math.sqrt(0.2) * float((shares * costs).sum())
    assert sum(float(share[key]) * u * cost for key, u, cost in spent(made, drift, wanted, single)) < best
    assert even < best
    assert len(single) < len(ours)


def test_parts_are_in_proportion_to_the_share_until_they_are_whole(made, wanted, share, drift):
    chosen = budgeted(made, wanted, share, drift, 0.5 * drift_of(made, drift, wanted))
    parts = {key: u for key, u, _ in spent(made, drift, wanted, chosen) if share[key] > 0}
    partial = [u / float(share[key]) for key, u in parts.items() if u < 1 - 1e-9]
    whole = [float(share[key]) for key, u in parts.items() if u >= 1 - 1e-9]
    assert partial
    assert max(partial) == pytest.approx(min(partial), rel=1e-6)
    assert whole
    assert min(whole) * max(partial) >= 1 - 1e-6


def test_one_by_one_takes_the_purest_whole_and_one_in_part(made, wanted, share, drift):
    chosen = budgeted(made, wanted, share, drift, 0.3 * drift_of(made, drift, wanted), whole=True)
    parts = {key: u for key, u, _ in spent(made, drift, wanted, chosen)}
    order = sorted(parts, key=lambda key: -float(share[key]))
    amounts = [parts[key] for key in order]
    assert amounts == sorted(amounts, reverse=True)
    assert sum(1e-9 < u < 1 - 1e-9 for u in amounts) <= 1
    assert amounts[0] == 1
    assert amounts[-1] == 0


def test_more_budget_takes_more_out(made, wanted, share, drift):
    total = drift_of(made, drift, wanted)
    removed = []
    for part in (0.0, 0.1, 0.3, 0.9, 1.0):
        chosen = budgeted(made, wanted, share, drift, part * total)
        removed.append(sum(float(share[key]) * u * cost for key, u, cost in spent(made, drift, wanted, chosen)))
    assert removed == sorted(removed)
    assert removed[0] == 0 < removed[1] < removed[3]


def test_it_repeats_and_carries_what_was_protected(made, wanted, share, drift):
    noted = wanted.then(Gains(protected={(0, 3, 3): "kept"}, unscored=frozenset({(0, 3, 4)})))
    limit = 0.2 * drift_of(made, drift, wanted)
    one, two = (budgeted(made, noted, share, drift, limit) for _ in range(2))
    assert one == two
    assert dict(one.protected) == {(0, 3, 3): "kept"}
    assert one.unscored == {(0, 3, 4)}
    backwards = Gains(dict(reversed(wanted.gain.items())), wanted.reason)
    assert budgeted(made, backwards, share, drift, limit).gain == one.gain


def test_what_is_not_about_the_topic_is_never_touched(made, wanted, drift):
    nothing = torch.zeros_like(drift)
    for whole in (False, True):
        assert not budgeted(made, wanted, nothing, drift, 1e-3, whole=whole).gain
    one = nothing.clone()
    one[1, 2, 3] = 0.7
    for whole in (False, True):
        assert set(budgeted(made, wanted, one, drift, 0.9 * float(drift[1, 2, 3]), whole=whole).gain) == {(1, 2, 3)}
        # A budget that its topic does not use up is left.
        assert dict(budgeted(made, wanted, one, drift, 2 * float(drift[1, 2, 3]), whole=whole).gain) == {(1, 2, 3): 0.0}


def test_what_does_not_fit_is_refused(made, wanted, share, drift):
    for bad in (-0.1, math.nan, math.inf, "0.1", True, None):
        with pytest.raises(InputError, match="limit"):
            budgeted(made, wanted, share, drift, bad)
    for use in (
        lambda: budgeted(made, wanted, share[..., :2], drift, 0.1),
        lambda: budgeted(made, wanted, share * 5, drift, 0.1),
        lambda: budgeted(made, wanted, share * math.nan, drift, 0.1),
        lambda: budgeted(made, wanted, share, -drift, 0.1),
        lambda: budgeted(made, Gains({(7, 0, 0): 0.0}), share, drift, 0.1),
    ):
        with pytest.raises(InputError):
            use()
