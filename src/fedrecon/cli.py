"""The command line, a thin layer over the Python API. Importing it does not load torch, ray or mlflow."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon.sites.errors import FedreconError, InputError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        the exit code: 0 done, 1 the command failed, 2 the input is wrong, 130 interrupted.
    """
    arguments = _parser().parse_args(argv)
    warnings.showwarning = _show_warning
    try:
        code: int = arguments.command(arguments)
    except InputError as error:
        return _say(f"error: {error}", WRONG_INPUT)
    except FedreconError as error:
        return _say(f"failed: {error}", FAILED)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from the last committed round", INTERRUPTED)
    except BrokenPipeError:
        return DONE
    except Exception as error:  # noqa: BLE001 - a defect of fedrecon: the traceback helps to find it
        traceback.print_exc()
        return _say(f"failed: {type(error).__name__}: {error}", FAILED)
    return code


def _simulate(arguments: argparse.Namespace) -> int:
    from fedrecon.sites.phantom import simulate

    options = {key: getattr(arguments, key) for key in ("subjects", "size", "coils") if getattr(arguments, key)}
    if arguments.sites:
        options["sites"] = tuple(arguments.sites)
    for path in simulate(arguments.directory, seed=arguments.seed, **options):
        print(path)
    return DONE


def _import(arguments: argparse.Namespace) -> int:
    from fedrecon.sites.formats.importing import import_data

    path = import_data(
        arguments.format,
        arguments.source,
        arguments.site,
        arguments.out,
        contrast=arguments.contrast,
        size=arguments.size,
        phase=arguments.phase,
        subject_pattern=arguments.subject_pattern,
        validation_subjects=_names(arguments.validation_subjects),
        test_subjects=_names(arguments.test_subjects),
        seed=arguments.seed,
        key=arguments.key,
        plugins=arguments.plugins,
    )
    print(path)
    return DONE


