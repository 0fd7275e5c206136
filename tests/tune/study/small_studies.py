"""Scores of studies with known effects; nothing is trained."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from fedrecon.tune.study.analysis.condition import UNTRAINED, Condition, Missing, Score, TrainingSites
from fedrecon.tune.study.analysis.inputs import Findings, Method, Panel

SITES = ("FLAIR", "PDw", "T1w", "T2w")
# dB above zero-filled, lost at an unseen site, lost under an unseen operator
EFFECTS = {
    "fedavg-unet": (4.0, 0.5, 0.7),
    "fedavg-unrolled": (6.0, 0.6, 1.0),
    "fedmri": (6.3, 1.2, 0.9),
    "fedgimp": (5.4, 0.1, 0.0),
    "local": (5.2, 2.5, 0.9),
    "pooled": (6.4, 0.4, 0.9),
    "tv": (3.0, 0.0, 0.0),
    "cg-sense": (1.5, 0.0, 0.0),
    "zero-filled": (0.0, 0.0, 0.0),
}
METHODS = (
    Method("fedavg-unet", "FedAvg of a U-Net, 8 channels", True, False, False, False),
    Method("fedavg-unrolled", "FedAvg of an unrolled network, 3 cascades", True, False, False, False),
    Method("fedmri", "shared encoder, a decoder for each site", True, False, True, False),
    Method("fedgimp", "a prior trained together, adapted to each slice", True, False, False, False),
    Method("local", "each site alone", True, False, False, True),
    Method("pooled", "all data in one place", True, True, False, False),
    Method("tv", "total variation, weight tuned on validation subjects", False, False, False, False),
    Method("cg-sense", "10 iterations", False, False, False, False),
    Method("zero-filled", "no reconstruction", False, False, False, False),
)
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000a49444154789c6300010000050001"
)
MASKS, ACCELERATIONS = ("random", "equispaced"), (2.0, 4.0, 6.0, 8.0)
WORK = "@misc{zbontar2018,\n  title = {{fastMRI}: an open dataset}\n}"
BIBTEX = "@article{mcmahan2017,\n  title = {Communication-efficient learning},\n  year = {2017}\n}"


def score(method: str = "a", psnr: float = 30.0, subject: str = "s0", **changes: Any) -> Score:
    """One row; what is not told is of one site that trained."""
    row: dict[str, Any] = {
        "method": method,
        "trained_on": "all",
        "trained_with": "random R=4",
        "n_sites": 2,
        "slices_per_site": 80.0,
        "seed": 0,
        "tested_on": "A",
        "mask": "random",
        "acceleration": 4.0,
        "operator": "",
        "noise": 1.0,
        "subject": subject,
        "psnr": psnr,
        "ssim": 0.9,
        "nmse": 0.01,
        "n_slices": 8,
        "seen_site": True,
        "seen_operator": True,
        "run_id": f"run-{method}",
        "digest": "d",
    }
    row |= changes
    row["sites"] = training(row.pop("trained_on"), row.pop("n_sites"))
    return Score(**{**row, "operator": row["operator"] or f"{row['mask']} R={row['acceleration']:g}"})


def gone(method: str, reason: str, **changes: Any) -> Missing:
    """A cell without scores; what is not told is of one site that trained, of every seed."""
    like = score(method, **{"seed": None, **changes})
    return Missing(**like.part(Condition), reason=reason)


def training(words: str, n_sites: int) -> TrainingSites:
    """The sites of a training, from the words of its label."""
    base, _, limit = words.removesuffix(" slices a site)").partition(" (")
    most = (limit if limit == "all" else int(limit)) if limit else None
    if base.startswith("all but "):
        return TrainingSites("all but one", n_sites, (base.removeprefix("all but "),), most)
    return TrainingSites(base if base in ("all", UNTRAINED) else "named", n_sites, (base,), most)


def untrained(method: str, psnr: float, subject: str = "s0", **changes: Any) -> Score:
    """A row of a method without training."""
    without = {"trained_on": UNTRAINED, "trained_with": "", "n_sites": 0, "slices_per_site": 0.0, "seed": None}
    return score(method, psnr, subject, **{**without, "seen_site": False, **changes})


def found(scores: Sequence[Score], missing: Sequence[Missing] = (), **changes: Any) -> Findings:
    """The findings of rows; each method trains if it has a training."""
    names = sorted({row.method for row in (*scores, *missing)})
    trains = {row.method for row in scores if row.trained_on != UNTRAINED}
    methods = changes.pop("methods", None) or [
        Method(name, "", name in trains, False, False, name == "local") for name in names
    ]
    given: dict[str, Any] = {"facts": {}, "citations": {}, "panels": (), "run_url": url}
    return Findings("s", "A study", "FINISHED", methods, scores, missing, **{**given, **changes})


def url(run_id: str) -> str:
    return f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}"


def full_study(**changes: Any) -> Findings:
    """Nine methods, four sites, all sites and leave-one-out, two trainings' operators, eight tested, three seeds."""
    missing = [
        *(
            gone("fedmri", "out of memory after 3 of 8 subjects", trained_on="all but T2w", trained_with=with_what,
                 n_sites=3, seed=1, tested_on="T2w", acceleration=8.0, seen_site=False,
                 seen_operator=False)
            for with_what in ("random R=4", "equispaced R=4")
        ),
        *(
            gone("fedavg-unet", "killed: <wall clock> of 2 h was spent", trained_with=with_what, n_sites=4,
                 tested_on="PDw", mask="equispaced", acceleration=6.0, seen_operator=False)
            for with_what in ("random R=4", "equispaced R=4")
        ),
    ]  # fmt: skip
    lost = {(one.method, one.trained_on, one.tested_on, one.mask, one.acceleration) for one in missing}
    rows = [row for row in _rows(changes.pop("subjects", 8), changes.pop("seeds", (0, 1, 2))) if _cell(row) not in lost]
    facts = {
        "trainings": "62, 41 h in all",
        "evaluations": "1 824",
        "machines": "2 x 16 cores, one H100",
        "versions": "fedrecon 0.1.0, torch 2.6, ray 2.50",
        "commit": "0123456789ab",
        "data": "FLAIR sha256:1b2c, PDw sha256:9f3e, T1w sha256:77aa, T2w sha256:c0de",
    }
    given: dict[str, Any] = {
        "facts": facts,
        "citations": {BIBTEX: ["fedavg-unet"], WORK: ["random"]},
        "panels": (),
        "run_url": url,
        "synthetic": True,
    }
    title = "Do federated reconstructions hold at a hospital that never trained?"
    return Findings("generalisation", title, "FINISHED", METHODS, rows, missing, **{**given, **changes})


