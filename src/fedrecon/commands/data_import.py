"""``fedrecon data import``, a thin layer over :func:`fedrecon.sites.formats.importing.import_data`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from fedrecon.commands.base import DONE
from fedrecon.platform.terminal.arguments import number, whole
from fedrecon.platform.terminal.output import print_json, say

if TYPE_CHECKING:
    from fedrecon.sites.formats.record import ImportSummary

OPTIONS = ("size", "phase", "seed", "plane", "volume", "zero", "slices", "noise_sigma", "coils")
"""Options of formats; a format refuses those that it does not have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    add = parser.add_argument
    add("format", metavar="FORMAT", help="nifti, fastmri, npy; see fedrecon list formats")
    add("source", nargs="+", metavar="SOURCE", help="files, or folders in and below which they lie")
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--site", metavar="NAME")
    one.add_argument(
        "--site-by", choices=("scanner",), help="one site a scanner, named by its model and field strength"
    )
    add("--out", required=True, metavar="DIR")
    add("--contrast", metavar="C", help="default: the name in the files")
    add("--coils", type=whole(1, 1024), metavar="N", help="compress k-space to N virtual coils (default: keep all)")
    add("--noise-sigma", type=number(0, 1e12), metavar="S", help="noise of a k-space sample (default: estimated)")
    add("--dry-run", action="store_true", help="read and check everything, print the summary, write nothing")
    add("--overwrite", action="store_true", help="replace the shard of this site, if there is one")
    add("--skip-bad", action="store_true", help="import the good files, although others are refused")
    add("--plugins", nargs="+", default=(), metavar="FILE", help="plug-in files that add formats")

    group = parser.add_argument_group("subjects and splits")
    group.add_argument(
        "--subjects-from", metavar="FILE.tsv", help="a list with the columns file, subject and, for splits, split"
    )
    group.add_argument(
        "--subject-pattern",
        metavar="REGEX",
        help="searched in the file name, else in its path (default: the patient id in the file, else the name up to "
        "its first '_')",
    )
    group.add_argument("--validation-subjects", metavar="A,B")
    group.add_argument("--test-subjects", metavar="C")
    group.add_argument(
        "--key",
        metavar="FILE",
        help="the consortium's key for pseudonyms, made at first use (default: DIR/consortium.key)",
    )

    group = parser.add_argument_group("magnitude volumes (nifti)")
    group.add_argument("--size", type=whole(8, 4096), metavar="N", help="matrix N x N (default: the native size)")
    group.add_argument("--phase", metavar="none|smooth", help="phase of the simulated k-space (default: smooth)")
    group.add_argument("--seed", type=whole(-(2**63), 2**63 - 1), help="seed of the simulated phase (default: 0)")
    group.add_argument(
        "--plane",
        metavar="axial|coronal|sagittal|AXIS",
        help="plane of the slices, or the file's voxel axis across them (0, 1, 2); default: an axis of length one, "
        "dim_info, or the thickest voxels",
    )
    group.add_argument(
        "--volume", type=whole(0, 2**31 - 1), metavar="N", help="which volume of files with several, from 0"
    )
    group.add_argument(
        "--zero", metavar="nan,negative", help="values that become zero: NaN and infinity, small negative ones"
    )
    group.add_argument(
        "--slices", metavar="anatomy|all", help="leave out end slices with little anatomy, or none (default: anatomy)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Imports, and prints the summary; its warnings go to stderr."""
    from fedrecon.sites.formats.by_scanner import import_by_scanner
    from fedrecon.sites.formats.importing import import_data

    options = {name: getattr(arguments, name) for name in OPTIONS}
    if options["zero"] is not None:
        options["zero"] = _names(options["zero"])
    options |= {
        "out": arguments.out,
        "contrast": arguments.contrast,
        "subject_pattern": arguments.subject_pattern,
        "subjects_from": arguments.subjects_from,
        "validation_subjects": _names(arguments.validation_subjects),
        "test_subjects": _names(arguments.test_subjects),
        "key": arguments.key,
        "overwrite": arguments.overwrite,
        "skip_bad": arguments.skip_bad,
        "dry_run": arguments.dry_run,
        "plugins": arguments.plugins,
    }
    if arguments.site is None:
        summaries = import_by_scanner(arguments.format, arguments.source, **options)
    else:
        summaries = [import_data(arguments.format, arguments.source, arguments.site, **options)]
    if arguments.json:
        shown = [summary.as_dict() for summary in summaries]
        print_json(shown[0] if arguments.site else {"sites": shown})
        return DONE
    for summary in summaries:
        _show(summary)
    return DONE


def _show(summary: ImportSummary) -> None:
    for line in summary.lines():
        say(line)
    for note in summary.notes:
        say(f"warning: {note.kind}: {note.text}", sys.stderr)
    if summary.written:
        say(f"{summary.path}{' (replaced)' if summary.overwrote else ''}")
    else:
        say(f"dry run: {summary.path} is not written")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
