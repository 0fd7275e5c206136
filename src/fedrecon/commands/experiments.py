"""The commands of experiments: run, evaluate, reconstruct, ui, sync, list, check-plugin, schema."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon.commands.base import DONE, command, workspace_of
from fedrecon.platform.storage.run_lookup import RUN
from fedrecon.platform.terminal.arguments import add_overrides, number, whole
from fedrecon.platform.terminal.boundary import WRONG_INPUT
from fedrecon.platform.terminal.output import print_json, say

EPOCHS, RATES = whole(1, 10**6), number(1, 10**4)


def add(commands: Any) -> None:
    """Adds the commands to the parser."""
    one = command(commands, "run", _run, "run an experiment, or resume it")
    one.set_defaults(goes_on=True)
    one.add_argument("experiment", metavar="EXPERIMENT.yaml")
    add_overrides(one, "changes to the experiment, such as training.rounds=20")
    one.add_argument(
        "--rerun", action="store_true", help="run again, even if a finished run exists; the older run is kept"
    )

    one.add_argument(
        "--keep-checkpoints", action="store_true", help="keep the last two checkpoints of the run, not one"
    )

    about = "score a finished run under other operators or at other sites"
    one = command(commands, "evaluate", _evaluate, about)
    one.add_argument("run", metavar="RUN", help=RUN)
    add_overrides(one, "changes that need no training: operator.KEY, degradation.KEY, evaluation.KEY")
    one.add_argument("--sites", metavar="FOLDER", help="shards to test on (default: the run's own)")
    one.add_argument("--mask", metavar="NAME", help="mask to test (default: the run's own); see fedrecon list masks")
    one.add_argument("--acceleration", nargs="+", type=RATES, metavar="R", help="accelerations to test, one by one")
    one.add_argument(
        "--degradation",
        metavar="NAME",
        help="degradation to test, for a super-resolution run; see fedrecon list degradations",
    )
    one.add_argument(
        "--scale", nargs="+", type=whole(2, 4), metavar="S", help="scales to test, for a super-resolution run: 2, 3, 4"
    )
    one.add_argument(
        "--unseen", metavar="RULE", help="source of an unseen site's private part: average, nearest or fine-tune"
    )
    one.add_argument(
        "--published", nargs="+", metavar="SITE", help="sites that agreed to publish their private part, or all"
    )
    one.add_argument("--fine-tune-epochs", type=EPOCHS, metavar="N", help="epochs of --unseen fine-tune (default: 5)")

    about = "reconstruct a shard or k-space file, or enlarge a NIfTI volume"
    one = command(commands, "reconstruct", _reconstruct, about)
    one.add_argument("run", metavar="RUN", help=RUN)
    one.add_argument(
        "input", metavar="INPUT", help="a shard, a fastMRI file, raw k-space (.npy), or a NIfTI volume to enlarge"
    )
    add_overrides(one, "changes that need no training, as in evaluate")
    one.add_argument(
        "-o", "--output", required=True, help="output file: .h5 or .png; from a NIfTI volume also .nii or .nii.gz"
    )
    one.add_argument(
        "--site", metavar="NAME", help="site whose operator is used, and whose network if each site has its own"
    )
    one.add_argument(
        "--as-is", action="store_true", help="enlarge k-space instead of degrading it first (super-resolution)"
    )

    one = command(commands, "ui", _ui, "open MLflow on 127.0.0.1, on the page that shows the runs")
    one.add_argument("--port", type=whole(1, 65535), help="default: 5000, or a free port if 5000 is taken")

    about = "send to MLflow what it has not got of the runs, sweeps and studies"
    command(commands, "sync", _sync, about)

    one = command(commands, "list", _list, "list the plug-ins that an experiment can name, or the file formats")
    one.add_argument("kind", choices=("strategies", "networks", "masks", "degradations", "formats", "reconstructors"))
    one.add_argument("--plugins", nargs="+", default=(), metavar="FILE", help="plug-in files that are listed too")

    about = "check a strategy, network, mask or other plug-in of your own against the laws"
    one = command(commands, "check-plugin", _check_plugin, about)
    one.add_argument("file", metavar="FILE", help="a plug-in file, as in the key plugins of an experiment")

    command(commands, "schema", _schema, "print the JSON schema of an experiment file, for editors")


def _run(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.runs.preview import preview
    from fedrecon.platform.runs.results import ANEW
    from fedrecon.platform.runs.run import run
    from fedrecon.platform.storage.tracking.address import public
    from fedrecon.platform.storage.workspace import RunFolder
    from fedrecon.platform.terminal.tables import result_table

    given = {key: getattr(arguments, key) for key in ("workspace", "in_process", "address", "tracking_uri", "rerun")}
    if arguments.dry_run:
        return _preview(preview(Path(arguments.experiment), arguments.overrides, **given), arguments.json)
    result = run(
        Path(arguments.experiment),
        arguments.overrides,
        **given,
        keep_checkpoints=arguments.keep_checkpoints,
    )
    if arguments.json:
        print_json(result.as_dict())
        return DONE
    folder = RunFolder(workspace_of(arguments), result.digest)
    result_table(result.as_dict(), (folder.noted() or {}).get("experiment", {}))
    began = "" if result.began == ANEW else f"{result.began}; "
    option = f" --workspace {shlex.quote(arguments.workspace)}" if arguments.workspace else ""
    store = public(arguments.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "")
    say(f"\n{began}run {result.run_id}, digest {result.digest}")
    pictures = folder.path / "panels"
    if pictures.is_dir():
        say(f"A test slice of each site: {pictures}")
    say(f"Curves, pictures, weights and the report in MLflow:  {store or f'fedrecon ui{option}'}")
    return DONE


def _preview(found: Mapping[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(found)
        return DONE
    for site, splits in found["slices"].items():
        say(f"{site}: " + ", ".join(f"{count} {split} slice{'s' * (count != 1)}" for split, count in splits.items()))
    say(f"dry run: {found['name']}, digest {found['digest']}, {found['rounds']} rounds, {found['begins']}")
    return DONE


def _evaluate(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.inference.evaluate import evaluate
    from fedrecon.platform.terminal.tables import rows_table

    found = evaluate(
        arguments.run,
        arguments.overrides,
        sites=arguments.sites,
        mask=arguments.mask,
        accelerations=arguments.acceleration or (),
        degradation=arguments.degradation,
        scales=arguments.scale or (),
        unseen=arguments.unseen,
        published=arguments.published or (),
        fine_tune_epochs=arguments.fine_tune_epochs,
        workspace=arguments.workspace,
        dry_run=arguments.dry_run,
    )
    if arguments.json:
        print_json(found)
    elif arguments.dry_run:
        for row in found["rows"]:
            say(f"dry run: {row['site']}, {row['operator']}: {row['n_slices']} test slices")
    else:
        rows_table(found)
        say(f"\nScores of each slice: {found['scores']}")
        if found["pictures"]:
            say(f"A test slice of each row: {Path(found['pictures'][0]).parent}")
        scored, own = found["science_version"], found["run_science_version"]
        if own != scored:
            before = "of before version 2" if own is None else f"of version {own}"
            say(f"scored by version {scored} of the science; the run and its own scores are {before}")
    return DONE


def _reconstruct(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.federation.coverage import in_words
    from fedrecon.platform.inference.reconstruct import reconstruct

    done = reconstruct(
        arguments.run,
        arguments.input,
        arguments.output,
        arguments.overrides,
        site=arguments.site,
        as_is=arguments.as_is,
        workspace=arguments.workspace,
        dry_run=arguments.dry_run,
    )
    if arguments.json:
        print_json(done)
        return DONE
    for volume in done["volumes"]:
        rate = f"acceleration {volume['measured_acceleration']:.2f}"
        count = f"{volume['n_slices']} slice{'s' * (volume['n_slices'] != 1)}"
        say(f"{volume['name']} ({volume['split']}): {count}, {rate}, sampling {volume['sampling']}")
    if done["uncertainty"]:
        say(in_words(done["uncertainty"]))
    output = str(done["output"])
    say(f"dry run: {output} is not written" if arguments.dry_run else output)
    return DONE


def _ui(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.terminal.mlflow_ui import serve

    serve(workspace_of(arguments), port=arguments.port)
    return DONE


def _sync(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.runs.sync import sync

    report = sync(workspace_of(arguments), arguments.tracking_uri, dry_run=arguments.dry_run)
    if arguments.json:
        print_json(report)
    else:
        heads = {"sent": "unsent"} if arguments.dry_run else {}
        for what, names in report.items():
            say(f"{heads.get(what, what):9}{len(names)}  {', '.join(names)}".rstrip())
    return DONE


def _list(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.terminal.tables import registry

    found = registry(arguments.kind, arguments.plugins)
    if arguments.json:
        lines, origins = ({name: one[part] for name, one in found.items()} for part in (0, 1))
        print_json({arguments.kind: lines, "origins": origins})
    else:
        width, wide = (max(map(len, texts), default=0) for texts in (found, (one[1] for one in found.values())))
        for name, (summary, origin) in found.items():
            say(f"{name:{width}}  {origin:{wide}}  {summary}")
    return DONE


def _check_plugin(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.laws.check import check_plugin
    from fedrecon.platform.terminal.tables import laws_table

    found = check_plugin(arguments.file)
    if arguments.json:
        print_json(found)
    else:
        laws_table(found)
    return WRONG_INPUT if found["broken"] else DONE


def _schema(_: argparse.Namespace) -> int:
    from fedrecon.platform.config.schema import json_schema

    print_json(json_schema())
    return DONE
