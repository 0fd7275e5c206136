"""Trials of a sweep that lost a site: their mean is over fewer sites, and is not compared with the others' means."""

from dataclasses import replace

import pytest
from test_figures import KEYS, trial, trial_rows

from fedrecon.platform.reporting.html import page
from fedrecon.tune.sweep.page import document
from fedrecon.tune.trials.settings import among, best_setting, comparable, left_out, settings

SITES = {"a": 15.0, "b": 21.0, "c": 24.0}  # by hand: the mean is 20, without a it is 22.5


def scored(sites, heads=("", "test/")):
    return {f"{head}site/{site}/psnr": SITES[site] for head in heads for site in sites}


def rows():
    """Trials 1 and 2, of another acceleration, lost their worst site a. Trial 3 searched sites without a."""
    given = [
        ("all", trial(0, 4, 0, 20.0, 20.0, **scored("abc"))),
        ("all", trial(1, 4, 0, 22.5, 22.5, **scored("bc"), **{"mean/loss": 0.1})),
        ("all", trial(2, 8, 0, 22.5, 22.5, **scored("bc"))),
        ("two", trial(3, 4, 0, 22.5, 22.5, **scored("bc"))),
    ]
    for number, (sites, row) in enumerate(given):
        row |= {"params.training.learning_rate": 0.1 * (1 + number), "params.sites": sites}
    return trial_rows([row for _, row in given])


def test_the_loss_of_a_member_is_no_score_of_a_site():
    """Pooled data are trained by one member, whose name is that of no site."""
    row = rows()[0]
    row = replace(row, metrics={**row.metrics, "site/pooled/loss": 0.5})
    assert comparable([rows()[0], row]) == [rows()[0], row]


def test_a_trial_that_lost_a_site_has_no_mean_and_does_not_win():
    given = rows()
    found = comparable(given)
    assert [row is one for row, one in zip(found, given, strict=True)] == [True, False, False, True]
    assert found[1].metrics == scored("bc")
    assert found[1].error == "no mean of validation and test subjects, because a was not scored"
    assert given[1].metrics["mean/psnr"] == 22.5  # the trial table is as it was
    assert comparable(found) == found
    assert best_setting(given[:2], "mean/psnr", "max").rows[0].trial.number == 0
    assert [one.complete for one in settings(given, "mean/psnr")] == [True, False, False, True]
    # A score of a site that is there compares, whoever died.
    assert best_setting(given[:2], "site/b/psnr", "max").params["training.learning_rate"] == 0.1
    assert all(one.complete for one in settings(given[:2], "site/b/psnr"))
    assert (among(given[1], given).metrics, among(given[1], given[1:2])) == (scored("bc"), given[1])


def test_a_trial_that_lost_a_site_in_the_test_alone_is_compared_in_validation():
    one = trial(0, 4, 0, 20.0, 20.0, **scored("abc"))
    other = trial(1, 4, 1, 20.0, 22.5, **scored("abc", [""]), **scored("bc", ["test/"]))
    found = comparable(trial_rows([one, other]))
    assert found[1].error == "no mean of test subjects, because a was not scored"
    (setting,) = settings(found, "mean/psnr")
    assert (setting.over_seeds("mean/psnr"), setting.over_seeds("test/mean/psnr")) == ((20.0, 0.0), (None, None))


def test_a_trial_that_runs_or_says_no_sites_is_left_as_it_is():
    """The scores of a running trial are of several rounds; a row without sites says nothing of them."""
    others = [trial(4, 4, 0, 22.5, status="STOPPED", **scored("bc")), trial(5, 4, 0, 22.5, 22.5)]
    given = rows() + trial_rows([{**row, "params.sites": "all"} for row in others])
    found = comparable(given)
    assert [row is one for row, one in zip(found, given, strict=True)] == [True, False, False, True, True, True]
    assert left_out(given) == ""


@pytest.mark.slow
def test_the_page_says_in_one_line_who_is_not_compared():
    found = comparable(rows())
    why = "no mean of validation and test subjects, because a was not scored"
    line = f"A site died: trial 1: {why}, trial 2: {why}. "
    assert left_out(found).startswith(line)
    keys = [KEYS[0], "training.learning_rate"]
    shown = page(document("s", found[:3], keys, ["mean/psnr"], ["max"], (), {}))
    assert shown.count(line) == 1
    assert ("20.00" in shown, "22.5" in shown) == (True, False)
    assert left_out(rows()[:1]) == ""
