"""The contrastive term by hand and by finite differences, where it is left out, and what it costs in bytes."""

import numpy as np
import pytest
import torch
from tiny import UNET, Federation, bits
from torch import nn

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.budget import warnings
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.measurement import Images
from fedrecon.sites.training.method import LocalFit
from fedrecon.sites.training.parameters import Parameters
from fedrecon.sites.training.settings import Training
from fedrecon.sites.wire import State, TrainReply, TrainRequest
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.fedmri import PUBLISHED_SIZE, FedMRI, contrastive
from fedrecon.strategies.networks.choice import NetworkChoice
from fedrecon.strategies.networks.unet import Encoder, UNet

SERVER = [[0.0, 0.0]]
PREVIOUS = {"a": [[2.0, 1.5]], "b": [[0.0, -2.0]], "c": [[-1.0, 3.0]]}
"""Three sites, two numbers each; the local encoder is (1, 2)."""


def tensors(values):
    return [torch.tensor(one, dtype=torch.float64) for one in values]


def term(local):
    return contrastive(local, tensors(SERVER), [tensors(one) for one in PREVIOUS.values()])


def test_value_by_hand():
    # pull |1| + |2| = 3; push (1 + .5) + (1 + 4) + (2 + 1) = 9.5
    assert term(tensors([[1, 2]])).item() == pytest.approx(3 / 9.5, rel=1e-12)


def test_several_tensors_are_summed_before_the_ratio():
    whole = contrastive(tensors([[1, 2]]), tensors([[0, 0]]), [tensors([[2, 1.5]])])
    parts = contrastive(tensors([[1], [2]]), tensors([[0], [0]]), [tensors([[2], [1.5]])])
    assert parts.item() == whole.item() == pytest.approx(3 / 1.5, rel=1e-12)


def test_gradient_by_hand_and_by_finite_differences():
    local = [torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)]
    term(local).backward()
    # d/dx = sign(x - server) / push - pull / push^2 * sum_j sign(x - previous_j)
    signs = (-1 + 1 + 1, 1 + 1 - 1)
    assert local[0].grad.tolist() == pytest.approx([1 / 9.5 - 3 / 9.5**2 * one for one in signs], rel=1e-12)
    for i in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[i] = 1e-6
        with torch.no_grad():
            slope = (term([local[0] + step]) - term([local[0] - step])) / 2e-6
        assert local[0].grad[i].item() == pytest.approx(slope.item(), rel=1e-6)


def test_at_the_server_it_is_zero_and_where_all_meet_it_is_finite():
    assert term(tensors(SERVER)).item() == 0
    here = tensors([[1, 2]])
    assert contrastive(here, here, [here]).item() == 0
    assert contrastive(tensors([[1, 2]]), tensors(SERVER), [here]).item() == pytest.approx(3e14)


class Halves(nn.Module):
    """Two shared numbers and one private; the loss is made by the test."""

    def __init__(self):
        super().__init__()
        self.parts = {part: (part,) for part in ("encoder", "decoder", "head")}
        self.encoder = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.decoder = nn.Parameter(torch.tensor([5.0]))
        self.head = nn.Parameter(torch.tensor([7.0]))


def prepare(monkeypatch, batch=1, sent=True, **weights):
    monkeypatch.setattr(FedAvg, "loss", lambda self, fit, batch: (fit.model.encoder * batch).sum())
    method, model = FedMRI(**weights), Halves()
    parameters = Parameters(model, lambda name: method.shares(name, model))
    extra = {f"previous/{site}": np.array(one[0], np.float32) for site, one in PREVIOUS.items()}
    request = TrainRequest(2, np.array(SERVER[0], np.float32), extra if sent else {})
    fit = LocalFit("a", request, model, parameters, Training(), 0.1, torch.Generator(), {}, ("a",), batch=batch)
    method.receive(fit)
    loss = method.loss(fit, torch.tensor([3.0, -1.0])).item()
    assert loss == pytest.approx(total(method, fit))
    return loss


def total(method, fit):
    """The loss from what is noted for MLflow."""
    size = 2 / PUBLISHED_SIZE if method.per_parameter else 1
    weight = method.contrastive_weight * size
    return method.reconstruction_weight * fit.noted["reconstruction"].item() + weight * fit.noted["contrastive"].item()


def test_the_total_loss_by_hand(monkeypatch):
    assert prepare(monkeypatch) == pytest.approx(1 + 100 * 3 / 9.5)  # 3 * 1 - 1 * 2 = 1
    assert prepare(monkeypatch, reconstruction_weight=2, contrastive_weight=9.5) == pytest.approx(2 + 3)
    assert prepare(monkeypatch, per_parameter=True) == pytest.approx(1 + 100 * 2 / PUBLISHED_SIZE * 3 / 9.5)


def test_it_is_left_out_in_the_first_round_and_on_the_first_batch_of_an_epoch(monkeypatch):
    assert prepare(monkeypatch, batch=0) == 1
    assert prepare(monkeypatch, sent=False) == 1


@pytest.mark.slow
def test_the_shared_part_of_the_published_unet_has_the_published_size():
    assert sum(one.numel() for one in Encoder(1, 32, 4, 0.0, "instance").parameters()) == PUBLISHED_SIZE == 4_709_664
    assert sum(one.numel() for one in Encoder(2, 32, 4, 0.0, "instance").parameters()) == 4_709_952
    unet = UNet(1, 1, 32, 4)
    rest = sum(one.numel() for part in (unet.decoder, unet.head) for one in part.parameters())
    assert rest == 3_046_433


def test_scoring_needs_no_negatives():
    state = State(1, np.ones(2, np.float32), {"previous/a": np.ones(2, np.float32)}, {"a": 1})
    method = FedMRI()
    assert set(method.request(state).extra) == {"previous/a"}
    request = method.scoring_request(state)
    assert (request.extra, request.standing, request.shared.tolist()) == ({}, {"a": 1}, [1, 1])


