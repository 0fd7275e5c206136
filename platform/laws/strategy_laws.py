"""The laws of a strategy. Each is a function of a toy federation of the strategy at its default parameters."""

from __future__ import annotations

import random

import numpy as np
import torch

from fedrecon.platform.laws.law import Law, difference
from fedrecon.platform.laws.toy import Toy, private, vectors
from fedrecon.sites.wire import TrainReply
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.mean import wrong_weights


def _described(toy: Toy) -> str:
    kind = type(toy.method)
    if not (kind.__dict__.get("__doc__") or "").strip():
        return "it has no docstring"
    return "" if hasattr(kind, "paper") else 'it has no class attribute "paper"; an empty text says that there is none'


def _trains(toy: Toy) -> str:
    state, kept = toy.trained
    first = toy.begin().shared
    moved = (state.shared != first).any() or kept
    return "" if moved or not first.size else f"{toy.rounds} rounds change no shared parameter"


def _says_neutral(toy: Toy) -> str:
    kind = type(toy.method)
    if (kind.neutral is None) == bool(kind.not_neutral):
        return "" if kind.neutral is None else _equals_fedavg(toy)
    return f"neutral is {kind.neutral!r} and not_neutral is {kind.not_neutral!r}: one of them is needed, and not both"


def _equals_fedavg(toy: Toy) -> str:
    neutral = toy.of(type(toy.method)(**(type(toy.method).neutral or {})))
    fedavg = toy.of(FedAvg())
    found, wanted = neutral.train(neutral.executor(), neutral.begin()), fedavg.train(fedavg.executor(), fedavg.begin())
    return difference({"the shared parameters": found.shared}, {"the shared parameters": wanted.shared})


def _differs(toy: Toy) -> str:
    kind = type(toy.method)
    if kind.neutral is None or kind(**kind.neutral) == toy.method:
        return ""
    fedavg = toy.of(FedAvg())
    found, wanted = toy.trained[0].shared, fedavg.train(fedavg.executor(), fedavg.begin()).shared
    same = len(found) == len(wanted) and found.tobytes() == wanted.tobytes()
    return "all bits are FedAvg's: is the name of a hook misspelled?" if same else ""


def _replies_again(toy: Toy) -> str:
    again = toy.of()
    executor = again.executor()
    state = again.train(executor, again.begin(), until=1)
    one, two = (list(again.replies(executor, state)) for _ in range(2))
    return next((words for a, b in zip(one, two, strict=True) if (words := difference(_sent(a), _sent(b)))), "")


def _repeats(toy: Toy) -> str:
    state, kept = toy.trained
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    again = toy.of()
    other = again.executor()
    found = again.train(other, again.begin())
    return difference({**vectors(found), **private(other)}, {**vectors(state), **kept})


def _resumes(toy: Toy) -> str:
    state, kept = toy.trained
    again = toy.of()
    first = again.train(again.executor(), again.begin(), until=1)
    resumed = again.executor()
    found = again.train(resumed, first)
    return difference({**vectors(found), **private(resumed)}, {**vectors(state), **kept})


def _order(toy: Toy) -> str:
    one = toy.of()
    state = one.begin()
    replies = list(one.replies(one.executor(), state))
    forward, backward = (one.method.merge(state, each, one.n_slices) for each in (replies, replies[::-1]))
    return difference(vectors(backward), vectors(forward), tolerance=1e-4)


def _missing(toy: Toy) -> str:
    one = toy.of()
    state = one.begin()
    replies = list(one.replies(one.executor(), state))[1:]
    if not replies:
        return ""
    after = one.method.merge(state, replies, one.n_slices)
    if dict(after.standing) != {reply.site: 1 for reply in replies}:
        return f"the state says that {', '.join(after.standing) or 'nobody'} replied: State.next takes the names"
    return "" if all(np.isfinite(v).all() for v in vectors(after).values()) else "the state holds NaN or infinity"


def _weights(toy: Toy) -> str:
    return wrong_weights(toy.method.weights(toy.n_slices), toy.n_slices)


def _keeps_private(toy: Toy) -> str:
    one = toy.of(training={**toy.training, "learning_rate": 1e-30})
    executor = one.executor()
    state = one.train(executor, one.begin(), until=1)
    marks = {}
    for number, (member, site) in enumerate(executor.sites.items()):
        n = len(site.parameters.private)
        marks[member] = (0.4242 + 1e-6 * np.arange(number * n, (number + 1) * n)).astype(np.float32)
        if n:
            site.memory.save(1, {**site.memory.values, "parameters": marks[member]})
    for reply in one.replies(executor, state):
        for name, vector in _sent(reply).items():
            if leaked := int(np.isin(vector, np.concatenate(list(marks.values()))).sum()):
                return f"{leaked} of {len(vector)} values in {name} are private parameters"
    return ""


def _blind(toy: Toy) -> str:
    if toy.method.trains_on_operator:
        return ""
    other = toy.of(acceleration=1.5)
    return difference(vectors(other.train(other.executor(), other.begin())), vectors(toy.trained[0]))


def _sent(reply: TrainReply) -> dict[str, np.ndarray]:
    return {f"the shared parameters of {reply.site}": reply.shared} | {
        f"{n} of {reply.site}": v for n, v in reply.extra.items()
    }


LAWS = (
    Law("It has a docstring, and cites its works in `paper`.", _described),
    Law("It trains, and each reply is what it declares: finite float32 vectors, named in `replies`.", _trains),
    Law("At the parameters `neutral` it gives FedAvg's bits; without any, `not_neutral` says why.", _says_neutral),
    Law("At its default parameters it is another method than FedAvg.", _differs),
    Law("Asked twice for one round, a site replies the same.", _replies_again),
    Law("A second run gives the same bits, whatever a global random generator holds.", _repeats),
    Law("A run that is interrupted goes on with the same bits; what a site keeps is in `fit.memory`.", _resumes),
    Law("The order of the replies changes no more than rounding (1e-4).", _order),
    Law("With the replies of some members alone, `merge` gives a finite state that names them.", _missing),
    Law("`weights` gives every member a weight, and they sum to 1.", _weights),
    Law("No private parameter is in a reply.", _keeps_private),
    Law("With trains_on_operator = False, another operator changes no bit of the training.", _blind),
)