def part_of(findings: Findings, trained_on: Sequence[str], operators: Sequence[tuple[str, float]]) -> Findings:
    """The rows of some trainings (none named: of all) under some operators, without those that are missing."""
    rows = [row for row in findings.scores if (row.mask, row.acceleration) in operators]
    rows = [row for row in rows if not trained_on or row.trained_on in (*trained_on, UNTRAINED)]
    missing = [one for one in findings.missing if (one.mask, one.acceleration) in operators]
    return replace(findings, scores=rows, missing=missing)


def without_methods(findings: Findings, *names: str) -> Findings:
    """The findings without some methods: what is compared grows with the square of their number."""
    return replace(
        findings,
        methods=[one for one in findings.methods if one.name not in names],
        scores=[row for row in findings.scores if row.method not in names],
        missing=[one for one in findings.missing if one.method not in names],
    )


def operator_study(**changes: Any) -> Findings:
    """All sites trained, with two operators, tested under three; text that must be escaped."""
    part = part_of(full_study(), ("all",), [("random", 4.0), ("random", 8.0), ("equispaced", 4.0)])
    lost = [
        gone("fedmri", "out of <memory> | & more", trained_with=with_what, n_sites=4, seed=1, tested_on="T2w",
             acceleration=8.0, seen_operator=False)
        for with_what in ("random R=4", "equispaced R=4")
    ]  # fmt: skip
    rows = [row for row in part.scores if _cell(row) != ("fedmri", "all", "T2w", "random", 8.0)]
    given: dict[str, Any] = {"title": "R < 8 & more", "panels": (panel(PNG),), "missing": lost, "scores": rows}
    return replace(part, **{**given, **changes})


