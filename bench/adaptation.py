"""What it costs to adapt many slices of a trained prior together, against one by one.

    python bench/adaptation.py RUN --slices 1 8 32 --steps 20

CPU seconds a slice and step; the last column is the ratio to one slice at a time. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.sites.training.local_loop import threads
from fedrecon.sites.training.method import Subject
from fedrecon.strategies.adaptation import Adaptation, adapt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--workspace", type=Path, default=default_workspace())
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    trained = TrainedRun.load(arguments.workspace, arguments.run)
    site_name = trained.images.sites[0]
    folder = trained.experiment.sites
    path = f"{folder}/{site_name}.h5" if isinstance(folder, str) else folder[site_name]
    site = trained.site("global", {site_name: path}, {site_name: trained.experiment.operator_at(site_name)})
    site.plan = replace(site.plan, evaluation=site.plan.evaluation.model_copy(update={"max_slices": None}))
    site.private_parameters(trained.request)  # loads the weights
    slices = site.slices("test")
    settings = Adaptation(steps=arguments.steps, patience=10 * arguments.steps, prior="trained")
    first = None
    print("| slices together | ms a slice and step | of one by one |\n|--:|--:|--:|")
    with threads(1), torch.no_grad():
        for count in arguments.slices:
            items = [slices.items[k % len(slices.items)] for k in range(count)]
            batch = slices.scoring(items, 0)
            who = tuple(item.volume.subject for item in items)
            subject = Subject(site_name, who, tuple(item.index for item in items), 0)
            adapt(settings.model_copy(update={"steps": 2}), site.model, batch, subject)
            start = time.process_time()
            adapt(settings, site.model, batch, subject)
            each = 1e3 * (time.process_time() - start) / count / (arguments.steps + 1)
            first = first or each
            print(f"| {count} | {each:.2f} | {each / first:.2f} |")


if __name__ == "__main__":
    main()