def _inspect(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.terminal.tables import shards_table
    from fedrecon.sites.data.inspect import inspect

    found = inspect(arguments.path)
    if arguments.json:
        _print_json(found)
    else:
        shards_table(found["shards"])
    for problem in found["problems"]:
        _say(f"error: {problem['message']}", WRONG_INPUT)
    return WRONG_INPUT if found["problems"] else DONE


def _seal(arguments: argparse.Namespace) -> int:
    from fedrecon.sites.data.inspect import find_shards
    from fedrecon.sites.data.seal import seal

    for path in find_shards(arguments.path):
        before, after = seal(path)
        print(f"{path}: {after}" + ("" if before == after else f" (before: {before})"))
    return DONE


def _run(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.runs.run import run
    from fedrecon.platform.storage.workspace import RunFolder, default_workspace
    from fedrecon.platform.terminal.tables import result_table

    result = run(
        Path(arguments.experiment),
        arguments.overrides,
        workspace=arguments.workspace,
        in_process=arguments.in_process,
        address=arguments.address,
        tracking_uri=arguments.tracking_uri,
        rerun=arguments.rerun,
    )
    if arguments.json:
        _print_json(result.as_dict())
        return DONE
    folder = RunFolder(Path(arguments.workspace or default_workspace()), result.digest)
    result_table(result.as_dict(), (folder.noted() or {}).get("experiment", {}))
    again = "it was finished already; " if result.trained_rounds == 0 and result.rounds else ""
    option = f" --workspace {arguments.workspace}" if arguments.workspace else ""
    print(f"\n{again}run {result.run_id}, digest {result.digest}")
    pictures = folder.path / "panels"
    if pictures.is_dir():
        print(f"A test slice of each site: {pictures}")
    print(f"Curves, pictures, weights and the report in MLflow:  fedrecon ui{option}")
    return DONE


def _evaluate(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.inference.evaluate import evaluate
    from fedrecon.platform.terminal.tables import rows_table

    found = evaluate(
        arguments.run,
        sites=arguments.sites,
        mask=arguments.mask,
        accelerations=arguments.acceleration or (),
        degradation=arguments.degradation,
        scales=arguments.scale or (),
        unseen=arguments.unseen,
        published=arguments.published or (),
        fine_tune_epochs=arguments.fine_tune_epochs,
        workspace=arguments.workspace,
    )
    if arguments.json:
        _print_json(found)
    else:
        rows_table(found["rows"])
    return DONE


def _reconstruct(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.inference.reconstruct import reconstruct

    done = reconstruct(
        arguments.run,
        arguments.input,
        arguments.output,
        site=arguments.site,
        as_is=arguments.as_is,
        workspace=arguments.workspace,
    )
    if arguments.json:
        _print_json(done)
        return DONE
    for volume in done["volumes"]:
        rate = f"acceleration {volume['measured_acceleration']:.2f}"
        print(f"{volume['name']}: {volume['n_slices']} slices, {rate}, sampling {volume['sampling']}")
    print(done["output"])
    return DONE


def _ui(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.storage.workspace import default_workspace
    from fedrecon.platform.terminal.mlflow_ui import serve

    serve(Path(arguments.workspace) if arguments.workspace else default_workspace(), port=arguments.port)
    return DONE


def _list(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.terminal.tables import registry

    found = registry(arguments.kind, arguments.plugins)
    if arguments.json:
        lines, origins = ({name: one[part] for name, one in found.items()} for part in (0, 1))
        _print_json({arguments.kind: lines, "origins": origins})
    else:
        width, wide = (max(map(len, texts), default=0) for texts in (found, (one[1] for one in found.values())))
        for name, (summary, origin) in found.items():
            print(f"{name:{width}}  {origin:{wide}}  {summary}")
    return DONE


def _check_plugin(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.laws.check import check_plugin
    from fedrecon.platform.terminal.tables import laws_table

    found = check_plugin(arguments.file)
    if arguments.json:
        _print_json(found)
    else:
        laws_table(found)
    return WRONG_INPUT if found["broken"] else DONE


def _schema(_: argparse.Namespace) -> int:
    from fedrecon.platform.config.schema import json_schema

    _print_json(json_schema())
    return DONE


def _parser() -> argparse.ArgumentParser:
    from fedrecon.tune.study.command import COMMAND as STUDY
    from fedrecon.tune.sweep.command import COMMAND as SWEEP
    from fedrecon.version import __version__

    parser = argparse.ArgumentParser(
        prog="fedrecon",
        description="Federated MR image reconstruction experiments on Ray, browsed in MLflow.",
    )
    parser.add_argument("--version", action="version", version=f"fedrecon {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _data_commands(commands.add_parser("data", help="simulate, import, inspect and seal the data of sites"))

    one = _command(commands, "run", _run, "run an experiment, or resume it", json=True, workspace=True)
    one.add_argument("experiment", metavar="EXPERIMENT.yaml")
    one.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="changes to the experiment, such as training.rounds=20"
    )
    one.add_argument("--in-process", action="store_true", help="run all sites in this process, without Ray: same bits")
    one.add_argument("--address", help="address of a running Ray cluster (default: start one here)")
    one.add_argument(
        "--tracking-uri",
        help="address of an MLflow server (default: MLFLOW_TRACKING_URI, or the workspace's mlflow.db)",
    )
    one.add_argument(
        "--rerun", action="store_true", help="run again, even if a finished run exists; the older run is kept"
    )

    one = _command(
        commands, "evaluate", _evaluate, "score a finished run under other operators or at other sites", json=True,
        workspace=True,
    )  # fmt: skip
    one.add_argument("run", metavar="RUN", help="run id, digest or latest")
    one.add_argument("--sites", metavar="FOLDER", help="shards to test on (default: the run's own)")
    one.add_argument("--mask", metavar="NAME", help="mask to test (default: the run's own); see fedrecon list masks")
    one.add_argument("--acceleration", nargs="+", type=float, metavar="R", help="accelerations to test, one by one")
    one.add_argument(
        "--degradation",
        metavar="NAME",
        help="degradation to test, for a super-resolution run; see fedrecon list degradations",
    )
    one.add_argument(
        "--scale", nargs="+", type=int, metavar="S", help="scales to test, for a super-resolution run: 2, 3, 4"
    )
    one.add_argument(
        "--unseen", metavar="RULE", help="source of an unseen site's private part: average, nearest or fine-tune"
    )
    one.add_argument(
        "--published", nargs="+", metavar="SITE", help="sites that agreed to publish their private part, or all"
    )
    one.add_argument("--fine-tune-epochs", type=int, metavar="N", help="epochs of --unseen fine-tune (default: 5)")

    one = _command(
        commands,
        "reconstruct",
        _reconstruct,
        "reconstruct a shard or k-space file, or enlarge a NIfTI volume",
        json=True,
        workspace=True,
    )
    one.add_argument("run", metavar="RUN", help="run id, digest or latest")
    one.add_argument(
        "input", metavar="INPUT", help="a shard, a fastMRI file, raw k-space (.npy), or a NIfTI volume to enlarge"
    )
    one.add_argument(
        "-o", "--output", required=True, help="output file: .h5 or .png; from a NIfTI volume also .nii or .nii.gz"
    )
    one.add_argument(
        "--site", metavar="NAME", help="site whose operator is used, and whose network if each site has its own"
    )
    one.add_argument(
        "--as-is", action="store_true", help="enlarge k-space instead of degrading it first (super-resolution)"
    )

    one = _command(commands, "ui", _ui, "open MLflow on 127.0.0.1, on the page that shows the runs", workspace=True)
    one.add_argument("--port", type=int, help="default: 5000, or a free port if 5000 is taken")

    one = _command(
        commands, "list", _list, "list the plug-ins that an experiment can name, or the file formats", json=True
    )
    one.add_argument("kind", choices=("strategies", "networks", "masks", "degradations", "formats", "reconstructors"))
    one.add_argument("--plugins", nargs="+", default=(), metavar="FILE", help="plug-in files that are listed too")

    one = _command(
        commands,
        "check-plugin",
        _check_plugin,
        "run the laws of strategies, networks and masks on a plug-in",
        json=True,
    )
    one.add_argument("file", metavar="FILE", help="a plug-in file, as in the key plugins of an experiment")

    _command(commands, "schema", _schema, "print the JSON schema of an experiment file, for editors")

    for one_kind in (SWEEP, STUDY):
        one_kind.add_arguments(
            _command(commands, one_kind.kind, one_kind.command, one_kind.about, json=True, workspace=True)
        )
    return parser


def _data_commands(data: argparse.ArgumentParser) -> None:
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    one = _command(commands, "simulate", _simulate, "simulate a consortium of hospitals, with one shard per site")
    one.add_argument("directory", metavar="DIR")
    one.add_argument("--sites", nargs="+", metavar="NAME", help="sites, each as CONTRAST or NAME:CONTRAST")
    one.add_argument("--subjects", type=int, metavar="N", help="number of subjects at each site")
    one.add_argument("--size", type=int, metavar="N", help="matrix N x N")
    one.add_argument(
        "--coils", type=int, metavar="N", help="number of coils at every site (default: each site's own number)"
    )
    one.add_argument("--seed", type=int, default=0)

    one = _command(commands, "import", _import, "import files as the shard of a site")
    one.add_argument("format", metavar="FORMAT", help="nifti, fastmri, npy; see fedrecon list formats")
    one.add_argument("source", nargs="+", metavar="SOURCE", help="files or folders")
    one.add_argument("--site", required=True, metavar="NAME")
    one.add_argument("--out", required=True, metavar="DIR")
    one.add_argument("--contrast", metavar="C")
    one.add_argument("--size", type=int, metavar="N", help="matrix N x N (nifti)")
    one.add_argument("--phase", metavar="none|smooth", help="phase of the simulated k-space (nifti; default: smooth)")
    one.add_argument("--subject-pattern", metavar="REGEX", help="default: the file name up to its first '_'")
    one.add_argument("--validation-subjects", metavar="A,B")
    one.add_argument("--test-subjects", metavar="C")
    one.add_argument("--seed", type=int, help="seed of the simulated phase (nifti; default: 0)")
    one.add_argument(
        "--key",
        metavar="FILE",
        help="the consortium's key for pseudonyms, made at first use (default: DIR/consortium.key)",
    )

    one.add_argument("--plugins", nargs="+", default=(), metavar="FILE", help="plug-in files that add formats")

    one = _command(
        commands,
        "inspect",
        _inspect,
        "show the contents of a shard or a folder of shards, and their errors",
        json=True,
    )
    one.add_argument("path", metavar="PATH")

    one = _command(commands, "seal", _seal, "write the hash of a shard's content anew, after a change that was meant")
    one.add_argument("path", metavar="PATH", help="a shard, or a folder of shards")


def _command(
    commands: Any, name: str, function: Any, text: str, json: bool = False, workspace: bool = False
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=function)
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    if workspace:
        parser.add_argument("--workspace", metavar="DIR", help="default: FEDRECON_WORKSPACE or ./workspace")
    return parser


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _print_json(content: Any) -> None:
    json.dump(content, sys.stdout, indent=2, default=str)
    print()


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, RuntimeWarning | UserWarning):
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
