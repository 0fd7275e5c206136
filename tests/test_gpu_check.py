"""``make gpu-check`` as far as a machine without a GPU goes: every check reports, and none stops the others."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MODULES = ("gpu_check", "gpu_work", "many_sites")


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import importlib

    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield importlib.import_module("gpu_check")
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def bench(check: Any, tmp_path: Path) -> Any:
    return check.Bench("cpu", 16, tmp_path, slices=4, steps=1)


@pytest.mark.slow
def test_what_needs_no_ray_is_measured_on_a_cpu(check: Any, bench: Any) -> None:
    names = ["halves", "float32", "bfloat16", "channels_last", "speed", "memory", "adaptation"]
    lines: list[str] = []
    found = json.loads(json.dumps(check.report(bench, names, lines.append)))
    status = {name: (one["status"], one["words"]) for name, one in found["checks"].items()}
    assert status == {"halves": ("skipped", "no GPU"), **dict.fromkeys(names[1:], ("ok", ""))}
    assert len(lines) == len(names)
    for name in ("float32", "bfloat16", "channels_last"):
        one = found["checks"][name]
        assert one["images_per_second"] > 0
        assert math.isfinite(one["loss"])
    assert found["checks"]["channels_last"]["loss_difference"] < 1e-3
    assert found["checks"]["bfloat16"]["option"] == "training.precision: bfloat16"
    assert found["checks"]["channels_last"]["option"] is None
    assert (found["checks"]["adaptation"]["slices"], found["checks"]["adaptation"]["steps"]) == (1, 3)
    assert found["checks"]["speed"]["ratio"] > 0
    assert (found["device"], found["size"], found["machine"]["gpus"]) == ("cpu", 16, [])
    assert set(check.PACKAGES) < set(found["versions"])


def test_a_failed_check_is_words_and_exit_1_and_stops_nothing(
    check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(bench: Any) -> Any:
        raise RuntimeError("CUDA error: no kernel image\n\nis available")

    monkeypatch.setattr(check, "CHECKS", {"bits": broken, "halves": check.halves, "float32": lambda bench: {"x": 1}})
    out = tmp_path / "report.json"
    given = ["--device", "cpu", "--size", "32", "--out", str(out)]
    assert check.main([*given, "--checks", "bits", "halves", "float32"]) == 1
    found = json.loads(out.read_text())["checks"]
    assert found["bits"]["status"] == "failed"
    assert found["bits"]["words"] == "RuntimeError: CUDA error: no kernel image is available"
    assert (found["halves"]["status"], found["float32"]["status"], found["float32"]["x"]) == ("skipped", "ok", 1)
    assert check.main([*given, "--checks", "halves"]) == 0


@pytest.mark.parametrize("given", [["--device", "cuda"], ["--device", "cpu", "--size", "40"], ["--checks", "bit"]])
def test_what_cannot_be_asked_is_refused(check: Any, given: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        check.main(given)
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("weights", "resumed", "says"),
    [("aaa", 1, ""), ("aab", 1, "bits differ"), ("aba", 1, "bits differ"), ("aaa", 0, "after round 0 instead of 1")],
)
def test_other_bits_and_a_run_that_began_anew_fail(check: Any, weights: str, resumed: int, says: str) -> None:
    """The three runs: first, second, interrupted."""
    given = dict(zip(("first", "second", "broken"), weights, strict=True))
    result = SimpleNamespace(resumed_from=resumed, mean={"psnr": 20.0})
    fake = SimpleNamespace(
        first=(given["first"], result), run=lambda name, **more: result, bits=lambda name, result: given[name]
    )
    entry = check.outcome(check.bits, fake)
    assert entry["status"] == ("failed" if says else "ok")
    assert says in entry["words"]


@pytest.mark.parametrize(
    ("devices", "gpus", "says"),
    [
        (["H200", "H200"], ["0", "0"], ""),
        (["H200", "H200"], ["0", "1"], "on one GPU"),
        (["H200", "cpu"], ["0", "0"], "not on the cuda: b"),
    ],
)
def test_halves_that_are_not_of_one_gpu_fail(check: Any, devices: list[str], gpus: list[str], says: str) -> None:
    members = {name: {"device": one, "gpus": [gpu]} for name, one, gpu in zip("ab", devices, gpus, strict=True)}
    result = SimpleNamespace(environment={"members": members})
    fake = SimpleNamespace(
        tiny=False, device="cuda", first=("x", result), run=lambda name, **more: result, bits=lambda name, result: "x"
    )
    entry = check.outcome(check.halves, fake)
    assert entry["status"] == ("failed" if says else "ok")
    assert says in entry["words"]


def test_without_a_compiler_the_check_is_skipped(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    entry = check.outcome(check.compiled, None)
    assert (entry["status"], entry["words"]) == ("skipped", "no C++ compiler")


def test_the_page_names_every_check_and_key(check: Any) -> None:
    page = (ROOT / "docs" / "results" / "gpu.md").read_text()
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| `")}
    assert {f"`{name}`" for name in check.CHECKS} < rows
    for key in ("format", "made", "device", "size", "slices", "steps", "versions", "machine", "checks"):
        assert any(f"`{key}`" in row for row in rows)


@pytest.mark.ray
@pytest.mark.slow
def test_the_bits_of_runs_of_one_process_and_of_actors_are_the_same(check: Any, bench: Any) -> None:
    entries = {name: check.outcome(check.CHECKS[name], bench) for name in ("bits", "devices")}
    assert [one["words"] for one in entries.values()] == ["", ""]
    assert {one["device"] for one in entries["devices"]["sites"].values()} == {"cpu"}
