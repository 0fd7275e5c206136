"""The page of a sweep: its best settings, all settings over seeds, the figures, and the table of trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from fedrecon.platform.reporting.document import Document, Part, Picture, Section, Text
from fedrecon.platform.reporting.table import Column, Row, Table, Tone, Value, numbers, plain, words
from fedrecon.tune.sweep.grouping import is_problem, label, names, text
from fedrecon.tune.trials.settings import SEED, Setting, best_setting, left_out, settings
from fedrecon.tune.trials.trial_table import TrialRow

FIRST_TESTS = ("test/mean/psnr", "test/mean/ssim", "test/mean/nmse", "test/mean/zero_filled/psnr")
TONES: dict[str, Tone] = {"FINISHED": "good", "FAILED": "bad"}
CHOSEN = "Chosen by the mean of {metric} over seeds; test subjects never choose."


def document(
    name: str,
    rows: Sequence[TrialRow],
    keys: Sequence[str],
    metrics: Sequence[str],
    modes: Sequence[str],
    figures: Sequence[Picture],
    facts: Mapping[str, str],
) -> Document:
    """The page of a sweep.

    Args:
        rows: the trials. keys: the searched keys. figures: the figures in the page's order.
        metrics: the validation metrics; the first one decides which setting is best. modes: ``max`` or ``min`` of each.
        facts: the text of each fact, by its label.
    """
    statuses = dict.fromkeys(row.status for row in rows)
    counts = ", ".join(f"{sum(row.status == one for row in rows)} {one.lower()}" for one in statuses) or "none"
    found = settings_table(rows, keys, metrics, modes[0])
    sections = [
        Section("Best", list(_best(rows, keys, metrics, modes[0]))),
        Section("Settings", [found] if SEED in keys and found.rows else ()),
        Section("Figures", figures),
        Section("Trials", [trials_table(rows, keys, metrics, modes[0])] if rows else ()),
    ]
    return Document(name, "sweep", {"trials": f"{len(rows)}: {counts}", **facts}, sections)


def _best(rows: Sequence[TrialRow], keys: Sequence[str], metrics: Sequence[str], mode: str) -> Iterable[Part]:
    if lost := left_out(rows):
        yield Text(lost, tone="bad")
    top = best_setting(rows, metrics[0], mode)
    if top is None:
        yield Text("No finished trial has a score yet.")
        return
    low = [one for one in top.rows if _below(one)]
    yield Text(_in_words(top, keys, metrics[0]), short=True, tone="bad" if low else "")
    if low:
        yield Text("Its test PSNR is below zero-filled: worse than no reconstruction.", tone="bad")
    problems = [key for key in keys if is_problem(key) and len({text(row.trial.params.get(key)) for row in rows}) > 1]
    note = CHOSEN.format(metric=label(metrics[0]))
    if not problems:
        yield Text(note, tone="faint")
        return
    yield replace(
        _of_each(rows, problems, keys, metrics, mode), note=f"{note} Trials of different problems do not compare."
    )


def _of_each(
    rows: Sequence[TrialRow], problems: Sequence[str], keys: Sequence[str], metrics: Sequence[str], mode: str
) -> Table:
    """The best setting of each problem."""
    groups: dict[str, list[TrialRow]] = {}
    for row in rows:
        groups.setdefault(_values(row.trial.params, problems, keys), []).append(row)
    others = [key for key in keys if key not in (*problems, SEED)]
    columns = [*words("problem", "setting"), *numbers("trials", "seeds", *_scored(metrics[:1]))]
    found = []
    for problem, own in groups.items():
        if (top := best_setting(own, metrics[0], mode)) is not None:
            cells = [plain(problem), plain(_values(top.params, others, keys) or "–"), _count(len(own))]
            found.append(Row([*cells, _count(len(top.rows)), *_means(top, metrics[:1])]))
    return Table("Best of each problem", columns, found)


def settings_table(rows: Sequence[TrialRow], keys: Sequence[str], metrics: Sequence[str], mode: str) -> Table:
    """Every setting: its trials, and the mean ± standard deviation of its scores over seeds."""
    top, short = best_setting(rows, metrics[0], mode), names(keys)
    searched = [key for key in keys if key != SEED]
    columns = [*words(*(short[key] for key in searched), "trials"), *numbers("seeds", "rounds", *_scored(metrics))]
    found = []
    for one in settings(rows, metrics[0]):
        values = [plain(text(one.params.get(key))) for key in searched]
        numbers_ = ", ".join(str(row.trial.number) for row in one.rows)
        rounds = sorted({row.round for row in one.rows})[:: max(len({row.round for row in one.rows}) - 1, 1)]
        cells = [
            *values,
            plain(numbers_ or "–"),
            plain(f"{len(one.rows)}" if one.complete else f"{len(one.rows)} of {one.planned}"),
            plain(" to ".join(map(str, rounds)) or "–"),
        ]
        marked = top is not None and one.params == top.params
        found.append(Row([*cells, *_means(one, metrics)], marked=marked))
    note = "Mean ± standard deviation over the seeds that have finished; a setting wins only with all its seeds."
    if len({row.trial.digest for row in rows}) < len(rows):
        note += " An experiment that was drawn several times counts once."
    return Table("Settings, over seeds", columns, found, note)


def trials_table(rows: Sequence[TrialRow], keys: Sequence[str], metrics: Sequence[str], mode: str) -> Table:
    """Every trial: values, status, rounds, scores, seconds, run, error. The trials of the best setting are marked."""
    top, short = best_setting(rows, metrics[0], mode), names(keys)
    present = set().union(*(row.metrics for row in rows)) if rows else set()
    tests = [one for one in dict.fromkeys([*FIRST_TESTS, *(f"test/{one}" for one in metrics)]) if one in present]
    rest = sorted(one for one in present if one.startswith("test/") and one not in tests)
    scored = [*(one for one in metrics if one in present or not present), *tests]
    columns = [*numbers("trial"), *words(*(short[key] for key in keys), "status"), *numbers("rounds")]
    columns += [Column(label(one), numeric=True, title=one) for one in scored]
    columns += [Column(label(one), numeric=True, title=one, hidden=True) for one in rest]
    columns += [*numbers("time (s)"), *words("run", "note")]
    marked = {row.trial.digest for row in top.rows} if top else set()
    found = []
    for row in rows:
        values = [plain(text(row.trial.params.get(key))) for key in keys]
        status = Value(row.status, key=row.status, tone=TONES.get(row.status, "faint"))
        low = _below(row)
        scores = [_score(row.metrics.get(one), low and one == "test/mean/psnr") for one in [*scored, *rest]]
        run = Value(
            (row.run_id or "")[:8], key=row.run_id or "", title=f"run {row.run_id or '–'}, digest {row.trial.digest}"
        )
        note = Value(
            "best" if row.trial.digest in marked else _short(row.error),
            tone="bad" if row.error else "",
            more=row.error or "",
        )
        rounds = plain(f"{row.round}")
        cells = [_count(row.trial.number), *values, status, rounds, *scores, _seconds(row), run, note]
        found.append(Row(cells, marked=row.trial.digest in marked))
    return Table("All trials", columns, found, filtered=True)


def _in_words(top: Setting, keys: Sequence[str], metric: str) -> str:
    setting = _values(top.params, [key for key in keys if key != SEED], keys) or "the base experiment"
    seeds = f" over {len(top.rows)} seeds" if len(top.rows) > 1 else ""
    scores = [f"{label(one)} {value.text}" for one, value in zip(_both([metric]), _means(top, [metric]), strict=True)]
    numbers_ = ", ".join(str(row.trial.number) for row in top.rows)
    return f"{setting}: {', '.join(scores)}{seeds} (trial{'s' * (len(top.rows) > 1)} {numbers_})."


def _values(params: Mapping[str, object], shown: Iterable[str], keys: Sequence[str]) -> str:
    short = names(keys)
    return ", ".join(f"{short[key]} {text(params[key])}" for key in shown if params.get(key) is not None)


def _scored(metrics: Sequence[str]) -> list[str]:
    return [label(one) for one in _both(metrics)]


def _both(metrics: Sequence[str]) -> list[str]:
    """Each metric and its twin of the test subjects; a loss, which is that of the training, has none."""
    return [one for name in metrics for one in ([name] if name.endswith("/loss") else [name, f"test/{name}"])]


def _means(setting: Setting, metrics: Sequence[str]) -> list[Value]:
    """Validation and test scores of a setting, as mean ± standard deviation over its seeds."""
    found = []
    for one in _both(metrics):
        mean, deviation = setting.over_seeds(one)
        spread = "" if deviation is None else f" ± {_number(deviation, mean)}"
        found.append(Value("–") if mean is None else Value(_number(mean, mean) + spread, key=str(mean)))
    return found


def _below(row: TrialRow) -> bool:
    """Whether the test PSNR of a trial is below that of the zero-filled images."""
    if (row.trial.experiment.reconstructor or {}).get("name") == "zero_filled":
        return False
    own, zero = (row.metrics.get(key) for key in ("test/mean/psnr", "test/mean/zero_filled/psnr"))
    return own is not None and zero is not None and own < zero


def _score(value: float | None, low: bool = False) -> Value:
    return Value("–") if value is None else Value(_number(value, value), key=str(value), tone="bad" if low else "")


def _number(value: float, size: float | None) -> str:
    """A score as text: two decimals where scores are at least 2 (dB), else four."""
    return f"{value:.2f}" if abs(size or 0.0) >= 2 else f"{value:.4f}"


def _count(n: int) -> Value:
    return Value(str(n), key=str(n))


def _seconds(row: TrialRow) -> Value:
    return Value(f"{row.seconds:.1f}", key=str(row.seconds))


def _short(error: str | None, most: int = 100) -> str:
    error = " ".join((error or "").split())
    return error if len(error) <= most else error[: most - 1] + "…"
