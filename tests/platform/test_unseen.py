"""A site that never trained has no private part: every rule is stated, asked for, and checked."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import DENOISER, UNET, make_volume

import fedrecon
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.consent import UnseenPolicy
from fedrecon.platform.consortium.network import images, layout_for, private_members
from fedrecon.platform.consortium.shards import open_sites
from fedrecon.platform.federation.aggregate import summarise
from fedrecon.platform.inference.evaluate import _mean_row, evaluate
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.inference.unseen_sites import RULES, UnseenSite
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.wire import PrivatePart, ScoreTask, State, TrainRequest


@pytest.fixture(scope="module")
def workspace(consortium, tmp_path_factory):
    place = tmp_path_factory.mktemp("unseen")
    given = {
        "sites": {name: str(path) for name, path in consortium.items()},
        "network": UNET,
        "training": {"rounds": 2, "batch_size": 2, "learning_rate": 0.01},
        "evaluation": {"every": 2, "panels": False},
    }
    runs = {
        name: fedrecon.run({**given, "strategy": {"name": name}}, workspace=place, in_process=True).digest
        for name in ("fedper", "fedavg")
    }
    return place, runs


@pytest.fixture
def newcomer(tmp_path):
    """A hospital of its own patients; ``without`` leaves a split out."""

    def write(without=()):
        volumes = [
            make_volume(f"new-{split}", split, n, 1, seed)
            for split, n, seed in (("train", 3, 73), ("validation", 2, 71), ("test", 2, 72))
            if split not in without
        ]
        path = tmp_path / "newcomer.h5"
        write_shard(path, "newcomer", volumes, simulated=True, phase="smooth", origin="phantom")
        return {"newcomer": str(path)}

    return write


def private_of(site):
    """The private parameters of a site that asked nobody: it is the test's own."""
    site.plan = replace(site.plan, publish_private=True)
    return site.private_part(
        TrainRequest(3, site.parameters.shared.numpy(), {}, {site.name: site.memory.round})
    ).parameters


def rows(workspace, newcomer, **options):
    place, runs = workspace
    return evaluate(runs["fedper"], **{"sites": newcomer(), "workspace": place, **options})["rows"]


@pytest.mark.slow
def test_without_a_rule_nothing_is_guessed(workspace, newcomer):
    with pytest.raises(InputError, match=r"'newcomer' did not train.*average, nearest or fine-tune"):
        rows(workspace, newcomer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unseen": "avrage"}, "Did you mean 'average'"),
        ({"unseen": "average"}, "No agreement: middle, north, south"),
        ({"unseen": "average", "published": ["north", "south"]}, "No agreement: middle"),
        ({"unseen": "nearest"}, "needs a site that agreed"),
        ({"unseen": "nearest", "published": ["nroth"]}, "Did you mean 'north'"),
        ({"unseen": "fine-tune", "fine_tune_epochs": 0}, "at least 1"),
        ({"fine_tune_epochs": 3}, "given: no rule"),
        ({"unseen": "average", "published": ["all"], "fine_tune_epochs": 3}, "given: average"),
        ({"unseen": "fine-tune", "sites": None}, "all of these did: middle, north, south"),
    ],
)
def test_what_cannot_be_followed_is_refused(workspace, newcomer, options, message):
    with pytest.raises(InputError, match=message):
        rows(workspace, newcomer, **options)


@pytest.mark.slow
def test_under_a_rule_a_new_site_is_pictured_where_pictures_are_allowed(workspace, newcomer):
    place, runs = workspace
    given = {"sites": newcomer(), "unseen": "average", "published": ["all"], "workspace": place}
    (picture,) = evaluate(runs["fedper"], ["evaluation.panels=true"], **given)["pictures"]
    assert "newcomer" in picture


