"""What a study may claim: chosen on validation subjects, tested with enough seeds, in PSNR and in SSIM."""

from dataclasses import replace

import numpy as np
import pytest
from small_studies import found, gone, score, untrained

from fedrecon.platform.reporting.latex import latex
from fedrecon.platform.reporting.markdown import grid, markdown
from fedrecon.tune.study.analysis.analyse import analyse
from fedrecon.tune.study.analysis.condition import Kind
from fedrecon.tune.study.analysis.grid import Group, TestOperator
from fedrecon.tune.study.analysis.inputs import Method
from fedrecon.tune.study.analysis.results import Gap
from fedrecon.tune.study.analysis.samples import Estimate
from fedrecon.tune.study.analysis.significance import MIN_SEEDS, means_interval
from fedrecon.tune.study.report.figures import draw
from fedrecon.tune.study.report.sections import document
from fedrecon.tune.study.report.sentences import _coverage, _lost, in_short, under
from fedrecon.tune.study.report.tables import all_tables

ALL = Group(Kind("all"), "random R=4", 1.0, True)
R4 = TestOperator("random", 4.0, "random R=4")
BASE = np.arange(8.0)


def rows(method, values, seeds=(0, 1, 2), who="s", **changes):
    return [
        score(method, float(value), f"{who}{i}", seed=seed, **changes)
        for seed in seeds
        for i, value in enumerate(values)
    ]


def text(findings):
    statistics = analyse(findings)
    return markdown(document(findings, statistics, []), findings.run_url), statistics


# --- chosen on validation subjects ---


def test_the_best_is_chosen_on_validation_subjects_and_tested_on_the_others():
    """b is ahead of a on the test subjects, but it was a that the validation subjects chose: nobody may peek."""
    tested = rows("a", BASE) + rows("b", BASE + 1 + BASE / 10)
    validation = rows("a", [5.0, 6.0], who="v") + rows("b", [4.0, 5.0], who="v")
    findings = found(tested, validation=validation)
    shown, statistics = text(findings)
    ((choice,),) = statistics.choices.values()
    assert (choice.best.method, choice.by_validation) == ("a", True)
    assert [one.method for one in choice.ahead] == ["b"]  # and the report says that the choice is behind
    assert "behind b" in shown
    assert statistics.why["a"].endswith("on validation subjects")
    # The scores, tests and estimates are those of the test subjects alone.
    assert statistics.at(ALL, R4, "a").mean == BASE.mean()
    assert statistics.subjects == {"A": 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    "validation",
    [[], rows("a", [5.0, 6.0], who="v"), rows("a", [5.0], who="v") + rows("b", [4.0], seeds=(0, 1), who="v")],
    ids=["no scores", "one method lacks them", "a seed lacks them"],
)
def test_without_the_validation_scores_of_every_candidate_the_report_says_so(validation):
    shown, statistics = text(found(rows("a", BASE) + rows("b", BASE + 1), validation=validation))
    ((choice,),) = statistics.choices.values()
    assert (choice.best.method, choice.by_validation) == ("b", False)
    assert "too favourable" in shown


@pytest.mark.slow
def test_a_candidate_without_test_scores_does_not_hinder_the_choice():
    tested, validation = rows("a", BASE) + rows("b", BASE + 1), rows("a", [5.0], who="v") + rows("b", [4.0], who="v")
    lost = gone("c", "out of memory")
    ((choice,),) = analyse(found(tested, [lost], validation=validation)).choices.values()
    assert (choice.best.method, choice.by_validation) == ("a", True)


