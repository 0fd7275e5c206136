"""The budget of the pooled control: equal updates or equal passes, and both are stated."""

import pytest
from tiny import DENOISER, N_TRAIN, Federation

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.budget import Budget, budgets, spent
from fedrecon.platform.consortium.network import images, site_plan
from fedrecon.platform.consortium.shards import open_sites
from fedrecon.sites.errors import InputError
from fedrecon.sites.member.site import Site
from fedrecon.sites.training.parameters import to_vector
from fedrecon.sites.training.settings import Training
from fedrecon.strategies import STRATEGIES, make_strategy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "budget", "steps"),
    [
        ({"local_steps": 4}, None, 4),  # as every site
        ({"local_steps": 4}, "updates", 4),
        ({"local_steps": 4}, "passes", 12),  # as all three sites together
        (
            {"local_epochs": 2},
            None,
            8,
        ),  # two passes over 4 slices of one coil and 2 of two coils, 1 at a time: see below
        ({"local_epochs": 2}, "passes", 8),
        ({"local_epochs": 2}, "updates", 3),  # sites take 4, 2 and 2 steps: 8/3
    ],
)
def test_the_steps_of_a_round_are_those_of_the_budget(consortium, training, budget, steps):
    method = make_strategy("pooled", {"budget": budget})
    one = Federation(method, consortium, training=training, rounds=1)
    (reply,) = one.executor().fit(method.request(one.begin()))
    assert reply.steps == steps


def test_updates_and_passes_by_hand():
    training, method = Training(local_steps=5), make_strategy("pooled", {"budget": "passes"})
    assert method.updates(training, 9, [4, 4, 2]) == 15
    assert make_strategy("pooled", {"budget": "updates"}).updates(Training(local_epochs=3), 9, [4, 4, 1]) == 9
    for name in STRATEGIES:  # the law over the registry: without a budget the block training says it
        plain = make_strategy(name, {})
        assert (plain.updates(training, 9, [9]), plain.updates(Training(local_epochs=3), 9, [9])) == (5, 27)


def test_both_numbers_are_stated(consortium):
    from fedrecon.sites.data.shard import Shard

    shards = {name: Shard.open(path) for name, path in consortium.items()}

    def found(strategy, **training):
        block = {"rounds": 3, "batch_size": 2, **training}
        return budgets(Experiment.read({"sites": "d", "strategy": strategy, "training": block}), shards)

    local = found({"name": "local"}, local_steps=4)
    assert {name: (one.updates, one.passes) for name, one in local.items()} == {
        "north": (12, 6.0), "middle": (12, 12.0), "south": (12, 12.0),
    }  # fmt: skip
    (updates,) = found({"name": "pooled"}, local_steps=4).values()
    (passes,) = found({"name": "pooled", "budget": "passes"}, local_steps=4).values()
    assert (updates.updates, passes.updates) == (12, 36)
    assert passes.passes == 3 * updates.passes
    assert passes.slices == round(passes.passes * sum(N_TRAIN.values()))
    assert spent(local.values()) == {"updates": "12", "passes": "6 to 12"}
    assert str(Budget(1200, 2.345, 9)) == "1,200 updates, 2.35 passes"
    assert budgets(Experiment.read({"sites": "d", "reconstructor": "tv"}), shards) == {}
    assert spent([]) == {"updates": "", "passes": ""}


@pytest.mark.parametrize(
    "degradation", [{"kind": "kspace-truncation", "scale": 2, "per_site": {"north": {"noise": 2}}}, None]
)
def test_a_prior_states_the_updates_of_its_fully_sampled_slices(consortium, degradation):
    """A site that measures otherwise trains on the same slices, in the same batches."""
    task = {"task": "super-resolution", "degradation": degradation} if degradation else {}
    strategy, sites = {"name": "pooled_feddiff"}, {name: str(path) for name, path in consortium.items()}
    training = {"rounds": 3, "batch_size": 5}
    given = {"sites": sites, **task, "strategy": strategy, "network": DENOISER, "training": training}
    experiment = Experiment.read(given)
    shards = open_sites(experiment.sites)
    (budget,) = budgets(experiment, shards).values()
    paths, operators = ({site: call(site) for site in shards} for call in (sites.get, experiment.operator_at))
    site = Site(site_plan(experiment, images(shards, experiment.scale), "pooled", paths, operators))
    steps = site.fit(experiment.method.request(experiment.method.begin(to_vector(site.parameters.shared)))).steps
    assert steps == 2  # one coil: 3 of north and 2 of south in a batch of 5; two coils: 1 of middle
    assert budget.updates == 3 * steps


def test_a_budget_keeps_the_digest_of_the_default_and_other_names_are_refused():
    plain, same = ({"sites": "d", "strategy": one} for one in ({"name": "pooled"}, {"name": "pooled", "budget": None}))
    assert Experiment.read(plain).digest({"a": "x"}) == Experiment.read(same).digest({"a": "x"})
    digests = {
        Experiment.read({"sites": "d", "strategy": {"name": "pooled", "budget": one}}).digest({"a": "x"})
        for one in (None, "updates", "passes")
    }
    assert len(digests) == 3
    with pytest.raises(InputError, match=r"budget.*'updates' or 'passes'"):
        Experiment.read({"sites": "d", "strategy": {"name": "pooled", "budget": "steps"}})
