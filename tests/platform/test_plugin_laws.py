"""Each law fails in words on a plug-in that breaks it, and holds for the examples and for fedrecon's own."""

import re

import pytest
from command_line import Called
from examples import EXAMPLES, PAGE, write_examples

from fedrecon.platform.config.plugins import OWN
from fedrecon.platform.laws.check import LAWS, verdicts
from fedrecon.sites.extension.plugin_file import PluginFile

STRATEGY = '''
import random
import numpy as np
from dataclasses import replace
from typing import ClassVar
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.strategy import Strategy

calls = []

class Mine(FedAvg):
    """A strategy."""
    part: float = 0.5
    neutral: ClassVar[dict | None] = {{"part": 1.0}}
    {body}

STRATEGIES = {{"mine": Mine}}
'''

NETWORK = """
import torch
from pydantic import Field
from torch import nn
from fedrecon.strategies.networks.network import entry

class Net(nn.Module):
    paper = ""
    parts = {{"encoder": ("first.",), "decoder": (), "head": ("last.",), "norm": ()}}

    def __init__(self, images, *, channels: int = 2):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, channels, 3, padding=1), nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, measurement):
        unit = measurement.scale[:, None, None]
        image = self.image(torch.view_as_real(measurement.zero_filled / unit).movedim(-1, 1))
        return torch.complex(image[:, 0], image[:, 1]) * unit

    def image(self, x):
        return x + self.last(torch.tanh(self.first(x)))

{body}
"""
NET = "    {}\n\nNETWORKS = {{'mine': entry(Net, channels=Field({}, ge=1))}}"

MASK = '''
import numpy as np
from fedrecon.sites.imaging.masks.random import Random

class Mine(Random):
    """A mask."""
    {body}

MASKS = {{"mine": Mine}}
'''

DEGRADATION = '''
from dataclasses import replace
import torch
from fedrecon.sites.imaging.degradations.kspace_truncation import KspaceTruncation

class Wrong:
    def __init__(self, operator): self.operator = operator
    def forward(self, image): return self.operator.forward(image)
    def adjoint(self, samples): return 2 * self.operator.adjoint(samples)

class Mine(KspaceTruncation):
    """A degradation."""
    {body}

DEGRADATIONS = {{"mine": Mine}}
'''

RECONSTRUCTOR = '''
import torch
from fedrecon.sites.classical.zero_filled import ZeroFilled

class Mine(ZeroFilled):
    """A reconstructor."""
    {body}

RECONSTRUCTORS = {{"mine": Mine}}
'''

FORMAT = '''
from fedrecon.sites.formats.npy import Npy

class Mine(Npy):
    """A format."""
    {body}

FORMATS = {{"mine": Mine}}
'''

UNDOCUMENTED = "__doc__ = ''"


def method(signature: str, *lines: str) -> str:
    return f"def {signature}:\n        " + "\n        ".join(lines)


MERGE = "merge(self, state, replies, n_slices)"

