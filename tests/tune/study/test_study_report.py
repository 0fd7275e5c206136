import base64
import io
import random
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image
from small_studies import BIBTEX, PNG, found, operator_study, panel, score, tiny_study, untrained, without_methods

from fedrecon.platform.reporting import html
from fedrecon.platform.reporting import markdown as md
from fedrecon.platform.reporting.document import Picture
from fedrecon.platform.reporting.latex import escaped, latex
from fedrecon.tune.study.analysis.analyse import analyse
from fedrecon.tune.study.analysis.inputs import Method, shortened
from fedrecon.tune.study.analysis.results import pair_of
from fedrecon.tune.study.report.figures import draw
from fedrecon.tune.study.report.sections import document
from fedrecon.tune.study.report.sentences import BELOW, in_short, p_value
from fedrecon.tune.study.report.tables import all_tables

PARTS = ("figure", "html", "markdown", "latex", "terminal")


def markdown(findings, statistics, figures):
    return md.markdown(document(findings, statistics, figures), findings.run_url)


def page(findings, statistics, figures):
    return html.page(document(findings, statistics, figures), findings.run_url)


def tables(findings, statistics):
    return {f"{one.name}.tex": latex(one) for one in all_tables(findings, statistics)}


@pytest.fixture(scope="module")
def large():
    findings = without_methods(operator_study(), "cg-sense", "fedavg-unrolled")  # of each kind one is left
    statistics = analyse(findings)
    return findings, statistics, draw(findings, statistics)


@pytest.fixture(scope="module")
def tiny():
    findings = tiny_study()
    statistics = analyse(findings)
    return findings, statistics, draw(findings, statistics)


@pytest.fixture(scope="module")
def large_text(large):
    return markdown(*large)


@pytest.fixture(scope="module")
def large_page(large):
    return page(*large)


def every_sentence(findings, statistics):
    return " ".join(line for lines in in_short(findings, statistics).values() for line in lines)