@pytest.mark.slow
def test_a_run_that_shares_everything_needs_no_rule(workspace, newcomer):
    place, runs = workspace
    with pytest.raises(InputError, match="shares its whole network"):
        evaluate(runs["fedavg"], sites=newcomer(), unseen="average", workspace=place)
    (row,) = evaluate(runs["fedavg"], sites=newcomer(), workspace=place)["rows"]
    assert row["model"] == "global"


def at_newcomer(workspace, newcomer, rule, published=(), epochs=None):
    place, runs = workspace
    trained = TrainedRun.load(place, runs["fedper"])
    shard = Shard.open(next(iter(newcomer().values())))
    unseen = UnseenPolicy.of(trained.members, trained.experiment.publish_private, rule, published, epochs)
    operator = trained.experiment.operator_at("newcomer")
    return trained, RULES[rule](UnseenSite(trained, "newcomer", shard, operator, unseen))


@pytest.mark.slow
def test_the_average_is_the_mean_of_the_published_files(workspace, newcomer):
    trained, site = at_newcomer(workspace, newcomer, "average", ["all"])
    found = private_of(site)
    files = [trained.private_part(one, ["north", "middle", "south"]).parameters for one in trained.members]
    assert set(found) == set(files[0]) == {"unet.head.weight", "unet.head.bias"}
    for name, values in found.items():
        np.testing.assert_allclose(values, np.mean([one[name] for one in files], axis=0), rtol=1e-6)
    assert {row["model"] for row in rows(workspace, newcomer, unseen="average", published=["all"])} == {"average"}


@pytest.mark.slow
def test_the_nearest_has_the_best_validation_score_and_bears_its_name(workspace, newcomer):
    trained, site = at_newcomer(workspace, newcomer, "nearest", ["north", "south"])
    published = {}
    for one in ("north", "south"):
        _, alone = at_newcomer(workspace, newcomer, "nearest", [one])
        assert alone.name == f"nearest: {one}"
        published[one] = summarise(alone.evaluate(trained.request, ScoreTask("validation")).columns)["mean"]["psnr"]
    best = max(published, key=published.get)
    assert site.name == f"nearest: {best}"
    own = trained.private_part(best, [best]).parameters
    got = private_of(site)
    assert all(np.array_equal(got[name], own[name]) for name in own)


@pytest.mark.slow
def test_a_fine_tune_moves_the_private_part_alone_and_is_repeatable(workspace, newcomer):
    trained, site = at_newcomer(workspace, newcomer, "fine-tune", epochs=2)
    assert site.name == "fine-tuned 2 epochs from the first weights"
    shared = site.parameters.shared.detach().numpy().copy()
    np.testing.assert_array_equal(shared, trained.state.shared)
    _, again = at_newcomer(workspace, newcomer, "fine-tune", epochs=2)
    _, longer = at_newcomer(workspace, newcomer, "fine-tune", epochs=4)
    first, same, other = (private_of(one) for one in (site, again, longer))
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)
    _, informed = at_newcomer(workspace, newcomer, "fine-tune", ["all"], 1)
    assert informed.name == "fine-tuned 1 epochs from the average"


FIRST, SHARED, PUBLISHED = "the first weights", "the shared weights", "the average"


def tuned_at_south(consortium, strategy, published, tmp_path, epochs=1):
    """A fine-tune that moves nothing, of a run whose shared weights are 0.5 and whose private parts are 0 and 0.5."""
    paths = {name: str(path) for name, path in consortium.items()}
    sites, training = {name: paths[name] for name in ("north", "middle")}, {"rounds": 2, "learning_rate": 1e-12}
    experiment = Experiment.read({"sites": sites, "strategy": strategy, "network": UNET, "training": training})
    shapes = images(open_sites(experiment.sites))
    layout = layout_for(experiment, shapes)
    members, _ = private_members(experiment, layout, shapes.sites)
    values = {slot.name: np.ones(slot.shape, np.float32) for slot in layout.slots if slot.local}
    parts = {
        member: PrivatePart(member, 2, {name: one * np.float32(k / 2) for name, one in values.items()})
        for k, member in enumerate(members)
    }
    state = State(2, np.full(layout.n_shared, 0.5, np.float32), {}, dict.fromkeys(members, 2))
    trained = TrainedRun(RunFolder(tmp_path, "x"), experiment, state, {}, shapes, members, False, private=parts)
    shard, policy = open_sites({"south": paths["south"]})["south"], UnseenPolicy("fine-tune", published, epochs)
    site = RULES["fine-tune"](UnseenSite(trained, "south", shard, experiment.operator_at("south"), policy))
    found = {slot.name: site.parameters.flat[slot.start : slot.stop].numpy() for slot in site.parameters.slots}
    first = {slot.name: layout.flat[slot.start : slot.stop].numpy() for slot in layout.slots}
    return site.name, found, first


