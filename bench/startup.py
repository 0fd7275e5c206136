"""Start-up to the end of a first round of four sites, beside plain Ray: ``ray.init`` and an actor that imports torch.

python bench/startup.py --passes 3        # wall and CPU seconds from launch, interleaved; ratios within a pass
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 3
VARIANT = "train"


def plain(rounds: int, out: Path) -> None:
    """What a script by hand needs: Ray as ``ray.init`` starts it, and one actor with torch. The driver has none."""
    import ray

    ray.init(logging_level="ERROR", log_to_driver=False)

    @ray.remote
    class Site:
        def answer(self) -> str:
            import torch

            return str(torch.__version__)

    site = Site.remote()  # type: ignore[attr-defined]
    ends = []
    for _ in range(rounds):
        ray.get(site.answer.remote())
        ends.append(time.time())
    out.write_text(json.dumps({"round_end": ends, "check": 0.0}))
    ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="be the plain column (with --rounds and --out)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.plain:
        plain(asked.rounds, asked.out)
        return
    import jobs
    from measure import measure

    here = Path(__file__)
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        jobs.make(VARIANT, data)
        column = [sys.executable, str(here.with_name("column.py")), "--variant", VARIANT, "--data", str(data), "--crew"]
        columns = {
            "plain Ray": [sys.executable, str(here), "--plain"],
            "fedrecon-ray": [*column, "ray"],
            "fedrecon-in-process": [*column, "in-process"],
        }
        for _ in range(asked.passes):
            for name, command in columns.items():
                one = measure(command, ROUNDS)
                found.setdefault(name, []).append((one["start_up"], one["start_up_cpu"]))
                print(f"{name}: {one['start_up']:.1f} s, {one['start_up_cpu']:.1f} CPU-s", file=sys.stderr, flush=True)
    print(f"{asked.passes} interleaved pass(es), load {os.getloadavg()[0]:.1f} at the end\n")
    print("| column | start-up s | x plain (range) | CPU s | x plain (range) |\n|---|--:|--:|--:|--:|")
    for name, passes in found.items():
        cells = []
        for index in (0, 1):
            ratios = [one[index] / other[index] for one, other in zip(passes, found["plain Ray"], strict=True)]
            cells.append(f"{statistics.median(one[index] for one in passes):.1f}")
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
