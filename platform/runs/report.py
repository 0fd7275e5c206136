"""``report.md``: the scores of a run, their definitions, the settings of the run, and the papers to cite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedrecon.platform.config.names import in_text
from fedrecon.platform.federation.aggregate import exact_note
from fedrecon.platform.federation.attendance import in_words
from fedrecon.platform.federation.coverage import in_words as spread_in_words
from fedrecon.platform.reporting.markdown import flat as escaped
from fedrecon.platform.reporting.markdown import grid
from fedrecon.platform.reporting.table import Row, Table, Value, number, numbers, plain, words
from fedrecon.sites.extension.bibtex import distinct
from fedrecon.sites.score_columns import METRIC_LABELS, METRICS, NOMINAL
from fedrecon.sites.scoring.settings import AGAINST

_OUTPUTS = {
    "output": (),
    "with data consistency": ("with_data_consistency",),
    "zero-filled": ("zero_filled",),
}

DEFINITIONS = """\
- Every score is of a whole test VOLUME of magnitude images, as fastMRI defines it (arXiv:1811.08839): NMSE is
  ‖x − y‖² / ‖x‖², PSNR is 10 log₁₀(max(x)² / mean squared error) in dB and SSIM is the mean over slices with
  a 7 × 7 uniform window; x is the reference, and the data range is the maximum of its volume. The measured reference is
  the fully sampled scan with its noise; the truth, which only phantoms have, has none. No image is rescaled.
- A site's score is the mean over its test volumes; *mean* is the unweighted mean over sites. No test subject
  was trained or validated on at any site.
- *output* is the method's own result, *with data consistency* is that result after the measured k-space
  samples were put back, *zero-filled* is no reconstruction at all."""

SSIM_PAPER = """
    @article{wang2004ssim,
        author = {Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.},
        title = {Image Quality Assessment: From Error Visibility to Structural Similarity},
        journal = {IEEE Transactions on Image Processing},
        volume = {13},
        number = {4},
        pages = {600--612},
        year = {2004},
        doi = {10.1109/TIP.2003.819861}
    }
"""

LOW_RESOLUTION = """\
- The measured image has a low resolution. *with data consistency* puts the measured samples back into k-space. If the
  degradation acts on the image, its pseudo-inverse puts them back. *zero-filled* is zero-padded k-space, that is sinc
  interpolation."""


COVERAGE = tuple(f"error within {k} spread{'s' * (k > 1)} (%)" for k in range(1, len(NOMINAL) + 1))
"""The columns of the coverage."""

SPREAD = """\
- The spread is the standard deviation that the method expects of each pixel's error. *error within* is the share of the
  test slices' pixels inside the object whose error, against the noise-free truth where there is one, is at most that
  large. {line}."""


def report(
    result: Mapping[str, Any],
    experiment: Mapping[str, Any],
    citations: Sequence[str],
    environment: Mapping[str, Any],
    moved_data: bool = False,
) -> str:
    """The report of a finished run as Markdown.

    Args:
        result: the JSON of ``fedrecon run --json``: run_id, digest, rounds, bytes_up, sites, mean, ...
        experiment: the experiment as a plain dict; all of it is shown, and ``name`` and ``task`` are read.
        citations: the ``paper`` of each plug-in that ran and of the scores, as BibTeX; some may be empty. A work
            that several of them cite is listed once.
        environment: hardware and software of the run, as (nested) text and numbers; all of it is shown. ``simulated``
            names the sites whose k-space was simulated.
        moved_data: whether the strategy had the data of all sites in one place.
    """
    sections = [
        f"# {escaped(experiment.get('name', 'experiment'))}",
        _warnings(result, experiment, environment, moved_data),
        f"## Test scores, {AGAINST[experiment.get('evaluation', {}).get('reference', 'measured')]}\n\n"
        + scores_table(result),
        "## How to read them\n\n" + "\n".join([DEFINITIONS, *_task_definitions(experiment), *_spread(result)]),
        "## What ran\n\n" + _pairs("what", "how it was", _ran(result, environment)),
        "## The experiment\n\n" + _pairs("key", "value", flat(experiment)),
        _cited(citations),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _task_definitions(experiment: Mapping[str, Any]) -> list[str]:
    return [LOW_RESOLUTION] if experiment.get("task") == "super-resolution" else []


def _spread(result: Mapping[str, Any]) -> list[str]:
    line = spread_in_words(result.get("uncertainty", {}))
    return [SPREAD.format(line=line)] if line else []


def below_zero_filled(result: Mapping[str, Any], experiment: Mapping[str, Any]) -> str:
    """A line that names the sites where the output is below the zero-filled image in PSNR; empty if there is none.

    The reconstructor ``zero_filled`` is never named. It combines the coils by their maps; the zero-filled image of the
    scores is the root sum of squares over the coils.
    """
    if (experiment.get("reconstructor") or {}).get("name") == "zero_filled":
        return ""
    below = [
        f"{name} ({one['psnr']:.2f} dB, zero-filled {one['zero_filled']['psnr']:.2f})"
        for name, one in [*result["sites"].items(), ("mean", result["mean"])]
        if one.get("zero_filled") and one["psnr"] < one["zero_filled"]["psnr"]
    ]
    return f"Below zero-filled, worse than no reconstruction: {', '.join(below)}" if below else ""


def tuned(result: Mapping[str, Any]) -> list[str]:
    """The parameters of a classical method, a line for all sites that reconstructed with the same; empty without."""
    found: dict[str, list[str]] = {}
    for site, parameters in result.get("environment", {}).get("tuned", {}).items():
        if parameters.keys() - {"phase"}:
            found.setdefault(in_text(parameters), []).append(site)
    return [f"Parameters at {', '.join(sites)}: {text}" for text, sites in found.items()]


def scores_table(result: Mapping[str, Any]) -> str:
    """A Markdown table: one row per site and one for the mean; the three metrics of each output as columns.

    If the method tells a spread, two columns say how often the error lies within it.
    """
    columns = [*words("site"), *numbers("test volumes", "test slices")]
    columns += numbers(*(f"{name}: test {METRIC_LABELS[metric]}" for name in _OUTPUTS for metric in METRICS))
    covered = "coverage" in result["mean"]
    columns += numbers(*COVERAGE) if covered else []
    rows = [Row(_score_row(site, scores, covered)) for site, scores in result["sites"].items()]
    mean = [replace(one, bold=True) for one in _score_row("mean", result["mean"], covered)]
    return grid(Table("", columns, [*rows, Row(mean)]))


def coverage_cells(scores: Mapping[str, Any]) -> list[Value]:
    """The cells of :data:`COVERAGE`, in percent; dashes without a spread."""
    found = scores.get("coverage", {})
    return [number(None if not found else 100 * found[name], ".1f") for name in NOMINAL]


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted key, text) pairs, in order."""
    pairs: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            pairs += flat(item, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, item)) if isinstance(item, list | tuple) else str(item)
            pairs.append((f"{prefix}{key}", text))
    return pairs