def test_the_server_keeps_every_encoder_of_the_round_and_only_that():
    replies = [TrainReply("a", 1, 1, np.array([2, 4], np.float32)), TrainReply("b", 1, 3, np.array([4, 0], np.float32))]
    state = State(0, np.zeros(2, np.float32), {"previous/gone": np.ones(2, np.float32)})
    merged = FedMRI().merge(state, replies, {"a": 1, "b": 3})
    assert merged.shared.tolist() == [3, 2]  # uniform, whatever the sites hold
    assert {name: values.tolist() for name, values in merged.extra.items()} == {
        "previous/a": [2, 4],
        "previous/b": [4, 0],
    }
    replies[0].shared[:] = 9  # a reply is good for one round only
    assert merged.extra["previous/a"].tolist() == [2, 4]


@pytest.mark.slow
def test_bytes_of_a_round(consortium):
    """Less than FedAvg by the decoder; the negatives cost one encoder more for each site, from round 2 on."""

    def moved(method, rounds=2):
        from tiny import Commits

        record = Commits(None)
        Federation(method, consortium, rounds=rounds).train(record=record)
        return record.rounds

    whole, part, contrast = (moved(one) for one in (FedAvg(), FedMRI(contrastive_weight=0), FedMRI()))
    assert all(a.bytes_up > b.bytes_up > 0 for a, b in zip(whole, part, strict=True))
    encoder = part[0].bytes_down // 3
    assert (contrast[0].bytes_down, contrast[0].extra_down) == (3 * encoder, 0)
    assert (contrast[1].bytes_down, contrast[1].extra_down) == (3 * 4 * encoder, 3 * 3 * encoder)
    assert [one.bytes_up for one in contrast] == [one.bytes_up for one in part]
    assert all(one.extra_up == one.extra_down == 0 for one in (*whole, *part))


@pytest.mark.slow
def test_without_the_term_it_is_partial_sharing_alone(consortium):
    from fedrecon.strategies.partial import Partial

    plain = Federation(Partial(private=("decoder", "head"), weighting="uniform"), consortium).train()
    assert bits(Federation(FedMRI(contrastive_weight=0), consortium).train()) == bits(plain)
    assert bits(Federation(FedMRI(), consortium).train())["shared"] != bits(plain)["shared"]


@pytest.mark.slow
def test_batch_statistics_are_averaged_with_the_encoder_and_stay_out_of_the_term(consortium, monkeypatch):
    """Running means would be counted as weights if the term looked at the shared vector as a whole."""
    from fedrecon.strategies import fedmri

    counted = []
    real = fedmri.contrastive
    monkeypatch.setattr(fedmri, "contrastive", lambda *given: counted.append(given[0]) or real(*given))
    network = {"name": "unet", "channels": 2, "pools": 1, "norm": "batch"}
    one = Federation(FedMRI(), consortium, network=network, rounds=2)
    state = one.train()
    slots = [slot for slot in one.layout.slots if slot.shared]
    statistics = [slot for slot in slots if "running" in slot.name]
    assert statistics
    assert counted
    assert {len(given) for given in counted} == {len(slots) - len(statistics)}
    assert all(np.isfinite(values).all() for values in (state.shared, *state.extra.values()))


@pytest.mark.slow
def test_a_site_of_one_batch_never_feels_the_term_and_an_absent_one_is_no_negative(consortium, tmp_path):
    one = Federation(FedMRI(), consortium, tmp_path, rounds=3)
    executor = one.executor()
    first = one.method.merge(one.begin(), executor.fit(one.method.request(one.begin())), one.n_slices)
    assert set(first.extra) == {f"previous/{site}" for site in consortium}
    replies = {reply.site: reply for reply in executor.fit(one.method.request(first))}
    terms = {site: reply.losses["contrastive"] for site, reply in replies.items()}
    assert terms["north"] > 0  # three slices in batches of two
    assert terms["middle"] == terms["south"] == 0  # one batch each
    again = [reply for reply in executor.fit(one.method.request(first)) if reply.site != "south"]
    assert set(one.method.merge(first, again, one.n_slices).extra) == {"previous/middle", "previous/north"}


def test_a_network_without_an_encoder_is_refused_and_a_size_without_a_term():
    network, images = NetworkChoice.parse(UNET), Images(True, (32, 32), 1, ("a",))
    whole = ("encoder", "decoder", "head")
    FedMRI(private=whole, contrastive_weight=0).build(network, images)
    with pytest.raises(InputError, match="no encoder is left to contrast"):
        FedMRI(private=whole).build(network, images)
    given = {"name": "fedmri", "contrastive_weight": 0, "per_parameter": True}
    with pytest.raises(InputError, match=r"strategy.per_parameter: .*strategy.contrastive_weight is 0"):
        Experiment.read({"sites": "d", "strategy": given})


def test_a_term_that_is_left_out_is_said_at_the_start(consortium):
    shards = {name: Shard.open(path) for name, path in consortium.items()}

    def said(strategy="fedmri", **training):
        block = {"rounds": 2, "batch_size": 2, **training}
        return warnings(Experiment.read({"sites": "d", "strategy": strategy, "training": block}), shards)

    (line,) = said()
    assert "one batch is all at middle, south;" in line
    (line,) = said(batch_size=1)
    assert "one batch is all at middle;" in line  # it has one slice
    assert said(rounds=0) == said("fedavg") == said({"name": "fedmri", "contrastive_weight": 0}) == ()
    (line,) = said(rounds=1)
    assert "there is no second one" in line
    assert said({"name": "fedmri", "personalise": {"rounds": 1}}) == (line,)
