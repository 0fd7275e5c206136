import io
import math
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fedrecon.platform.reporting import html
from fedrecon.platform.reporting.document import Picture
from fedrecon.tune.sweep.figures import _acceleration, _pareto, draw, importance
from fedrecon.tune.sweep.grouping import (
    ACCELERATION,
    GroupedTrials,
    best,
    coordinate,
    front,
    label,
    means,
    off_axis,
    read,
    spread,
)
from fedrecon.tune.sweep.page import document, settings_table, trials_table
from fedrecon.tune.trials.planner import Trial
from fedrecon.tune.trials.trial_table import TrialRow

FLOOR = "test/mean/zero_filled/psnr"
LEARNING_RATE, STRATEGY = "params.training.learning_rate", "params.strategy.name"


def table(rows):
    keys = dict.fromkeys(key for row in rows for key in row)
    return pa.table({key: [row.get(key) for row in rows] for key in keys})


def trial(number, acceleration, seed, validation, test=None, status="FINISHED", **more):
    return {
        "number": number,
        "status": status,
        "run_id": f"run{number}",
        "digest": f"digest{number}",
        ACCELERATION: acceleration,
        "params.seed": seed,
        "mean/psnr": validation,
        "test/mean/psnr": test,
        "trained_rounds": 3,
        "seconds": 1.5,
        "error": None,
        **more,
    }


KEYS = ["operator.acceleration", "strategy.name", "seed"]


def trial_rows(rows):
    """The same trials as the trial table has them."""
    found = []
    for row in rows:
        params = {key.removeprefix("params."): value for key, value in row.items() if key.startswith("params.")}
        metrics = {key: row[key] for key in row if "/" in key and row[key] is not None}
        experiment = SimpleNamespace(reconstructor={"name": "network"}, resources=SimpleNamespace(min_sites=1))
        planned = Trial(row["number"], params, experiment, row.get("digest", str(row["number"])), None)
        known = {"status": row["status"], "run_id": row.get("run_id"), "error": row.get("error")}
        found.append(TrialRow(planned, metrics=metrics, round=row.get("trained_rounds", 0), **known))
    return found


def page(name, rows, figures=(), facts=None):
    keys = [key for key in KEYS if any(f"params.{key}" in row for row in rows)]
    return html.page(document(name, trial_rows(rows), keys, ["mean/psnr"], ["max"], figures, facts or {}))


def sweep(n_seeds=2):
    """Acceleration x strategy x seeds, with a failed and a stopped trial, and the curves."""
    rows, curves = [], {}
    for acceleration in (2, 4, 8):
        for strategy in ("fedavg", "fedprox"):
            for seed in range(n_seeds):
                at = len(rows)
                score = 36 - acceleration + 0.1 * seed + (strategy == "fedprox")
                more = {STRATEGY: strategy, "mean/ssim": 0.9 - 0.001 * at, "test/mean/zero_filled/psnr": 20.0}
                rows.append(trial(at, acceleration, seed, score, score - 0.5, **more))
                curves[at] = [(1, score - 2), (2, score - 1), (3, score)]
    rows[1] |= {"status": "FAILED", "mean/psnr": 99.0, "test/mean/psnr": None, "error": "<script>alert('x')</script>"}
    rows[2] |= {"status": "STOPPED", "test/mean/psnr": None}
    return rows, curves


# --- what is shown, by hand ---


def test_mean_and_deviation_are_over_seeds():
    rows = [trial(0, 4, 0, 30.0, 29.0), trial(1, 4, 1, 32.0, 32.0), trial(2, 2, 0, 35.0, 34.0)]
    two, four = spread(rows, ACCELERATION, "test/mean/psnr", "mean/psnr", "max")
    assert (two.x, two.mean, two.scores) == (2.0, 34.0, (34.0,))
    assert math.isnan(two.deviation)
    assert (four.x, four.mean) == (4.0, 30.5)
    assert four.deviation == pytest.approx(math.sqrt(4.5))  # (1.5² + 1.5²) / (2 - 1)