@pytest.mark.parametrize(
    ("strategy", "published", "sources"),
    [
        ({"name": "fedper"}, (), [FIRST]),
        ({"name": "fedper"}, ("north", "middle"), [PUBLISHED]),
        ({"name": "fedper", "personalise": {"rounds": 1}}, (), [SHARED, FIRST]),
        ({"name": "fedper", "personalise": {"rounds": 1}}, ("north",), [SHARED, FIRST]),
        ({"name": "fedper", "personalise": {"rounds": 1}}, ("north", "middle"), [SHARED, PUBLISHED]),
        ({"name": "fedavg", "personalise": {"rounds": 1, "parts": "head"}}, ("north", "middle"), [SHARED]),
        ({"name": "fedavg"}, (), [SHARED]),
    ],
)
def test_a_fine_tune_starts_where_its_label_says(consortium, tmp_path, strategy, published, sources):
    label, found, first = tuned_at_south(consortium, strategy, published, tmp_path)
    assert label == f"fine-tuned 1 epochs from {' and '.join(sources)}"
    head, rest = ({k: v for k, v in found.items() if ("head" in k) is own} for own in (True, False))
    assert all(np.allclose(values, 0.5, atol=1e-6) for values in rest.values())
    for name, values in head.items():
        start = first[name] if FIRST in sources else 0.25 if PUBLISHED in sources else 0.5
        np.testing.assert_allclose(values, np.broadcast_to(start, values.shape), atol=1e-6)


def test_the_order_of_a_fine_tune_follows_from_seed_site_and_epoch_alone(consortium, tmp_path, monkeypatch):
    from fedrecon.sites.training import fine_tuning

    asked, real = [], fine_tuning.generator
    monkeypatch.setattr(fine_tuning, "generator", lambda *parts: (asked.append(parts), real(*parts))[1])
    labels = {
        tuned_at_south(consortium, {"name": "fedper"}, published, tmp_path, epochs)[0]
        for published, epochs in (((), 1), (("north", "middle"), 1), ((), 2))
    }
    assert len(labels) == 3
    assert asked == [(0, "fine-tune", "south", epoch) for epoch in (0, 0, 0, 1)]


def test_rules_whose_scores_changed_have_digests_of_their_own():
    def digest(unseen, strategy="fedper"):
        network = "unet" if strategy == "fedper" else "denoiser"
        given = {"sites": "d", "strategy": strategy, "network": network, "test": {"sites": "d", "unseen": unseen}}
        return Experiment.read(given).digest({"a": "x"})

    codes = {"name": "feddiff", "private": ["sites"], "splitting": {"steps": 15}}
    assert digest("average", strategy=codes) != "92acc27fe3277c94"
    assert digest("average") == "3bd05730ea026e11"
    assert digest("fine-tune") != "797bb898e12d727e"