def _score_row(name: str, scores: Mapping[str, Any], covered: bool) -> list[Value]:
    cells = [plain(name), plain(str(scores.get("n_volumes", ""))), plain(str(scores.get("n_slices", "")))]
    for path in _OUTPUTS.values():
        part = scores
        for key in path:
            part = part.get(key) or {}
        cells += [number(part.get(metric), shown) for metric, shown in METRICS.items()]
    return cells + (coverage_cells(scores) if covered else [])


def _warnings(
    result: Mapping[str, Any], experiment: Mapping[str, Any], environment: Mapping[str, Any], moved_data: bool
) -> str:
    """Warnings that a reader must not overlook, each as a Markdown quotation."""
    marks = [
        f"> **{line}**"
        for line in [below_zero_filled(result, experiment), exact_note(result), environment.get("diverged")]
        if line
    ]
    simulated = list(environment.get("simulated", ()))
    if simulated:
        marks.append(
            f"> **Simulated k-space** at {', '.join(simulated)}: made from magnitude images or a phantom by "
            "the FFT. Scores on measured raw data will differ."
        )
    if moved_data:
        marks.append("> **Pooled data**: all data were moved to one place for this control. It is not federated.")
    if missed := in_words(result.get("missed", {})):
        marks.append(f"> **Missed replies**: the run went on without {missed}.")
    return "\n>\n".join(marks)


def _ran(result: Mapping[str, Any], environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    traffic = {key: f"{result[key] / 1e6:.1f} MB" for key in ("bytes_up", "bytes_down") if key in result}
    names = [key for key in ("run_id", "digest", "status", "rounds", "kept_round") if result.get(key) is not None]
    return [*((key, str(result[key])) for key in names), *traffic.items(), *flat(environment)]


def _cited(citations: Sequence[str]) -> str:
    unique = "\n\n".join(str(entry) for entry in distinct(citations))
    return f"## Cite what ran\n\n```bibtex\n{unique}\n```" if unique else ""


def _pairs(key: str, value: str, pairs: Iterable[tuple[str, str]]) -> str:
    """A Markdown table of two columns."""
    return grid(Table("", words(key, value), [Row([plain(one), plain(other)]) for one, other in pairs]))