@pytest.mark.parametrize(("mode", "shown"), [("max", 28.0), ("min", 29.5)])
def test_of_one_seed_the_best_by_validation_is_shown_though_its_test_score_is_lower(mode, shown):
    rows = [
        trial(0, 4, 0, 30.0, 29.5, **{LEARNING_RATE: 1e-4}),
        trial(1, 4, 0, 31.0, 28.0, **{LEARNING_RATE: 1e-3}),
    ]
    (point,) = spread(rows, ACCELERATION, "test/mean/psnr", "mean/psnr", mode)
    assert point.scores == (shown,)
    assert point.candidates == 2


def test_only_finished_trials_with_a_score_enter_the_spread():
    rows = [
        trial(0, 4, 0, 30.0, 29.0),
        trial(1, 4, 1, 50.0, 50.0, status="FAILED"),
        trial(2, 4, 2, 50.0, 50.0, status="STOPPED"),
        trial(3, 4, 3, 50.0, None),
        trial(4, None, 4, 50.0, 50.0),
    ]
    assert [point.scores for point in spread(rows, ACCELERATION, "test/mean/psnr", "mean/psnr", "max")] == [(29.0,)]


def test_a_figure_says_how_many_trials_over_a_mix_have_no_place_on_its_axis():
    rows = [trial(number, rate, 0, 20.0) for number, rate in enumerate(["2", "4", "2-8", "2/4/8", None])]
    assert "2 trials" in off_axis(rows, ACCELERATION)
    assert "1 trial " in off_axis(rows[:3], ACCELERATION)
    assert off_axis([rows[0], rows[1], rows[4]], ACCELERATION) == ""


def test_accelerations_written_as_text_are_numbers():
    points = spread([trial(0, "8", 0, 1.0), trial(1, "10", 0, 2.0)], ACCELERATION, "mean/psnr", "mean/psnr", "max")
    assert [point.x for point in points] == [8.0, 10.0]
    rows = [{"x": 2, "y": 1.0}, {"x": 2, "y": 2.0}, {"x": 1, "y": None}]
    assert means(rows, "x", "y") == [(2.0, 1.5)]


def test_the_front_holds_what_no_other_point_beats_in_both():
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 1.0), (0.5, 4.5), (1.0, 5.0)]
    assert front(points, ["max", "max"]) == [3, 1, 0]
    assert front(points, ["min", "min"]) == [4, 2, 3]


def test_coordinates_are_logarithmic_over_more_than_two_decades_only():
    heights, _ = coordinate([1e-4, 1e-3, 1e-1, None], numeric=True)
    np.testing.assert_allclose(heights, [0, 1 / 3, 1, -0.1])
    np.testing.assert_allclose(coordinate([1, 50, 100], numeric=True)[0], [0, 49 / 99, 1])
    heights, ticks = coordinate(["a", "b", "a"], numeric=False)
    assert heights.tolist() == [0.25, 0.75, 0.25]
    assert ticks == {"a": 0.25, "b": 0.75}
    assert coordinate([3.0, 3.0], numeric=True)[0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "values",
    [[31.52, 31.53, 31.55, 31.56, 31.57, 31.58, 31.54, 31.59], [30.12, 30.14, 30.16, 30.18], [0.91521, 0.91563]],
)
def test_a_tick_says_the_value_of_its_height(values):
    _, ticks = coordinate(values, numeric=True)
    low, high = min(values), max(values)
    assert len(ticks) >= 2
    for said, height in ticks.items():
        assert float(said) == pytest.approx(low + height * (high - low), abs=0.01 * (high - low))


