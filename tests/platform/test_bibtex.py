"""Every work that a plug-in cites is BibTeX that pybtex, the oracle, reads as we do and formats without a warning."""

import re
from types import SimpleNamespace

import pybtex.errors
import pytest
from pybtex import PybtexEngine
from pybtex.database import BibliographyData, parse_string

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.runs.report import SSIM_PAPER, report
from fedrecon.platform.runs.results import cited
from fedrecon.sites.classical import RECONSTRUCTORS
from fedrecon.sites.errors import InputError
from fedrecon.sites.extension.bibtex import Entry, check_paper, distinct, entries, paper_of
from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.strategies import STRATEGIES
from fedrecon.strategies.networks import NETWORKS
from fedrecon.tune.study.citations import citations

PAPERS: dict[str, str] = {
    **{f"strategy {name}": kind.paper for name, kind in STRATEGIES.items()},
    **{f"network {name}": kind.load().paper for name, kind in NETWORKS.items()},
    **{f"reconstructor {name}": kind.paper for name, kind in RECONSTRUCTORS.items()},
    **{f"mask {name}": kind.paper for name, kind in MASKS.items()},
    **{f"degradation {name}": kind.paper for name, kind in DEGRADATIONS.items()},
    "score SSIM": SSIM_PAPER,
}

WITHOUT_A_WORK = {
    "strategy local": "a control: plain training at each site alone",
    "strategy pooled": "a control: plain training on all data in one place",
    "reconstructor zero_filled": "nothing is reconstructed",
    "degradation kspace-truncation": "the definition of a scan of lower resolution",
    "degradation blur-downsample": "a Gaussian and every n-th sample: textbook",
}
"""The only plug-ins that may cite nothing, and why."""

WORKS: dict[str, Entry] = {entry.key: entry for entry in distinct(PAPERS.values())}

