import random
from dataclasses import replace

import numpy as np
import pytest
from small_studies import (
    found,
    full_study,
    gone,
    operator_study,
    part_of,
    score,
    tiny_study,
    training,
    untrained,
    without_methods,
)

from fedrecon.tune.study.analysis import significance as arithmetic
from fedrecon.tune.study.analysis.analyse import analyse
from fedrecon.tune.study.analysis.condition import Kind
from fedrecon.tune.study.analysis.grid import Group, TestOperator, bare
from fedrecon.tune.study.analysis.significance import MIN_SUBJECTS, holm, means_interval, rank_biserial, signed_rank

R4 = TestOperator("random", 4.0, "random R=4")
ALL = Group(Kind("all"), "random R=4", 1.0, True)
NAMES = [f"s{i}" for i in range(8)]


@pytest.fixture(scope="module")
def large():
    """Of two methods that are averaged, and of three that do not train, one less: each kind is there."""
    findings = part_of(full_study(), (), [("random", 4.0), ("random", 8.0)])
    return analyse(without_methods(findings, "fedavg-unet", "cg-sense"))


def rows(method, values, site="A", **changes):
    """One score per subject and seed. Without a seed of its own the method has three, with equal scores."""
    people = [f"s{i}" if site == "A" else f"s{i}-{site}" for i in range(len(values))]
    return [
        score(method, value, who, tested_on=site, **{"seed": seed, **changes})
        for seed in ((changes["seed"],) if "seed" in changes else (0, 1, 2))
        for who, value in zip(people, values, strict=True)
    ]


# --- arithmetic, by hand ---


def test_holm_multiplies_the_least_by_all_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 x .01, 2 x .03, max(.06, 1 x .04)
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow
def test_rank_biserial_is_the_share_of_positive_less_that_of_negative_ranks():
    assert rank_biserial(np.array([1.0, 2.0, -3.0, 4.0])) == pytest.approx((7 - 3) / 10)
    assert rank_biserial(np.array([0.5, 1.0])) == 1.0
    assert rank_biserial(np.array([0.0, 1.0, -1.0])) == 0.0
    assert rank_biserial(np.zeros(3)) == 0.0


@pytest.mark.slow
def test_eight_subjects_that_all_agree_have_the_least_p_value():
    assert signed_rank(np.arange(1.0, 9.0)) == pytest.approx(2 / 2**8)
    assert signed_rank(np.zeros(8)) == 1.0
    assert 0 < signed_rank(np.array([1.0, 1.0, 1.0, 2.0, 2.0, -1.0, 3.0, 0.0])) < 1  # ties and a zero


def test_the_interval_of_equal_values_is_a_point_and_of_two_halves_binomial():
    assert means_interval(((3.0,) * 8,), ("A",) * 8) == (3.0, 3.0)
    low, high = means_interval(((0.0, 1.0) * 50,), ("A",) * 100)
    assert (low, high) == pytest.approx((0.4, 0.6), abs=0.021)  # 1.96 x 0.05
    assert means_interval(((0.0, 1.0) * 50,), ("A",) * 100) == (low, high)


def test_subjects_are_drawn_within_their_sites():
    assert means_interval(((1.0,) * 4 + (5.0,) * 12,), ("A",) * 4 + ("B",) * 12) == pytest.approx((3.0, 3.0))


@pytest.mark.parametrize("strata", [("A",) * 7, ("A",) * 3 + ("B",) * 9])
def test_too_few_subjects_have_no_interval(strata):
    assert means_interval((tuple(map(float, range(len(strata)))),), strata) is None


# --- cells ---