class Seen(HTMLParser):
    """What a browser would load, run and show."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.words, self.images, self.links = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)
        self.images += [value for name, value in attrs if tag == "img" and name == "src"]
        self.links += [value for name, value in attrs if tag == "a" and name == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)


# --- sentences ---


@pytest.mark.slow
def test_what_is_best_is_said_with_its_interval_lead_and_test(large):
    findings, statistics, _ = large
    text = every_sentence(findings, statistics)
    best = next(iter(statistics.choices.values()))[0]
    one, second = statistics.at(best.best.group, None, best.best.method), best.others[0].test
    assert f"{one.mean:.2f} dB (95 % interval {one.low:.2f} to {one.high:.2f}, mean of 3 operators)" in text
    assert f"{-second.mean:.2f} dB ahead of" in text
    assert "p < .001 after Holm, n = 32 subjects" in text
    assert "pooled† has the best" not in text
    assert "2 cells are missing" in text
    assert "simulated" in text


@pytest.mark.slow
def test_of_too_few_subjects_the_sentences_claim_nothing(tiny):
    text = every_sentence(*tiny[:2])
    assert "n = 6 subjects: no claim can be made" in text
    assert "FLAIR 2, T1w 2, T2w 2" in text
    for word in ("after Holm", "has the best", "95 % interval"):
        assert word not in text


@pytest.mark.slow
def test_a_lead_that_is_not_significant_is_no_lead():
    rows = [score("a", 30 + i % 2, f"s{i}", seed=seed) for i in range(8) for seed in range(3)]
    rows += [score("b", 30 + (i + 1) % 2, f"s{i}", seed=seed) for i in range(8) for seed in range(3)]
    findings = found(rows)
    text = every_sentence(findings, analyse(findings))
    assert "not distinguishable from" in text
    assert "ahead of" not in text


@pytest.mark.parametrize(
    ("p", "shown"), [(None, "–"), (1e-9, "< .001"), (0.04, ".040"), (0.5, ".500"), (1.0, "1"), (0.9999, "1")]
)
def test_p_values_are_written_as_papers_do(p, shown):
    assert p_value(p) == shown


# --- Markdown ---


@pytest.mark.slow
def test_the_report_has_all_its_chapters_in_order(large_text):
    text = large_text
    assert re.findall(r"^## (.*)$", text, re.M) == [
        "In short",
        "Scores",
        "Scores by site",
        "Pictures",
        "Tests",
        "What is lost outside of the training",
        "Does federation pay?",
        "Missing cells",
        "What ran",
        "Tables to paste",
        "Cite what ran",
    ]
    assert BIBTEX in text
    assert "out of &lt;memory> \\| &amp; more" in text
    assert "| pooled† |" in text
    assert "| fedmri‡ |" in text


@pytest.mark.slow
def test_every_row_of_scores_refers_to_its_runs(large, large_text):
    text = large_text
    known = set(re.findall(r"^\[(r\d+)\]: <http", text, re.M))
    assert set(re.findall(r"\]\[(r\d+)\]", text)) <= known
    assert len(known) == len({row.run_id for row in large[0].scores})
    table = text.split("## Scores\n")[1].split("\n\n")[2].splitlines()
    assert all("][r" in line for line in table[2:])
    assert [line.split("|")[1].strip() for line in table[2:]][-1] == "zero-filled"


@pytest.mark.slow
def test_every_figure_that_is_shown_is_there(large, large_text):
    shown = re.findall(r"\(figures/(.*?)\.png\)", large_text)
    assert sorted(shown) == sorted(one.name for one in large[2])
    assert "panel-1" in shown


@pytest.mark.slow
def test_every_figure_refers_to_its_runs(tiny):
    findings, statistics, figures = tiny
    runs = {row.run_id for row in findings.scores}
    known = {one.name: set(one.runs) for one in figures}
    assert all(known.values())
    assert known["map-sites"] == runs
    assert known["gaps"] == {run for run in runs if "nothing" not in run}
    unseen = next(iter(statistics.tables))
    assert known["box-1"] == {
        run for samples in statistics.tables[unseen].values() for one in samples.values() for run in one.runs
    }
    assert all(f"{run.rsplit('-', 1)[0]}" in markdown(findings, statistics, figures) for run in known["box-1"])


@pytest.mark.slow
def test_works_are_cited_with_what_they_are_for(large_text):
    text = large_text.split("## Cite what ran")[1]
    assert "| Communication-efficient learning, mcmahan2017 | fedavg-unet |" in text
    assert BIBTEX in text
    assert "| fastMRI: an open dataset, zbontar2018 | random |" in text


def test_an_operator_is_named_as_its_task_does():
    rows = [score("a", 30 + i, f"s{i}", mask="bicubic", acceleration=2.0, operator="bicubic x2") for i in range(8)]
    findings = found(rows)
    text = markdown(findings, analyse(findings), [])
    assert "bicubic x2" in text
    assert "R=2" not in text


@pytest.mark.slow
def test_a_missing_mean_is_shown_as_missing(large_text):
    text = large_text
    row = next(line for line in text.splitlines() if line.startswith("| fedmri‡ | 32 |"))
    assert row.split("|")[3].strip() == "missing"


@pytest.mark.slow
def test_the_differences_of_few_subjects_are_listed(tiny):
    text = markdown(*tiny)
    assert "n = 6 subjects: no claim can be made. Differences: FLAIR FLAIR-00 " in text


# --- the page ---


@pytest.mark.slow
def test_the_page_is_whole_and_loads_nothing(large, large_page):
    seen = Seen()
    seen.feed(large_page)
    assert seen.open == []
    assert len(seen.images) == len(large[2])
    shown = [base64.b64decode(re.fullmatch(r"data:image/(?:png|svg\+xml);base64,(.*)", one)[1]) for one in seen.images]
    assert sorted(shown) == sorted(one.svg or one.png for one in large[2])
    assert not {"link", "iframe", "object"} & set(seen.tags)
    assert seen.tags.count("script") == 1
    assert any(link.endswith("/fedmri-all-random_R=4-0") for link in seen.links)


@pytest.mark.slow
def test_everything_is_escaped():
    evil = "<script>alert('x')</script>\"&$_{}|*"
    method = Method(evil, evil, True, True, True, False)
    findings = found(
        [score(evil, tested_on=evil, mask=evil, subject=evil, trained_with=evil, run_id=evil)],
        methods=[method],
        facts={evil: evil},
        citations={f"@misc{{evil,\n  title = {{{evil}}}\n}}": [evil]},
        panels=(replace(panel(PNG), title=evil, caption=evil),),
        run_url=lambda run_id: f"javascript:{run_id}",
    )
    statistics = analyse(findings)
    html = page(findings, statistics, [Picture("panel-1", evil, PNG, runs=[evil])])
    seen = Seen()
    seen.feed(html)
    assert seen.tags.count("script") == 1
    assert evil in "".join(seen.words)
    assert not any(link.startswith("javascript") for link in seen.links)
    assert "<script" not in markdown(findings, statistics, []).split("```")[0]
    assert all(r"\_" in text for text in tables(findings, statistics).values())


# --- LaTeX ---


def test_latex_is_escaped():
    assert escaped("a_b & 5 % † −1 ±2") == r"a\_b \& 5 \% \textsuperscript{\dag} $-$1 $\pm$2"


@pytest.mark.slow
def test_every_table_has_its_file_and_as_many_cells_as_columns(large):
    files = tables(*large[:2])
    assert {
        "which.tex",
        "psnr-1.tex",
        "ssim-2.tex",
        "psnr-by-site-1.tex",
        "tests-1.tex",
        "gap-1.tex",
        "federation.tex",
    } <= set(files)
    for text in files.values():
        columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
        rows = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
        assert text.count("{") == text.count("}")


# --- pictures ---


@pytest.mark.slow
def test_pictures_are_drawn_where_they_make_sense(large, tiny):
    assert [one.name.rstrip("0123456789") for one in large[2]] == [
        *("map-operators", "gaps", "gains", "curve-", "curve-", "box-", "box-", "panel-")
    ]
    assert [one.name.rstrip("0123456789") for one in tiny[2]] == [
        *("map-sites", "gaps", "gains", "gains-sites", "box-", "box-", "box-")
    ]
    assert sum(len(one.svg or one.png) for one in large[2]) < 2_000_000
    for one in tiny[2]:
        image = Image.open(io.BytesIO(one.png))
        assert (image.size[0], round(image.info["dpi"][0])) == (2400, 200)  # 12 inches
        assert ElementTree.fromstring(one.svg).tag.endswith("svg")


@pytest.mark.slow
def test_the_same_findings_in_another_order_give_the_same_bytes(tiny):
    findings, statistics, figures = tiny
    mixed = list(findings.scores)
    random.Random(2).shuffle(mixed)
    other = replace(findings, scores=mixed)
    again = analyse(other)
    assert draw(other, again) == figures
    assert markdown(other, again, figures) == markdown(findings, statistics, figures)
    assert page(other, again, figures) == page(findings, statistics, figures)
    assert tables(other, again) == tables(findings, statistics)


@pytest.mark.slow
def test_a_study_without_training_is_reported_too():
    findings = found([untrained("tv", 30.0), untrained("zero-filled", 20.0)])
    statistics = analyse(findings)
    assert "at all hospitals, without training" in markdown(findings, statistics, draw(findings, statistics))


@pytest.mark.slow
def test_a_study_in_which_everything_failed_is_reported_too():
    findings = operator_study(scores=())
    statistics = analyse(findings)
    assert "out of &lt;memory>" in markdown(findings, statistics, draw(findings, statistics))
    assert page(findings, statistics, [])


def test_a_label_that_is_cut_keeps_its_marks():
    assert shortened("a-very-long-name†‡", 10) == "a-very-…†‡"
    assert shortened("short†", 10) == "short†"


@pytest.mark.slow
def test_importing_the_report_is_light():
    """One process for all: where their union loads nothing heavy, none of them does."""
    modules = ["tune.study.analysis.analyse", "tune.study.report.figures", "tune.study.report.sections"]
    modules += ["tune.sweep.page", *(f"platform.reporting.{one}" for one in PARTS)]
    heavy = "{'torch', 'ray', 'mlflow', 'matplotlib', 'jinja2', 'scipy'}"
    code = "import importlib, sys\n"
    code += f"for one in {modules}:\n    importlib.import_module(f'fedrecon.{{one}}')\n"
    code += f"    print(*(f'{{one}} loads {{name}}' for name in {heavy} & sys.modules.keys()), end='')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# --- below zero-filled ---


def test_a_method_below_zero_filled_comes_first_and_is_red():
    rows = [score("a", 20 + i, f"s{i}") for i in range(4)] + [score("b", 30 + i, f"s{i}") for i in range(4)]
    keys = [(row.tested_on, row.mask, row.acceleration, row.noise, row.subject) for row in rows[:4]]
    findings = found(rows, zero_filled=dict(zip(keys, (21.0, 22.0, 23.0, 24.0), strict=True)))
    statistics = analyse(findings)
    # a is 20, 21, 22, 23: one below each subject's zero-filled image; b is nine above.
    assert {(method, by) for (_, _, method, _), by in statistics.below.items()} == {("a", -1.0)}
    first = next(iter(in_short(findings, statistics).items()))
    assert first[0] == BELOW
    assert len(first[1]) == 1
    assert first[1][0].startswith("a ")
    assert "−1.00 dB" in first[1][0]
    assert re.search(r'class="number bad" data-key="21.5"', page(findings, statistics, []))


def test_nothing_is_said_of_zero_filled_where_an_image_is_missing_or_of_itself():
    rows = [score("a", 20 + i, f"s{i}") for i in range(4)]
    keys = [(row.tested_on, row.mask, row.acceleration, row.noise, row.subject) for row in rows]
    assert analyse(found(rows, zero_filled=dict.fromkeys(keys[:3], 40.0))).below == {}
    own = [Method("a", "", False, False, False, False, zero_filled=True)]
    assert analyse(found(rows, methods=own, zero_filled=dict.fromkeys(keys, 40.0))).below == {}


@pytest.mark.slow
def test_the_coverage_of_the_tests_is_said(large, tiny):
    def said(findings, statistics):
        compared = [one for tests in statistics.tests.values() for one in tests]
        compared += [rival.test for own in statistics.choices.values() for one in own for rival in one.others]
        compared = list({pair_of(one): one for one in compared}.values())
        return len(compared), sum(one.p is not None for one in compared)

    for findings, statistics, _ in (large, tiny):
        whole, tested = said(findings, statistics)
        assert f"{tested} of {whole} comparisons have a test" in every_sentence(findings, statistics)


def test_a_section_without_content_is_not_shown():
    findings = found([untrained("tv", 30.0), untrained("zero-filled", 20.0)])
    titles = [section.title for section in document(findings, analyse(findings), []).shown]
    assert not {"Missing cells", "Does federation pay?", "What is lost outside of the training"} & set(titles)
    assert "Scores" in titles


@pytest.mark.slow
def test_every_header_has_a_scope(large_page):
    text = large_page
    assert len(re.findall(r"<th\b", text)) == len(re.findall(r'<th scope="(?:col|row)"', text)) > 0