def masks():
    """One strategy, two masks: 28, 26, 22 dB and 18, 16, 12 dB are their zero-filled images at R = 2, 4, 8."""
    floors = {"random": 30, "equispaced": 20}
    keys = [(at, mask) for mask in floors for at in (2, 4, 8)]
    return [
        trial(n, at, 0, 26.0 - at, 26.0 - at, **{"params.operator.mask": mask, FLOOR: floors[mask] - at})
        for n, (at, mask) in enumerate(keys)
    ]


def test_each_mask_has_its_own_floor_where_masks_are_lines():
    figure = _acceleration(GroupedTrials.of(read(table(masks())), ["mean/psnr"], ["max"]))
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[28, 26, 22], [18, 16, 12]]
    assert len({line.get_color() for line in dashed}) == 2


def test_each_mask_has_its_own_front_where_masks_are_colours():
    rows = [
        {"number": n, "status": "FINISHED", "params.operator.mask": mask, LEARNING_RATE: rate, "mean/psnr": psnr}
        | {"mean/ssim": ssim}
        for n, (mask, rate, psnr, ssim) in enumerate([("a", 1, 34, 0.8), ("a", 2, 35, 0.7), ("b", 1, 28, 0.6)])
    ]
    figure = _pareto(GroupedTrials.of(rows, ["mean/psnr", "mean/ssim"], ["max", "max"]))
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["0", "1", "2"]


def test_a_loss_is_that_of_the_training():
    assert label("mean/loss") == "training loss"
    assert label("mean/psnr").startswith("validation ")


def test_the_best_is_finished_before_stopped_and_never_failed():
    failed, stopped = trial(0, 4, 0, 99.0, status="FAILED"), trial(1, 4, 0, 50.0, status="STOPPED")
    running = trial(2, 4, 0, 98.0, status="RUNNING")
    finished = [trial(3, 4, 0, 30.0, 1.0), trial(4, 4, 1, 30.0, 9.0), trial(5, 4, 2, None, 99.0)]
    assert best([failed, running, stopped, *finished], "mean/psnr", "max") is finished[0]
    assert best([failed, running, stopped], "mean/psnr", "max") is stopped
    assert best([failed, running], "mean/psnr", "max") is None
    assert best(read(table([trial(0, 4, 0, math.nan), trial(1, 4, 0, 1.0)])), "mean/psnr", "max")["number"] == 1


def test_each_problem_has_its_own_best():
    rows = [trial(0, 8, 0, 25.0), trial(1, 8, 1, 27.0), trial(2, 2, 0, 35.0), trial(3, 4, 0, 9.0, status="FAILED")]
    whole = document("s", trial_rows(rows), [KEYS[0], KEYS[2]], ["mean/psnr"], ["max"], [], {})
    (table,) = [part for part in whole.sections[0].parts if hasattr(part, "rows")]
    cells = [[value.text for value in row.values] for row in table.rows]
    assert cells == [
        ["acceleration 8", "–", "2", "2", "26.00 ± 1.41", "–"],
        ["acceleration 2", "–", "1", "1", "35.00", "–"],
    ]


def test_a_setting_is_shown_with_mean_and_deviation_over_its_seeds_and_its_rounds():
    rows = [trial(0, 4, 0, 30.0, 29.0), trial(1, 4, 1, 32.0, 32.0), trial(2, 2, 0, 35.0, 34.0), trial(3, 2, 1, None)]
    shown = settings_table(trial_rows(rows), [KEYS[0], KEYS[2]], ["mean/psnr"], "max")
    assert [column.name for column in shown.columns][:4] == ["acceleration", "trials", "seeds", "rounds"]
    assert [[value.text for value in row.values] for row in shown.rows] == [
        ["4", "0, 1", "2", "3", "31.00 ± 1.41", "30.50 ± 2.12"],
        ["2", "2", "1 of 2", "3", "35.00", "34.00"],
    ]
    # One lucky seed of two does not win against a setting with all its seeds.
    assert [row.marked for row in shown.rows] == [True, False]