@pytest.mark.slow
def test_seeds_subjects_and_sites_are_kept_apart():
    values = rows("a", [30, 32], seed=0) + rows("a", [31, 35], seed=1)
    values += rows("a", [20.0], "B", seed=0) + rows("a", [22.0], "B", seed=1)
    one = analyse(found(values)).at(ALL, R4, "a", site="A")
    assert one.mean == pytest.approx(32.0)  # subjects 30.5 and 33.5
    assert one.seeds == pytest.approx(np.sqrt(2))  # seeds 31 and 33
    assert one.subjects == pytest.approx(3 / np.sqrt(2))
    assert (one.n, one.low) == (2, None)
    both = analyse(found(values)).at(ALL, R4, "a")
    assert both.mean == pytest.approx((32 + 21) / 2)  # the site of two counts as one
    assert both.seeds == pytest.approx((27.5 - 25.5) / np.sqrt(2))


def test_the_number_of_slices_weighs_nothing():
    values = rows("a", [30, 31, 32]) + rows("b", [31, 31, 35])
    doubled = [replace(row, n_slices=2 * row.n_slices) if row.subject == "s2" else row for row in values]
    one, other = analyse(found(values)), analyse(found(doubled))
    assert one.estimates == other.estimates
    assert one.tests == other.tests


@pytest.mark.slow
def test_the_order_of_rows_changes_nothing():
    findings = operator_study()
    operators = [("random", 4.0), ("random", 8.0)]
    findings = replace(part_of(findings, ("all",), operators), missing=findings.missing)
    findings = without_methods(findings, "fedavg-unrolled", "cg-sense", "tv")  # of each kind one is left
    mixed = list(findings.scores)
    random.Random(1).shuffle(mixed)
    one, other = analyse(findings), analyse(replace(findings, scores=mixed, missing=findings.missing[::-1]))
    assert list(one.tables) == list(other.tables)
    for name in ("estimates", "references", "tested", "gaps", "payoffs"):
        assert getattr(one, name) == getattr(other, name), name


def test_two_scores_of_one_subject_are_refused():
    with pytest.raises(ValueError, match="two scores of subject 's0'"):
        analyse(found([score(), score(psnr=31.0)]))


def test_names_that_are_no_methods_are_refused():
    with pytest.raises(ValueError, match="'tv' is no method of this study: a"):
        analyse(found([score()], references=["tv"]))


# --- what is missing ---


def test_a_mean_over_sites_with_a_missing_site_is_missing():
    values = rows("a", [30, 31]) + rows("a", [30, 31], "B") + rows("b", [32, 33])
    statistics = analyse(found(values, [gone("b", "out of memory", tested_on="B", seed=0)]))
    assert statistics.at(ALL, R4, "a").mean == 30.5
    assert statistics.at(ALL, R4, "b").mean is None
    assert statistics.at(ALL, R4, "b").reason == "B: out of memory"
    assert statistics.at(ALL, R4, "b", site="A").mean == 32.5
    assert analyse(found(values)).at(ALL, R4, "b").reason == "B: not run"  # though nobody said so


def test_a_mean_over_seeds_with_a_missing_seed_is_missing():
    values = rows("a", [30, 31], seed=0) + rows("a", [30, 31], seed=1)
    values += rows("a", [30, 31], "B", seed=0)
    one = analyse(found(values)).at(ALL, R4, "a", site="B")
    assert (one.mean, one.reason) == (None, "B: seed 1: not run")


def test_a_missing_subject_makes_its_cell_missing():
    values = rows("a", [30, 31]) + rows("b", [30])
    assert analyse(found(values)).at(ALL, R4, "b").reason == "A: seed 0: 1 of 2 subjects lack"


def test_a_score_that_is_not_finite_makes_its_cell_missing():
    assert "not a finite number" in analyse(found(rows("a", [30, float("inf")]))).at(ALL, R4, "a").reason


def test_a_mean_over_operators_needs_all_of_them():
    values = [*rows("a", [30]), *rows("a", [20], acceleration=8.0), *rows("b", [30])]
    statistics = analyse(found(values))
    assert statistics.at(ALL, None, "a").mean == 25
    assert statistics.at(ALL, None, "b").mean is None


# --- tests ---