# --- seeds ---


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_method_of_fewer_than_three_seeds_gets_no_p_value_but_words(seeds):
    assert len(seeds) < MIN_SEEDS
    values = rows("a", BASE, seeds) + rows("local", BASE + 1 + BASE / 10)
    values += [untrained(name, by + k, f"s{k}") for name, by in (("tv", 3.0), ("zero", 1.0)) for k in range(8)]
    findings = found(values, references=["tv"])
    shown, statistics = text(findings)
    for metric in statistics.tested.values():
        every = [*metric.tests[ALL], *metric.site_tests[ALL]]
        every += [rival.test for choice in metric.choices[Group(Kind("all"), "", 1.0, True)] for rival in choice.others]
        for one in every:
            trained_once = "a" in (one.method, one.reference)
            assert one.few_seeds is trained_once
            assert (one.p is None) is trained_once
            assert not (trained_once and one.significant)
    ((payoff,),) = [statistics.payoffs]
    assert payoff.method == "a"
    assert all(test.p is None for test in payoff.tests.values())
    assert "these very networks: ahead for 0 of 8 subjects" in shown
    words = " ".join(line for lines in in_short(findings, statistics).values() for line in lines)
    assert f"Fewer than {MIN_SEEDS} seeds (a {len(seeds)})" in words
    assert "of these very networks" in words


def test_three_seeds_and_what_has_no_seeds_get_p_values():
    values = rows("a", BASE) + [
        untrained(name, k + by, f"s{k}") for name, by in (("tv", 3), ("z", 1)) for k in range(8)
    ]
    tests = analyse(found(values, references=["tv"])).tests[ALL]
    assert {one.method: one.p for one in tests} == pytest.approx({"a": 2 / 2**8, "z": 2 / 2**8})


# --- intervals over seeds x subjects ---


def test_equal_subjects_leave_the_spread_of_the_seeds_by_hand():
    """Seeds 29, 30, 31: their mean has the standard error 1 / sqrt(3). A subject bootstrap alone gave a point."""
    seeds = tuple((value,) * 8 for value in (29.0, 30.0, 31.0))
    low, high = means_interval(seeds, ("A",) * 8)
    assert (low + high) / 2 == pytest.approx(30, abs=0.05)
    assert (high - low) / 2 == pytest.approx(1.22, abs=0.06)  # sqrt(3/2) in 1 of 27 draws on each side: its 97.5th
    for few in (seeds[:1], seeds[:2]):  # these very networks
        middle = np.mean([one[0] for one in few])
        assert means_interval(few, ("A",) * 8) == (middle, middle)


def test_many_seeds_have_the_interval_of_the_normal_law():
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal(40)
    low, high = means_interval(tuple((float(value),) * 8 for value in drawn), ("A",) * 8)
    error = drawn.std(ddof=1) / np.sqrt(40)
    assert (low, high) == pytest.approx((drawn.mean() - 1.96 * error, drawn.mean() + 1.96 * error), abs=0.25 * error)


def test_a_difference_draws_the_seeds_of_each_side_and_the_subjects_of_both():
    """What subjects have in common cancels; what seeds do does not, though they have the same numbers."""
    hard = np.linspace(-5, 5, 8)
    sides = [tuple(tuple(hard + by) for by in (29.0, 30.0, 31.0)), tuple(tuple(hard + by) for by in (19.0, 20.0, 21.0))]
    low, high = means_interval(sides[0], ("A",) * 8, sides[1])
    assert low < 9.4
    assert high > 10.6
    assert 9 > means_interval(sides[0], ("A",) * 8)[1] - means_interval(sides[0], ("A",) * 8)[0] > high - low
    same = tuple(tuple(hard + 30) for _ in range(3))
    assert means_interval(same, ("A",) * 8, tuple(tuple(hard + 20) for _ in range(3))) == pytest.approx((10, 10))


@pytest.mark.slow
def test_a_lead_that_the_seeds_can_undo_is_not_significant():
    """All eight subjects agree, but one of three trainings is far behind: nothing is claimed of the method."""
    values = rows("b", BASE)
    for seed, by in ((0, 3.0), (1, 3.0), (2, -5.0)):
        values += rows("a", BASE + by, (seed,))
    findings = found(values, references=["b"])
    shown, statistics = text(findings)
    (one,) = statistics.tests[ALL]
    assert one.p == pytest.approx(2 / 2**8)
    assert one.effect == 1
    assert one.low < 0 < one.high
    assert not one.significant
    assert "the interval holds 0" in shown