def test_an_experiment_that_was_drawn_twice_counts_once():
    """By hand: seeds 0, 0, 1 of one setting have the mean 31, not 30.67; of the other one of two seeds has a score."""
    rows = [trial(0, 4, 0, 30.0), trial(1, 4, 0, 30.0), trial(2, 4, 1, 32.0)]
    rows += [trial(3, 2, 0, 35.0), trial(4, 2, 0, 35.0), trial(5, 2, 1, None, status="FAILED")]
    for again in (1, 4):
        rows[again]["digest"] = rows[again - 1]["digest"]
    shown = settings_table(trial_rows(rows), [KEYS[0], KEYS[2]], ["mean/psnr"], "max")
    assert [[value.text for value in row.values][:5] for row in shown.rows] == [
        ["4", "0, 2", "2", "3", "31.00 ± 1.41"],
        ["2", "3", "1 of 2", "3", "35.00"],
    ]
    assert [row.marked for row in shown.rows] == [True, False]
    assert "counts once" in shown.note
    assert "counts once" not in settings_table(trial_rows(rows[1:4]), KEYS[:1], ["mean/psnr"], "max").note
    assert [row["number"] for row in read(table(rows))] == [0, 2, 3, 5]


def test_a_trial_below_zero_filled_is_red():
    rows = [trial(0, 4, 0, 30.0, 19.0, **{"test/mean/zero_filled/psnr": 20.0}), trial(1, 4, 1, 30.0, 21.0)]
    shown = trials_table(trial_rows(rows), KEYS, ["mean/psnr"], "max")
    at = [column.title for column in shown.columns].index("test/mean/psnr")
    assert [row.values[at].tone for row in shown.rows] == ["bad", ""]


def test_lines_stand_for_the_strategy_and_panels_for_the_problem():
    rows, _ = sweep()
    reading = GroupedTrials.of(rows, ["mean/psnr"], ["max"])
    assert (reading.line, reading.groups) == (STRATEGY, ["fedavg", "fedprox"])
    assert list(reading.panels(rows)) == ["acceleration 2", "acceleration 4", "acceleration 8"]
    assert list(reading.panels(rows, but=[ACCELERATION])) == [""]
    assert reading.mixed_problems(reading.panels(rows)) == ""
    many = [trial(i, 2 + i, 0, 30.0) for i in range(9)]
    reading = GroupedTrials.of(many, ["mean/psnr"], ["max"])
    assert list(reading.panels(many)) == [""]
    assert "different in acceleration" in reading.mixed_problems(reading.panels(many))


@pytest.mark.slow
def test_importance_finds_the_key_that_matters_and_the_same_each_time():
    rows = [{"params.a": i % 5, "params.seed": i % 3, "params.mu": None if i % 2 else 0.1} for i in range(30)]
    scores = np.array([float(row["params.a"]) for row in rows])
    drop, _, r2 = importance(rows, list(rows[0]), scores)
    assert np.argmax(drop) == 0
    assert r2 > 0.9
    np.testing.assert_array_equal(importance(rows, list(rows[0]), scores)[0], drop)


def test_metrics_are_named_with_their_unit():
    assert label("mean/psnr") == "validation PSNR (dB)"
    assert label("test/site/a/ssim") == "test SSIM, a"
    assert label("test/mean/zero_filled/psnr") == "test PSNR (dB), zero-filled"


# --- pictures and page ---


@pytest.fixture(scope="module")
def pictures():
    """All figures of :func:`sweep`, drawn once."""
    rows, curves = sweep()
    return draw(table(rows), ["mean/psnr", "mean/ssim"], ["max", "max"], curves)


@pytest.mark.slow
def test_every_picture_of_a_sweep_is_a_readable_png(pictures):
    assert [one.name for one in pictures] == ["acceleration", "curves", "parallel", "importance", "pareto"]
    for one in pictures:
        image = Image.open(io.BytesIO(one.png))
        image.verify()
        assert image.format == "PNG"
        assert image.width == 2400
        assert ElementTree.fromstring(one.svg).tag.endswith("svg")