def test_who_was_scanned_at_several_sites_counts_once():
    """Four people at two sites: four differences, each the mean of two; no interval, no p-value."""
    base, gain = np.arange(4.0), np.array([1.0, 2.0, 3.0, 4.0])
    values = [
        score(method, base[i] + (method == "b") * (gain[i] + 2 * (site == "B")), f"s{i}", tested_on=site)
        for site in "AB" for i in range(4) for method in "ab"
    ]  # fmt: skip
    statistics = analyse(found(values, references=["a"]))
    (one,) = statistics.tests[ALL]
    assert (one.n, one.p, one.low) == (4, None, None)
    assert dict(one.differences) == {("A+B", f"s{i}"): gain[i] + 1 for i in range(4)}
    assert one.mean == 3.5
    assert statistics.at(ALL, statistics.overall(ALL), "a").n == 4


@pytest.mark.slow
def test_a_difference_has_no_interval_where_sites_have_few_subjects():
    """Eight sites of one subject: drawing within a site draws nothing."""
    sites = "ABCDEFGH"
    values = [row for k, site in enumerate(sites) for row in rows("a", [0.0], site) + rows("b", [float(k)], site)]
    (one,) = analyse(found(values, references=["a"])).tests[ALL]
    assert (one.mean, one.low, one.high) == (3.5, None, None)
    assert one.p is not None


def test_methods_are_compared_over_the_subjects_of_all_sites():
    base, gain = np.arange(4.0), np.array([1.0, 2.0, 3.0, 4.0])
    values = [row for site in "AB" for row in rows("a", base, site) + rows("b", base + gain + (site == "B") * 4, site)]
    statistics = analyse(found(values, references=["a"]))
    (one,) = statistics.tests[ALL]
    assert (one.method, one.reference, one.n) == ("b", "a", 8)
    assert one.mean == 4.5
    assert one.effect == 1.0
    assert one.p == one.p_holm == pytest.approx(2 / 2**8)
    assert all(test.p is None and test.n == 4 for test in statistics.site_tests[ALL])


@pytest.mark.slow
def test_a_left_out_subject_is_tested_by_the_training_that_left_its_site_out():
    values = [
        *rows("a", [10.0], "A", trained_on="all but A", seen_site=False),
        *rows("a", [50.0], "B", trained_on="all but A"),
        *rows("a", [20.0], "B", trained_on="all but B", seen_site=False),
        *rows("a", [60.0], "A", trained_on="all but B"),
        untrained("z", 1.0, tested_on="A"),
        untrained("z", 2.0, "s0-B", tested_on="B"),
    ]
    statistics = analyse(found(values, references=["z"]))
    unseen, seen = (
        Group(Kind("all but one"), "random R=4", 1.0, False),
        Group(Kind("all but one"), "random R=4", 1.0, True),
    )
    assert dict(statistics.tests[unseen][0].differences) == {("A", "s0"): 9.0, ("B", "s0-B"): 18.0}
    assert statistics.at(unseen, R4, "a").mean == 15
    assert statistics.at(seen, R4, "a").mean == 55
    gap = next(one for one in statistics.gaps if one.what == "site" and one.method == "a")
    assert gap.overall.mean == 40
    assert next(one for one in statistics.gaps if one.method == "z").reason == "does not train"


def test_holm_is_over_all_comparisons_of_a_table():
    base = np.arange(8.0)
    values = [row for name, gain in (("a", 0), ("b", 1), ("c", 2)) for row in rows(name, base + gain * (1 + base))]
    statistics = analyse(found(values, references=["a"]))
    assert [one.p for one in statistics.tests[ALL]] == pytest.approx([2 / 2**8] * 2)
    assert [one.p_holm for one in statistics.tests[ALL]] == pytest.approx([4 / 2**8] * 2)


def test_each_pair_is_tested_once():
    values = [row for i, name in enumerate("abc") for row in rows(name, [30 + i])]
    pairs = [(one.method, one.reference) for one in analyse(found(values, references=["a", "b"])).tests[ALL]]
    assert pairs == [("b", "a"), ("c", "a"), ("c", "b")]