# --- SSIM ---


@pytest.mark.slow
def test_ssim_is_tested_beside_psnr_in_a_family_of_its_own():
    """In PSNR a and b differ from the reference, in SSIM only a: each family corrects its own p-values."""
    values = []
    for name, by, similarity in (("ref", 0.0, 0.0), ("a", 1.0, 0.01), ("b", 2.5, 0.0)):
        for seed in range(3):
            values += [score(name, k + by, f"s{k}", seed=seed, ssim=0.9 + similarity * (1 + k / 10)) for k in range(8)]
    findings = found(values, references=["ref"])
    shown, statistics = text(findings)
    psnr, ssim = ({one.method: one for one in statistics.tested[metric].tests[ALL]} for metric in ("psnr", "ssim"))
    assert {name: one.mean for name, one in psnr.items()} == pytest.approx({"a": 1, "b": 2.5})
    assert {name: one.mean for name, one in ssim.items()} == pytest.approx({"a": 0.0135, "b": 0})
    assert [ssim[name].p for name in "ab"] == pytest.approx([2 / 2**8, 1])
    assert {one.metric for one in ssim.values()} == {"ssim"}
    # PSNR: a and b against ref, and a against the best, b. SSIM: as b is ref, two different comparisons are left.
    assert {one.family for one in psnr.values()} == {3}
    assert ssim["a"].p_holm == pytest.approx(2 * 2 / 2**8)
    assert "Tests in SSIM at hospitals that trained" in shown
    ((by_psnr,), (by_ssim,)) = (next(iter(one.choices.values())) for one in statistics.tested.values())
    assert (by_psnr.best.method, by_ssim.best.method) == ("b", "a")
    assert statistics.in_ssim(by_psnr) is by_ssim


# --- what scores are compared with, and what a method spent ---


@pytest.mark.parametrize("reference", ["measured", "truth"])
def test_the_report_says_what_scores_are_compared_with(reference):
    from fedrecon.sites.scoring.settings import AGAINST

    shown, _ = text(found(rows("a", BASE), reference=reference))
    assert AGAINST[reference] in shown
    assert all(other not in shown for name, other in AGAINST.items() if name != reference)


@pytest.mark.slow
def test_the_report_states_updates_and_passes_of_every_method():
    from dataclasses import replace

    findings = found(rows("a", BASE) + [untrained("tv", 1.0, f"s{k}") for k in range(8)])
    methods = [replace(one, updates="540", passes="3 to 9") if one.trains else one for one in findings.methods]
    shown, _ = text(replace(findings, methods=methods))
    table = shown[shown.index("| method | what it is") :].splitlines()
    assert table[0].split("|")[-3:-1] == [" updates ", " passes "]
    assert [line.split("|")[-3:-1] for line in table[2:4]] == [[" 540 ", " 3 to 9 "], [" – ", " – "]]


def test_4_slices_a_site_come_before_12_and_all_come_last():
    given = [score("fedavg", 30.0, trained_on=f"all ({limit} slices a site)", n_sites=4) for limit in ("all", 12, 4)]
    assert [group.training.limit for group in analyse(found(given)).tables] == [4, 12, "all"]


def test_r_4_comes_before_r_12():
    given = [score("fedavg", 30.0, trained_with=f"random R={one}") for one in ("12", "4", "2-8", "2.5")]
    found_in_order = [group.trained_with for group in analyse(found(given)).tables]
    assert found_in_order == ["random R=2-8", "random R=2.5", "random R=4", "random R=12"]


