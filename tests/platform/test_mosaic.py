"""One picture of all sites a round: who is in it, how large, and that no round waits for it."""

import io
from functools import partial

import numpy as np
import pytest
from memory_store import MemoryStore
from PIL import Image
from test_training_run import finish
from tiny import UNET

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.federation import mosaic
from fedrecon.platform.federation.mosaic import FEW, MOST, PANELS, SAMPLES, Mosaic
from fedrecon.platform.federation.progress import Progress
from fedrecon.platform.federation.scorer import Scorer
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.run import steps
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.scoring.panel import montage, tile
from fedrecon.sites.wire import Panels


def names(n):
    return tuple(f"site-{number:04}" for number in range(n))


def square(side, grey):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (grey,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))


@pytest.mark.parametrize(("n", "drawn", "small"), [(1, 1, False), (FEW, FEW, False), (FEW + 1, FEW + 1, True)])
def test_all_sites_are_drawn_and_few_of_them_large(n, drawn, small):
    task = Mosaic(names(n)).task("validation", "round 1")
    assert (len(task.sites), task.small) == (drawn, small)


def test_of_very_many_sites_some_are_drawn_evenly_spread():
    assert Mosaic(names(MOST)).drawn == names(MOST)
    assert Mosaic(names(1000)).drawn[:3] == ("site-0000", "site-0015", "site-0031")  # 1000 / 64 = 15.6
    assert len(set(Mosaic(names(1000)).drawn)) == MOST


@pytest.mark.parametrize(
    ("n", "size"),
    [(1, (10, 10)), (2, (10, 24)), (3, (10, 38)), (4, (10, 52)), (5, (24, 38)), (8, (24, 52))],
)
def test_few_sites_stand_in_rows_of_one_or_two(n, size):
    """Squares of 10 pixels, 4 apart."""
    (png,) = Mosaic(names(n)).joined(PANELS, dict.fromkeys(names(n), square(10, 9)), "note", None).values()
    assert Image.open(io.BytesIO(png)).size == size


def test_many_sites_stand_in_rows_of_four_under_a_line_that_says_what_they_are():
    given = {name: square(200, number) for number, name in enumerate(names(9))}
    (png,) = Mosaic(names(9)).joined(PANELS, given, "round 1", None).values()
    shown = pixels(png)
    head = shown.shape[0] - (3 * 200 + 2 * 4)
    assert 10 < head < 30
    assert shown[:head].max() > 100
    assert [shown[head + 204 * row, 204 * column] for row in (0, 1) for column in range(4)] == list(range(8))
    assert shown[-1, 0] == 8
    samples = pixels(Mosaic(names(9)).joined(SAMPLES, given, "round 1", None)[SAMPLES])
    assert (samples[:head] != shown[:head]).any()  # no reference, no error there


@pytest.mark.slow
def test_of_very_many_samples_those_of_the_same_sites_are_shown():
    """Every site of a prior sends its own; what pooled sites draw together has a name of its own."""
    many, every = Mosaic(names(2 * MOST)), names(2 * MOST)
    grey = {one: square(200, number) for number, one in enumerate(every)}
    chosen = {one: grey[one] for one in every[::2]}
    assert many.joined(SAMPLES, grey, "round 1", None) == many.joined(SAMPLES, chosen, "round 1", None)
    assert list(many.joined(SAMPLES, {"pooled": square(10, 9)}, "round 1", None)) == [SAMPLES]


def test_a_tile_shows_the_four_images_and_hides_no_error():
    reference = np.tile(np.linspace(0, 1, 24, dtype=np.float32), (24, 1))
    wrong = np.where(reference > 0.5, 0, reference)
    good, bad = (pixels(tile(reference, wrong, one, 1.0, "a")) for one in (reference, wrong))
    assert good.shape == (16 + 96, 4 * 96 + 3 * 2)
    images = [good[16:, 98 * number : 98 * number + 96].astype(int) for number in range(4)]
    assert (images[0] == images[2]).all()
    assert (images[0] - images[1])[:, 60:].min() > 100
    assert images[3].max() == 0
    assert bad[16:, -30:].min() > 150


def test_what_cannot_be_joined_or_drawn_is_said_and_the_rest_is_shown():
    said, mosaic = [], Mosaic(("a", "b", "c"))
    found = mosaic.pictures([Panels("b", {"b": square(4, 1)}), Panels("a", {}, "no font")], said.append)
    assert list(found) == ["b"]
    assert mosaic.joined(PANELS, found, "note", said.append) == {PANELS: montage([square(4, 1)])}
    assert mosaic.joined(PANELS, {"a": b"\x89PNG torn"}, "round 7", said.append) == {}
    assert mosaic.joined(PANELS, {}, "note", said.append) == {}
    assert [any(word in line for word in ("no font", "round 7")) for line in said] == [True, True]


def course(consortium, place, said=None):
    store = MemoryStore()
    given = {
        "name": "pictured",
        "sites": {name: str(consortium[name]) for name in ("north", "middle")},
        "operator": {"mask": "random", "acceleration": 3},
        "network": UNET,
        "training": {"rounds": 2, "batch_size": 2},
        "evaluation": {"every": 1, "panels": True},
    }
    progress = partial(Told, said if said is not None else [])
    context = RunContext(workspace=place, executor="in-process", store=store, progress=progress)
    return store, steps(Experiment.read(given), context)


class Told(Progress):
    """Keeps what is said of trouble."""

    def __init__(self, said, *given):
        super().__init__(*given, stream=io.StringIO())
        self.said = said

    def trouble(self, message):
        self.said.append(message)


@pytest.mark.slow
def test_a_site_that_cannot_draw_costs_a_run_its_pictures_and_nothing_else(consortium, tmp_path, monkeypatch):
    import fedrecon.sites.scoring.picture as drawing

    drawn = drawing.tile

    def no_font(*given):
        if given[-1] == "north":
            raise OSError("no font")
        return drawn(*given)

    monkeypatch.setattr(drawing, "tile", no_font)
    monkeypatch.setattr(mosaic, "FEW", 0)
    store, running = course(consortium, tmp_path, said := [])
    _, result = finish(running)
    assert result.status == "finished"
    assert [(key, step) for key, step, _ in store.runs[0].images] == [("panels/sites", step) for step in (0, 1, 2)]
    assert len(said) == 4  # three rounds and the test
    assert all("'north'" in line and "OSError" in line for line in said)  # its text stays at the site
    assert [path.name for path in (RunFolder(tmp_path, result.digest).path / "panels").iterdir()] == ["sites.png"]


@pytest.mark.slow
def test_a_round_is_committed_before_it_is_drawn_and_drawn_after_a_crash(consortium, tmp_path, monkeypatch):
    whole, picture = [], Scorer.picture
    monkeypatch.setattr(mosaic, "FEW", 0)  # small pictures cost less

    def dies(self, state, drawn=None):
        if state.round == 1:
            raise KeyboardInterrupt
        return picture(self, state, drawn)

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "picture", dies)
        _, running = course(consortium, tmp_path)
        with pytest.raises(KeyboardInterrupt):
            finish(running)
    (folder,) = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    state, _ = RunFolder(tmp_path, folder.name).checkpoints.latest()
    assert state.round == 1
    store, running = course(consortium, tmp_path, whole)
    _, result = finish(running)
    assert (result.resumed_from, result.trained_rounds, whole) == (1, 1, [])
    steps_of = [step for run in store.runs for _, step, _ in run.images]
    assert sorted(steps_of) == [0, 1, 2]