@pytest.mark.slow
def test_of_too_few_subjects_nothing_is_claimed():
    statistics = analyse(tiny_study())
    tests = [one for own in (*statistics.tests.values(), *statistics.site_tests.values()) for one in own]
    assert tests
    assert all(one.p is None and one.p_holm is None and one.low is None for one in tests)
    assert all(one.n == len(one.differences) < MIN_SUBJECTS for one in tests)
    assert all(choice.level == () for own in statistics.choices.values() for choice in own)


def test_without_references_the_best_untrained_and_the_best_of_all_are_taken():
    values = rows("a", [30]) + rows("b", [31]) + [untrained("tv", 28.0), untrained("zero", 20.0)]
    assert list(analyse(found(values)).references) == ["tv", "b"]


@pytest.mark.slow
def test_the_best_of_those_that_share_no_data(large):
    statistics = large
    assert all(choice.best.method != "pooled" for own in statistics.choices.values() for choice in own)
    unseen = Group(Kind("all but one"), "", 1.0, False)
    assert statistics.choices[unseen][0].best.method == "fedgimp"
    assert "pooled" not in [one.candidate.method for one in statistics.choices[unseen][0].others]


@pytest.mark.slow
def test_trainings_with_other_operators_are_candidates_of_one_choice():
    """Scanned with R=4, the network trained with R=4 is better; what knows no operator is a candidate once."""
    base = np.arange(8.0)
    values = [
        *rows("a", base + 3), *rows("a", base + 1, acceleration=8.0, seen_operator=False),
        *rows("a", base + 2, trained_with="random R=8", seen_operator=False),
        *rows("a", base + 2, trained_with="random R=8", acceleration=8.0),
        *rows("p", base, trained_with=""), *rows("p", base, trained_with="", acceleration=8.0),
        *(untrained("z", base[i] + 9 * (r == 8), f"s{i}", acceleration=r) for i in range(8) for r in (4.0, 8.0)),
    ]  # fmt: skip
    (own,) = analyse(found(values)).choices.values()
    best = {str(one.operator): (one.best.method, one.best.trained_with) for one in own}
    assert best == {"None": ("z", ""), "random R=4": ("a", "random R=4"), "random R=8": ("z", "")}
    four = next(one for one in own if str(one.operator) == "random R=4")
    others = [(one.candidate.method, one.candidate.trained_with, one.test.mean) for one in four.others]
    assert others == [("a", "random R=8", -1.0), ("p", "", -3.0), ("z", "", -3.0)]


@pytest.mark.slow
def test_one_comparison_has_one_corrected_p_value(large):
    """The choice of the best and the tables of tests are one family, and what is the same is counted once."""
    statistics = large
    for path_of, choices in statistics.choices.items():
        family = [one for group, own in statistics.tests.items() if bare(group) == path_of for one in own]
        family += [rival.test for choice in choices for rival in choice.others]
        known = {}
        for one in family:
            by = dict(one.differences)
            same = frozenset((who, abs(value)) for who, value in by.items())
            known.setdefault((one.operator, same), set()).add((one.p_holm, one.family))
        assert {len(values) for values in known.values()} == {1}
        assert {one.family for one in family if one.p is not None} == {
            len([1 for values in known.values() if next(iter(values))[0] is not None])
        }
        assert len(family) > len(known)


def test_each_site_under_its_own_operator_has_a_mean_of_its_own():
    """Sites that measure differently share no operator: their mean is over both, and nothing of it is missing."""
    values = [
        *rows("a", [30, 32], "A"), *rows("a", [20, 22], "B", acceleration=8.0),
        *rows("b", [31, 33], "A"), *rows("b", [20, 20], "B", acceleration=8.0),
    ]  # fmt: skip
    statistics = analyse(found(values))
    assert statistics.own_operators(ALL)
    assert (statistics.at(ALL, None, "a").mean, statistics.at(ALL, None, "a").n) == (26, 4)
    assert statistics.at(ALL, None, "b", site="B").mean == 20