REQUIRED = {
    "article": {"author", "title", "journal", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "misc": {"author", "title", "howpublished", "year"},
}

SITES = "data/simulated"


def experiment(**given) -> Experiment:
    return Experiment.read({"name": "n", "sites": SITES, **given})


def with_network(name: str) -> Experiment:
    network = {"network": {"name": name}}
    if NETWORKS[name].kind == "super-resolution":
        return experiment(task="super-resolution", degradation={"kind": "bicubic", "scale": 2}, **network)
    strategy = {"prior": "fedgimp", "denoiser": "feddiff"}.get(NETWORKS[name].kind, "fedavg")
    return experiment(strategy={"name": strategy}, training={"augment": False}, **network)


def with_reconstructor(name: str) -> Experiment:
    one = {"reconstructor": {"name": name}}
    if RECONSTRUCTORS[name].needs_low:
        return experiment(task="super-resolution", degradation={"kind": "bicubic", "scale": 2}, **one)
    return experiment(operator={"mask": "poisson2d", "acceleration": 4}, **one)


def with_mask_at_one_site(name: str) -> Experiment:
    common = {"mask": "random", "acceleration": 4}
    return experiment(operator={**common, "per_site": {"t1w": {"mask": name, "acceleration": 4}}})


RAN: dict[str, Experiment] = {
    **{f"network {name}": with_network(name) for name in NETWORKS},
    **{f"reconstructor {name}": with_reconstructor(name) for name in RECONSTRUCTORS},
    **{f"mask {name}": with_mask_at_one_site(name) for name in MASKS},
    **{
        f"degradation {name}": experiment(
            task="super-resolution", degradation={"kind": name, "scale": 2}, network={"name": "edsr"}
        )
        for name in DEGRADATIONS
    },
}
"""For each plug-in an experiment that uses it."""


def parsed(text: str) -> BibliographyData:
    with pybtex.errors.capture() as problems:
        data = parse_string(text, "bibtex")
    assert problems == []
    return data


# --- the law of each paper ---


@pytest.mark.parametrize("name", PAPERS)
def test_it_cites_a_work_or_says_why_not(name):
    assert bool(entries(PAPERS[name])) != (name in WITHOUT_A_WORK)


@pytest.mark.parametrize("name", [name for name in PAPERS if name not in WITHOUT_A_WORK])
def test_pybtex_reads_what_we_read(name):
    for text in (PAPERS[name], "\n\n".join(map(str, entries(PAPERS[name])))):
        read = [
            (entry.type, key, {**fields(entry), "author": [str(one) for one in entry.persons["author"]]})
            for key, entry in parsed(text).entries.items()
        ]
        ours = [(entry.kind, entry.key, dict(entry.fields)) for entry in entries(PAPERS[name])]
        assert [(kind, key, {**given, "author": given["author"].split(" and ")}) for kind, key, given in ours] == read


def fields(entry) -> dict[str, str]:
    """Without the line breaks of the source, which mean a space in BibTeX."""
    return {name.lower(): " ".join(value.split()) for name, value in entry.fields.items()}


@pytest.mark.slow
@pytest.mark.parametrize("key", WORKS)
def test_the_plain_style_formats_it_without_a_warning(key, tmp_path):
    path = tmp_path / "works.bib"
    path.write_text(str(WORKS[key]), encoding="ascii")
    with pybtex.errors.capture() as problems:
        shown = PybtexEngine().format_from_file(str(path), style="plain", output_backend="plaintext")
    assert problems == []
    assert dict(WORKS[key].fields)["year"] in shown


@pytest.mark.parametrize("key", WORKS)
def test_its_fields_are_complete_and_safe_in_latex(key):
    work = WORKS[key]
    given = dict(work.fields)
    assert len(given) == len(work.fields), "a field is given twice"
    assert set(given) >= REQUIRED[work.kind]
    assert re.fullmatch(r"(19|20)\d\d", given["year"])
    assert re.fullmatch(r"10\.\d{4,}/\S+", given.get("doi", "10.0000/none"))
    assert re.fullmatch(r"arXiv:\d{4}\.\d{4,5}", given.get("howpublished", "arXiv:0000.00000"))
    assert re.fullmatch(r"\d+(--\d+)?", given.get("pages", "1"))
    for value in given.values():
        assert value.isascii()
        assert not re.search(r"(?<!\\)[&%_#$~^]", value)
        unescaped = re.sub(r"\\.", "", value)
        assert unescaped.count("{") == unescaped.count("}")
    (first, *_) = parsed(str(work)).entries[key].persons["author"]
    surname = re.sub(r"[^a-z]", "", "".join(first.last_names).lower())
    assert key.startswith(f"{surname}{given['year']}"), "a key is the first author, the year and a word"


def test_the_same_work_has_the_same_key_and_text_everywhere():
    every = distinct(PAPERS.values())
    assert len({entry.key.lower() for entry in every}) == len(every)
    assert len({re.sub(r"\W", "", entry.title.lower()) for entry in every}) == len(every)
    assert len({dict(entry.fields).get("doi", entry.key).lower() for entry in every}) == len(every)


# --- what ran is cited ---


@pytest.mark.parametrize("name", RAN)
def test_a_run_and_a_study_cite_each_work_of_what_ran_once(name):
    ran = RAN[name]
    wanted = [entry.key for entry in entries(PAPERS[name])]
    wanted += [entry.key for entry in entries(SSIM_PAPER)]
    if ran.trains:
        wanted += [entry.key for entry in entries(ran.method.paper)]
    result = {"sites": {}, "mean": {}}
    in_report = parsed(report(result, {}, cited(ran), {}).split("```bibtex\n")[1].split("```")[0])
    cell = SimpleNamespace(digest="d", method="the-method", tested_on="t1w")
    matrix = SimpleNamespace(trials=[SimpleNamespace(digest="d", experiment=ran)], cells=[cell, cell])
    of_study = citations(matrix)
    in_study = parsed("\n\n".join(of_study))
    assert set(wanted) <= set(in_report.entries)
    assert set(in_report.entries) == set(in_study.entries)
    shown = "the-method" if name.split()[0] in ("network", "reconstructor") else name.split()[1]
    for entry in entries(PAPERS[name]):
        assert shown in of_study[str(entry)]


# --- the reader itself ---


def test_an_entry_is_written_with_one_field_a_line():
    text = "@Article{a1, Title = {An {MRI}\n    of {\\'e}t{\\'e}}, year={2001},}\n@misc{b2,\n title = {B}}"
    one, two = entries(text)
    assert str(one) == "@article{a1,\n  title = {An {MRI} of {\\'e}t{\\'e}},\n  year = {2001}\n}"
    assert (one.kind, one.key, one.fields[1]) == ("article", "a1", ("year", "2001"))
    assert (two.key, two.title) == ("b2", "B")
    assert entries(str(one)) == [one]
    assert distinct([text, "", text]) == [one, two]


def test_an_escaped_brace_closes_nothing():
    (one,) = entries(r"@misc{a, title = {a \} b}}")
    assert one.fields == (("title", r"a \} b"),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Lustig M. Sparse MRI. 2007.", "beginning of a BibTeX entry: 'Lustig M"),
        ("@misc{a, title = {B}", "the end of a"),
        ("@misc{a, title = {B}} and more", "'and more'"),
        ('@misc{a, title = "B"}', "a field in braces"),
        ("@misc{a, title = {B", "not closed: 'B'"),
    ],
)
def test_what_is_not_bibtex_is_refused_with_its_place(text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        entries(text)


def test_a_paper_that_is_a_parameter_or_missing():
    with pytest.raises(InputError, match=r"^mine\.py: 'mine': paper is a parameter; .*ClassVar"):
        check_paper("mine.py: 'mine'", SimpleNamespace(model_fields={"paper": None}))
    assert (check_paper("x", object), paper_of(object)) == (None, "")