BROKEN: dict[str, list[tuple[str, str, str]]] = {
    "strategies": [
        ("docstring", UNDOCUMENTED, "no docstring"),
        ("It trains", method(MERGE, "for _ in replies: pass", "return state"), r"round 0; refused"),
        (
            "parameters `neutral`",
            method(
                MERGE, "mean = super().merge(state, replies, n_slices)", "return replace(mean, shared=mean.shared + 1)"
            ),
            r"largest difference is \d\.\d*, in the shared parameters, where 470 of 470",
        ),
        ("another method than", method("los(self, fit, batch)", "return 0"), "misspelled"),
        (
            "Asked twice",
            method("gradients(self, fit)", "for p in fit.model.parameters(): p.grad += random.random()"),
            r"largest difference is .* of middle, where \d+ of 470 values differ",
        ),
        (
            "whatever a global",
            method("gradients(self, fit)", "for p in fit.model.parameters(): p.grad += float(np.random.rand())"),
            r"largest difference is .* of 470 values differ",
        ),
        (
            "is interrupted",
            method(
                "gradients(self, fit)",
                "fit.model.seen = getattr(fit.model, 'seen', 0) + 1",
                "for p in fit.model.parameters(): p.grad += fit.model.seen",
            ),
            r"largest difference",
        ),
        (
            "order of the replies",
            method(MERGE, "last = list(replies)[-1]", "return state.next(last.shared, {}, {})"),
            r"largest difference is .* of 470",
        ),
        (
            "some members alone",
            method(MERGE, "mean = super().merge(state, replies, n_slices)", "return replace(mean, standing={})"),
            r"says that nobody replied",
        ),
        ("`weights` gives", method("weights(self, n_slices)", "return dict.fromkeys(n_slices, 1.0)"), r"sum to 3"),
        (
            "No private parameter",
            "replies: ClassVar[tuple] = ('own',)\n    "
            + method("shares(self, name, network)", "return 'head' not in name")
            + "\n    "
            + method("reply_sizes(self, request)", "return {'own': 6}")
            + "\n    "
            + method("reply(self, fit, steps)", "return {'own': fit.parameters.private.numpy().copy()}"),
            r"\d+ of 6 values in own of middle are private",
        ),
        (
            "trains_on_operator = False",
            "trains_on_operator: ClassVar[bool] = False\n    "
            + method(
                "gradients(self, fit)", "calls.append(1)", "for p in fit.model.parameters(): p.grad += len(calls)"
            ),
            "largest difference",
        ),
    ],
    "networks": [
        ("takes the parameters", NET.format("", 3), r"'channels': 2.*'channels': 3"),
        ("cites", NET.format("paper = None", 2), "paper"),
        (
            "complex64 image",
            NET.format(method("forward(self, m)", "return m.zero_filled.abs()"), 2),
            r"torch\.float32 of shape \(2, 32, 32\)",
        ),
        (
            "times 1000",
            NET.format(method("forward(self, m)", "return m.zero_filled + 1"), 2),
            r"largest difference is 0\.99",
        ),
        (
            "gradient reaches",
            NET.format(method("image(self, x)", "return x + 0 * self.first(x)[:, :2]"), 2),
            r"first\.weight, first\.bias, last\.weight",
        ),
        (
            "lies in exactly one",
            NET.format('parts = {"encoder": (), "decoder": (), "head": ("last.",), "norm": ()}', 2),
            r"first\.weight lies in no part",
        ),
        ("do not mix", NET.format(method("image(self, x)", "return x + x.mean(0)"), 2), "largest difference"),
        ("measurement.target", NET.format(method("forward(self, m)", "return m.target"), 2), "NoneType"),
    ],
    "masks": [
        ("docstring", UNDOCUMENTED, "no docstring"),
        ("bool array", method("sample(self, shape, seed)", "return np.ones(shape)"), r"float64 of shape \(64, 64\)"),
        (
            "seed alone",
            method("columns(self, n, n_low, random)", "return np.random.rand(n) < 0.2"),
            "largest difference|global",
        ),
        ("Other seeds", method("columns(self, n, n_low, random)", "return np.arange(n) % 4 == 0"), "nine seeds"),
        (
            "fully sampled",
            method("calibration(self, shape)", "return shape"),
            r"\d+ samples of the box 64 x 64 are missing",
        ),
        (
            "on average",
            method("columns(self, n, n_low, random)", "return random.rand(n) < 0.9"),
            r"acceleration 2 is 1\.\d+",
        ),
        (
            "samples everything",
            method("sample(self, shape, seed)", "return np.zeros(shape, bool)"),
            "108 samples of 108",
        ),
    ],
    "degradations": [
        ("docstring", UNDOCUMENTED, "no docstring"),
        (
            "full size",
            method("measure(self, *a)", "one = super().measure(*a)", "return replace(one, low=one.low[:, :4])"),
            r"\(2, 4, 24\)",
        ),
        (
            "adjoint fit",
            method(
                "measure(self, *a)", "one = super().measure(*a)", "return replace(one, operator=Wrong(one.operator))"
            ),
            "largest difference",
        ),
        (
            "1000 times",
            method("measure(self, *a)", "one = super().measure(*a)", "return replace(one, low=one.low + 1)"),
            r"difference is 0\.99",
        ),
        (
            "constant",
            method("measure(self, *a)", "one = super().measure(*a)", "return replace(one, low=2 * one.low)"),
            r"difference is 5",
        ),
    ],
    "reconstructors": [
        ("docstring", UNDOCUMENTED, "no docstring"),
        ("full size", method("reconstruct(self, m)", "return m.zero_filled.abs()"), "float32"),
        ("8192", method("reconstruct(self, m)", "return m.zero_filled + 1"), r"difference is 1"),
        (
            "do not mix",
            method("reconstruct(self, m)", "return m.zero_filled + m.zero_filled.mean(0)"),
            "largest difference",
        ),
        ("candidates", method("candidates(self)", "return (self, self)"), "the same"),
    ],
    "formats": [
        ("docstring", UNDOCUMENTED, "no docstring"),
        ("suffixes", "suffixes = ('raw',)", r"\['raw'\] do not begin"),
    ],
}

TEXTS = {
    "strategies": STRATEGY, "networks": NETWORK, "masks": MASK, "degradations": DEGRADATION,
    "reconstructors": RECONSTRUCTOR, "formats": FORMAT,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The toy sites are written once."""
    return tmp_path_factory.mktemp("laws")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number"), [(kind, number) for kind, laws in LAWS.items() for number in range(len(laws))]
)
def test_a_law_that_is_broken_says_so_in_words(kind, number, folder, tmp_path):
    words, body, expected = BROKEN[kind][number]
    law = LAWS[kind][number]
    assert words in law.wants
    path = tmp_path / "mine.py"
    path.write_text(TEXTS[kind].format(body=body))
    file = PluginFile.read(path)
    (found,) = verdicts(kind, file.added(kind)["mine"], [law], folder, file)
    assert not found["holds"]
    assert re.search(expected, found["found"]), found["found"]
    assert len(found["found"]) < 400
    assert "\\x" not in found["found"]


def test_every_law_is_written_down():
    page = PAGE.read_text()
    assert [law.wants for laws in LAWS.values() for law in laws if f"- {law.wants}\n" not in page] == []


@pytest.mark.slow
def test_the_examples_keep_every_law(tmp_path, capsys):
    for path in write_examples(tmp_path):
        called = Called(capsys, "check-plugin", path, "--json")
        assert (called.code, called.json["broken"]) == (0, 0), called.out
        assert len(called.json["plugins"]) == 1
    assert len(EXAMPLES) == 5


def test_the_command_says_what_is_broken_and_ends_with_2(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MASK.format(body=method("sample(self, shape, seed)", "return np.ones(shape)")))
    called = Called(capsys, "check-plugin", tmp_path / "mine.py")
    assert called.code == 2
    assert "float64" in called.out
    assert "of 7 laws hold" in called.out.splitlines()[-1]
    assert Called(capsys, "check-plugin", tmp_path / "gone.py").code == 2


CHECKED = {"strategies": ["fedbn"], "networks": ["srcnn"], "masks": ["random"], "reconstructors": ["grappa"]}
"""Of the kinds with many, the ones that are checked here: all of them take half a minute."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAWS)
def test_fedrecon_s_own_keep_them(kind, folder):
    own, _ = OWN[kind]
    for name in CHECKED.get(kind, own):
        assert [one for one in verdicts(kind, own[name], LAWS[kind], folder) if not one["holds"]] == [], name