def test_private_codes_are_those_of_the_rule(consortium, tmp_path):
    """Rule nearest gives the image of the member itself, and average that of a member with the mean code."""
    paths = {name: str(path) for name, path in consortium.items()}
    sites = {name: paths[name] for name in ("middle", "north")}
    strategy = {"name": "feddiff", "private": ["sites"], "splitting": {"steps": 2}}
    experiment = Experiment.read({"sites": sites, "strategy": strategy, "network": DENOISER})
    shapes = images(open_sites(experiment.sites))
    layout = layout_for(experiment, shapes)
    members, _ = private_members(experiment, layout, shapes.sites)
    draws = np.random.default_rng(0)
    state = State(2, draws.normal(0, 0.1, layout.n_shared).astype(np.float32), {}, dict.fromkeys(members, 2))
    shard, operator = open_sites({"south": paths["south"]})["south"], experiment.operator_at("south")

    def image(label, codes, rule=None, published=()):
        """Each member trained its own row; the other one holds what it began with."""
        rows = {member: np.full((2, DENOISER["hidden"]), 7.0, np.float32) for member in members}
        for k, member in enumerate(members):
            rows[member][k] = codes[member]
        parts = {member: PrivatePart(member, 2, {"codes": values}) for member, values in rows.items()}
        trained = TrainedRun(RunFolder(tmp_path, "x"), experiment, state, {}, shapes, members, False, private=parts)
        if rule is None:
            site = trained.site(label, {label: paths["south"]}, {label: operator})
        else:
            policy = UnseenPolicy(rule, published)
            site = RULES[rule](UnseenSite(trained, "south", shard, operator, policy))
            assert site.name == label
        site.load(trained.request)
        test = site.slices("test")
        return site.image(test.scoring(test.items, 0), test.items)

    own = image("north", {"north": 2, "middle": -4})
    assert torch.equal(image("nearest: north", {"north": 2, "middle": -4}, "nearest", ("north",)), own)
    assert not torch.allclose(image("nearest: middle", {"north": 2, "middle": -4}, "nearest", ("middle",)), own)
    mean = image("average", {"north": 3, "middle": 1}, "average", members)
    torch.testing.assert_close(mean, own)


@pytest.mark.slow
def test_a_rule_needs_the_data_that_it_uses(workspace, newcomer):
    place, runs = workspace
    for rule, split in {"nearest": "validation", "fine-tune": "train"}.items():
        with pytest.raises(InputError, match="newcomer"):
            evaluate(runs["fedper"], sites=newcomer(without=(split,)), unseen=rule, published=["all"], workspace=place)


def test_the_experiment_can_say_who_publishes(consortium):
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.consortium.checks import check_experiment
    from fedrecon.platform.consortium.shards import open_sites

    paths = {name: str(path) for name, path in consortium.items()}
    shards = open_sites(paths)
    contents = {name: shard.content_hash for name, shard in shards.items()}
    plain = Experiment.read({"sites": paths})
    open_handed = Experiment.read({"sites": paths, "publish_private": "all"})
    assert plain.digest(contents) == open_handed.digest(contents)
    with pytest.raises(InputError, match="Did you mean 'north'"):
        check_experiment(Experiment.read({"sites": paths, "publish_private": ["nroth"]}), shards)


def test_the_measured_acceleration_of_a_mean_counts_a_site_once():
    """One network at a site of R = 3, three at a site of R = 4: 3.5, as the scores beside it."""
    numbers = {"volume_maximum": 1.0, "squared_norm": 1.0, "n_pixels": 100, "ssim": 0.9}
    names = {"split": "test", "subject": "s", "volume": "v", "slice": 0, "mask": "random", "acceleration": 4.0}

    def columns(site, model, measured, error):
        own = {"site": site, "model": model, "measured_acceleration": measured, "squared_error": error}
        stages = ("output", "data_consistency", "zero_filled")
        return {**{key: [value] * 3 for key, value in {**names, **numbers, **own}.items()}, "stage": [*stages]}

    seen, unseen = columns("seen", "seen", 3.0, 1e-3), [columns("new", one, 4.0, 1e-2) for one in ("seen", "b", "c")]
    mean = _mean_row([seen, *unseen])
    assert mean["measured_acceleration"] == 3.5
    assert mean["psnr"] == pytest.approx((50 + 40) / 2)