def tiny_study() -> Findings:
    """Two subjects a site, one seed, three methods, one operator: no claim can be made."""
    rows = [row for row in _rows(2, (0,)) if row.method in ("fedavg-unrolled", "local", "tv", "zero-filled")]
    rows = [row for row in rows if (row.mask, row.acceleration) == ("random", 4.0) and row.tested_on != "PDw"]
    rows = [row for row in rows if "PDw" not in row.trained_on and row.trained_with in ("", "random R=4")]
    methods = [method for method in METHODS if method.name in {row.method for row in rows}]
    return Findings(
        "real-three-sites", "Three real sites", "FINISHED", methods, rows, (), {"trainings": "4"}, {}, (), url
    )


def panel(png: bytes) -> Panel:
    return Panel("T1w, random R = 8", "Errors are three times enlarged.", png)


def _cell(row: Score) -> tuple[Any, ...]:
    return row.method, row.trained_on, row.tested_on, row.mask, row.acceleration


@cache
def _rows(n_subjects: int, seeds: tuple[int, ...]) -> list[Score]:
    rng = np.random.default_rng(0)
    ease = {(site, i): rng.normal(0, 1.2) for site in SITES for i in range(n_subjects)}
    rows = []
    for method in METHODS:
        for trained_on in _trainings(method):
            for scheme in ("",) if _knows_no_operator(method) else ("random R=4", "equispaced R=4"):
                for seed in seeds if method.trains else (None,):
                    for tested_on in SITES:
                        if method.personal and trained_on == f"all but {tested_on}":
                            continue
                        for mask in MASKS:
                            for r in ACCELERATIONS:
                                rows += [
                                    _row(rng, method, trained_on, scheme, seed, tested_on, mask, r, i, ease)
                                    for i in range(n_subjects)
                                ]
    return rows


def _trainings(method: Method) -> list[str]:
    return ["all", *(f"all but {site}" for site in SITES)] if method.trains else [UNTRAINED]


def _knows_no_operator(method: Method) -> bool:
    return not method.trains or method.name == "fedgimp"


def _row(
    rng: np.random.Generator,
    method: Method,
    trained_on: str,
    scheme: str,
    seed: int | None,
    site: str,
    mask: str,
    r: float,
    i: int,
    ease: dict[tuple[str, int], float],
) -> Score:
    gain, site_loss, operator_loss = EFFECTS[method.name]
    seen_site = method.trains and not trained_on.endswith(site)
    seen_operator = scheme in ("", f"{mask} R={r:g}")
    psnr = 24 - 1.1 * r + SITES.index(site) + ease[site, i] + gain * (1 - 0.05 * r) + (0.6 if mask == "random" else 0.0)
    psnr -= site_loss * (method.trains and not seen_site) + operator_loss * (not seen_operator)
    psnr += rng.normal(0, 0.25) + (0.08 * (seed or 0))
    return Score(
        method=method.name,
        trained_with=scheme,
        slices_per_site=80.0 if method.trains else 0.0,
        seed=seed,
        tested_on=site,
        mask=mask,
        acceleration=r,
        operator=f"{mask} R={r:g}",
        noise=1.0,
        subject=f"{site}-{i:02d}",
        psnr=psnr,
        ssim=1 - 10 ** (-psnr / 25),
        nmse=10 ** (-psnr / 12),
        n_slices=8,
        seen_site=seen_site,
        seen_operator=seen_operator,
        run_id=f"{method.name}-{trained_on}-{scheme}-{seed}".replace(" ", "_"),
        digest="digest",
        sites=training(trained_on, 0 if not method.trains else 4 if trained_on == "all" else 3),
    )