def test_an_operator_is_matched_where_the_site_trained_with_it():
    """A trains with random R=4 and B with R=8 in one training; another training has R=8 everywhere."""
    values = [
        *rows("a", [31], "A"), *rows("a", [25], "B", seen_operator=False),
        *rows("a", [29], "A", trained_with="random R=8", seen_operator=False),
        *rows("a", [25], "B", trained_with="random R=8", seen_operator=False),
    ]  # fmt: skip
    (gap,) = (one for one in analyse(found(values)).gaps if one.what == "operator")
    assert (gap.overall.mean, gap.overall.n) == (2, 1)


# --- gaps and what federation pays ---


def test_the_gap_of_operators_is_paired():
    values = [
        *rows("a", [30, 32], trained_with="random R=4", seen_operator=True),
        *rows("a", [29, 30], trained_with="random R=8", seen_operator=False),
        *rows("a", [28, 30], trained_with="random R=2", seen_operator=False),
        *rows("p", [40, 40], trained_with=""),
    ]
    statistics = analyse(found(values))
    gap = {one.method: one for one in statistics.gaps if one.what == "operator"}
    assert gap["a"].overall.mean == pytest.approx(31 - (28.5 + 30) / 2)
    assert "knows no operator" in gap["p"].reason


@pytest.mark.slow
def test_known_effects_are_found(large):
    statistics = large
    gaps = {(one.compared, one.method): one for one in statistics.gaps if one.what == "site"}
    for trained_with in ("random R=4", "equispaced R=4"):
        within = f"all but one trained with {trained_with}, the tested site among them or not"
        assert gaps[within, "fedavg-unrolled"].overall.mean == pytest.approx(0.6, abs=0.05)
        assert "own network" in gaps[within, "local"].reason
        assert gaps[within, "fedmri"].overall.mean is None
    pays = {(one.group.kind, one.group.seen, one.method): one for one in statistics.over("local")}
    gain = pays["all", True, "fedavg-unrolled"]
    assert (gain.n_sites, gain.slices) == (4, 80.0)
    assert next(iter(gain.mean.values())).mean == pytest.approx((6 - 5.2) * 0.7 + (0.9 - 1.0) / 2, abs=0.05)
    over_pooled = {(one.group.kind, one.method): one for one in statistics.over("pooled") if one.group.seen}
    gain = over_pooled["all", "fedavg-unrolled"]
    assert next(iter(gain.mean.values())).mean == pytest.approx((6 - 6.4) * 0.7 + (0.9 - 1.0) / 2, abs=0.05)
    # A hospital that did not train has its own network to compare with.
    gain = pays["all but one", False, "fedgimp"]
    assert next(iter(gain.mean.values())).mean == pytest.approx((5.4 - 5.2) * 0.7 + 0.9 / 2 - 0.1, abs=0.05)


@pytest.mark.parametrize(
    ("trained_on", "n_sites", "words"),
    [
        ("all", 4, "all"),
        ("nothing", 0, "nothing"),
        ("all but T1w", 3, "all but one"),
        ("T1w", 1, "one site"),
        ("T1w and T2w", 2, "two sites"),
    ],
)
def test_the_kind_of_a_training_has_no_names(trained_on, n_sites, words):
    assert str(training(trained_on, n_sites).kind) == words


def test_a_prior_is_compared_with_every_training():
    values = rows("a", [30]) + rows("a", [29], trained_with="random R=8") + rows("p", [31], trained_with="")
    assert [list(table[R4]) for table in analyse(found(values)).tables.values()] == [["a", "p"], ["a", "p"]]


def test_resamples_are_the_same_in_every_report():
    arithmetic._draws.cache_clear()
    first = arithmetic._draws(5, 0).copy()
    arithmetic._draws.cache_clear()
    assert (arithmetic._draws(5, 0) == first).all()


def test_an_operator_says_what_its_number_is():
    assert (R4.measures, TestOperator("bicubic", 2.0, "bicubic x2").measures) == ("R", "x")