def test_each_noise_and_training_operator_has_a_gap_of_its_own():
    """By hand: 1, 3, 5 and 7 dB are lost at a hospital that did not train. Their mean, 4, is the loss of none."""
    lost = {("random R=4", 1.0): 1.0, ("random R=8", 1.0): 3.0, ("random R=4", 4.0): 5.0, ("random R=8", 4.0): 7.0}
    rows = []
    for (trained_with, noise), by in lost.items():
        given = {"trained_with": trained_with, "noise": noise}
        for site in "AB":
            rows.append(score("fedavg", 30.0, f"{site}0", tested_on=site, **given))
            away = {"tested_on": site, "trained_on": f"all but {site}", "n_sites": 1, "seen_site": False}
            rows.append(score("fedavg", 30.0 - by, f"{site}0", **away, **given))
    found_gaps = {one.compared: one.overall.mean for one in analyse(found(rows)).gaps if one.what == "site"}
    assert found_gaps == {
        "all trained with random R=4, or all but one": 1.0,
        "all trained with random R=8, or all but one": 3.0,
        "all trained with random R=4, or all but one, noise 4 times the data's own": 5.0,
        "all trained with random R=8, or all but one, noise 4 times the data's own": 7.0,
    }
    one_of_each = [row for row in rows if (row.trained_with, row.noise) == ("random R=4", 1.0)]
    assert [one.compared for one in analyse(found(one_of_each)).gaps][:1] == ["all trained, or all but one"]


def test_an_operator_that_no_training_had_costs_what_it_costs_at_each_noise():
    """By hand: trained with the tested operator or another, 2 dB apart at the data's own noise and 6 dB at 4 times."""
    rows = []
    for noise, by in ((1.0, 2.0), (4.0, 6.0)):
        rows.append(score("a", 30.0, noise=noise))
        rows.append(score("a", 30.0 - by, noise=noise, trained_with="random R=8", seen_operator=False))
    found_gaps = {one.compared: one.overall.mean for one in analyse(found(rows)).gaps if one.what == "operator"}
    same = "all sites trained, with the tested operator or another; at hospitals that trained"
    assert found_gaps == {same: 2.0, f"{same}, noise 4 times the data's own": 6.0}


def test_a_gap_is_between_trainings_of_as_many_slices():
    rows = []
    for limit, by in ((4, 1.0), (12, 3.0)):
        words = f"({limit} slices a site)"
        for site in "AB":
            rows.append(score("a", 30.0, f"{site}0", tested_on=site, trained_on=f"all {words}"))
            away = {"tested_on": site, "trained_on": f"all but {site} {words}", "n_sites": 1, "seen_site": False}
            rows.append(score("a", 30.0 - by, f"{site}0", **away))
    found_gaps = {one.compared: one.overall.mean for one in analyse(found(rows)).gaps if one.what == "site"}
    assert found_gaps == {
        "all trained, or all but one (4 slices a site)": 1.0,
        "all trained, or all but one (12 slices a site)": 3.0,
    }


NET = Method("net", "", True, False, False, False)


def own_masks(accelerations):
    """Two hospitals, each with a mask of its own: 32 dB at the first of these accelerations, 6 dB less at the next."""
    rows = [
        score("net", 32.0 - 6 * k, f"{site}{i}", tested_on=site, mask=mask, acceleration=acceleration)
        for i in range(8)
        for site, mask in (("A", "random"), ("B", "equispaced"))
        for k, acceleration in enumerate(accelerations)
    ]
    return found(rows, methods=[NET])


def test_a_mean_over_operators_says_over_how_many_though_each_hospital_has_its_own():
    findings = own_masks((4.0, 8.0))
    statistics = analyse(findings)
    (group,) = statistics.tables
    assert under(None, statistics, group) == "mean of 2 operators, each site's own"
    single = analyse(own_masks((4.0,)))
    assert under(None, single, next(iter(single.tables))) == "each site's own"