def drawn(trials, curves=None, metric="mean/psnr"):
    """The names of the figures."""
    return {one.name for one in draw(trials, [metric], ["max"], curves)}


ROWS, CURVES = sweep()
ALL_FAILED = [{**row, "status": "FAILED", "mean/psnr": None, "test/mean/psnr": None} for row in ROWS]
ODD = [
    {**row, STRATEGY: name, "mean/psnr": math.nan} for row, name in zip(ROWS, ["$x$", "_a", None, ""] * 3, strict=True)
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "curves", "expected"),
    [
        (ROWS[:1], {0: [(1, math.nan)]}, set()),
        (ROWS[:1], {0: CURVES[0]}, {"curves"}),
        (ALL_FAILED, {0: [], 1: [(1, 2.0)]}, {"curves"}),
        (ODD, CURVES, {"acceleration", "curves"}),
        ([{"number": 0, "status": "WAITING", "params.seed": 1}], {}, set()),
    ],
    ids=["one without a curve", "one", "all failed", "odd names, no validation", "nothing ran"],
)
def test_what_makes_no_sense_is_left_out(rows, curves, expected):
    assert drawn(table(rows), curves) == expected
    assert "</html>" in page("s", rows)


@pytest.mark.slow
def test_a_problem_without_a_floor_and_a_site_as_metric_are_drawn():
    masks = [
        {**row, "params.operator.mask": "random" if row["number"] % 4 < 2 else "radial"} for row in ROWS[:7]
    ]  # too few for a forest
    rows = [{**row, "test/mean/zero_filled/psnr": None} if row["number"] % 4 < 2 else row for row in masks]
    assert "acceleration" in drawn(table(rows))
    site = [{**row, "site/a/psnr": row["mean/psnr"], "test/site/a/psnr": row["test/mean/psnr"]} for row in rows]
    assert "acceleration" in drawn(table(site), metric="site/a/psnr")


@pytest.mark.slow
def test_many_strategies_and_problems_still_fit():
    rows = [
        trial(
            i, 2 + i % 12, 0, 30.0 + i % 7, 29.0, **{STRATEGY: f"strategy{i % 25}", "params.evaluation.noise": i / 60}
        )
        for i in range(60)
    ]
    curves = {i: [(1, 30.0), (2, 31.0)] for i in range(60)}
    assert drawn(table(rows), curves) == {"acceleration", "curves", "parallel", "importance"}


@pytest.mark.slow
def test_an_empty_table_has_no_picture_and_a_page():
    for trials in (pa.table({}), table(ROWS).slice(0, 0)):
        assert drawn(trials, {}) == set()
    text = page("s", [])
    assert "</html>" in text
    assert "<table" not in text


def test_the_page_escapes_what_trials_say():
    text = page("<b>s", ROWS, [Picture("<i>", "<i>", b"png")], {"<u>": "<u>"})
    assert text.count("<script>") == 1  # its own
    assert "&lt;script&gt;alert(" in text
    for tag in ("<b>", "<i>", "<u>"):
        assert tag not in text


@pytest.mark.slow
def test_the_page_names_the_best_setting_and_loads_nothing(pictures):
    text = page("s", ROWS, pictures, {"metric": "mean/psnr"})
    # At acceleration 2 each setting lost a seed: 1 failed with the highest value and 2 was stopped.
    # Of the complete settings that with trials 6 and 7 has the best mean, (33.0 + 33.1) / 2.
    assert re.findall(r"trials? ([\d, ]+)\)", text)[0] == "6, 7"
    assert text.count('class="marked"') == 3  # the setting, and its two trials
    assert set(re.findall(r'(?:src|href)="([^:#]+):', text)) == {"data"}
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)