def test_no_curve_joins_one_hospital_at_one_acceleration_to_another_at_another():
    for sites in ({"A": [4.0], "B": [8.0]}, {"A": [4.0, 8.0], "B": [4.0, 8.0]}):
        rows = [
            score("net", 28.0 + at + 0.1 * i, f"{site}{i}", tested_on=site, acceleration=at)
            for i in range(8)
            for site, own in sites.items()
            for at in own
        ]
        findings = found(rows, methods=[NET])
        drawn = [one for one in draw(findings, analyse(findings)) if one.name.startswith("curve")]
        assert len(drawn) == (sites["A"] == sites["B"])


def test_what_gains_has_the_interval_of_the_gain():
    """A gap of -0.1 dB with the interval -0.2 to 0.05 is a gain of 0.1 dB, from -0.05 to 0.2."""
    findings = own_masks((4.0,))
    for mean, low, high, said in ((-0.1, -0.2, 0.05, "gains"), (0.1, -0.05, 0.2, "loses")):
        gap = Gap("operator", "R=4 to R=8", "net", {None: Estimate(mean, low=low, high=high, n=8)})
        assert _lost(findings, gap) == f"net {said} 0.10 dB (−0.05 to 0.20)"


def test_the_best_is_chosen_on_all_tested_hospitals_or_not_by_validation():
    """x is 1 dB better at C and 7 dB worse at D, which has no validation subjects."""
    scores = {("x", "C"): 32.0, ("x", "D"): 24.0, ("y", "C"): 31.0, ("y", "D"): 31.0}
    rows = [
        score(method, psnr + 0.01 * i, f"{site}{i}", tested_on=site, seed=seed)
        for (method, site), psnr in scores.items()
        for seed in range(3)
        for i in range(8)
    ]
    validated = [
        score(method, psnr, f"v{site}", tested_on=site, seed=seed)
        for (method, site), psnr in scores.items()
        for seed in range(3)
    ]
    methods = [replace(NET, name=name) for name in "xy"]
    partly = [one for one in validated if one.tested_on == "C"]
    for validation, by_validation in ((partly, False), (validated, True)):
        statistics = analyse(found(rows, methods=methods, validation=validation))
        chosen = [one for own in statistics.choices.values() for one in own]
        assert {(one.best.method, one.by_validation) for one in chosen} == {("y", by_validation)}


def test_each_comparison_is_counted_once():
    """Two methods, one of them the reference and the best: the test and the choice ask the same."""
    rows = [
        score(name, psnr + 0.1 * i, f"s{i}", seed=seed)
        for name, psnr in (("a", 31.0), ("b", 30.0))
        for i in range(8)
        for seed in range(3)
    ]
    methods = [replace(NET, name=name) for name in "ab"]
    findings = found(rows, methods=methods, references=["b"])
    (said,) = _coverage(analyse(findings))
    assert said.startswith("1 of 1 comparisons have a test")


def test_the_caption_of_a_table_says_which_mean_is_bold_and_what_is_below_zero_filled():
    rows = [score("net", 20.0 + i, f"s{i}", nmse=0.02) for i in range(8)]
    keys = [(row.tested_on, row.mask, row.acceleration, row.noise, row.subject) for row in rows]
    findings = found(rows, methods=[NET], zero_filled=dict.fromkeys(keys, 40.0))
    tables = {table.name: table for table in all_tables(findings, analyse(findings))}
    said = {name: tables[f"{name}-1"].note for name in ("psnr", "ssim", "nmse")}
    assert "Bold: the highest mean" in said["psnr"]
    assert "Bold: the highest mean" in said["ssim"]
    assert "Bold: the lowest mean" in said["nmse"]
    assert ["below zero-filled" in said[name] for name in said] == [True, False, False]
    assert r"23.50 $\downarrow$" in latex(tables["psnr-1"])
    assert "23.50 ↓" in grid(tables["psnr-1"])
