"""Makes a consortium of one folder: the files of each scanner become the shard of a site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon.sites.errors import FileError, FilesError, InputError
from fedrecon.sites.formats.format import check_fetched
from fedrecon.sites.formats.importing import chosen_format, import_data
from fedrecon.sites.formats.record import ImportSummary


def import_by_scanner(
    format: str,  # noqa: A002 - the command line's word
    sources: Sequence[Path | str] | Path | str,
    out: Path | str,
    *,
    skip_bad: bool = False,
    plugins: Sequence[Path | str] = (),
    **options: Any,
) -> list[ImportSummary]:
    """Write the files ``sources`` as one shard a scanner, named by its vendor, model and field strength.

    Each site is an import by itself: subjects are split within it. ``--subjects-from`` splits them across sites.

    Args:
        format, sources, out, skip_bad, plugins, options: see :func:`fedrecon.sites.formats.importing.import_data`.

    Raises:
        FilesError: files do not name their scanner (with ``skip_bad`` they are left out and named), or are refused; the
            sites without a refused file are written.
        InputError: subjects are named for one site, or see ``import_data``.
    """
    for name in ("validation_subjects", "test_subjects"):
        if options.get(name):
            flag = name.replace("_", "-")
            raise InputError(f"--site-by makes several sites, and --{flag} splits one; give --subjects-from.")
    reader = chosen_format(format, plugins, {})
    given = [Path(one) for one in ([sources] if isinstance(sources, Path | str) else sources)]
    groups, nameless = defaultdict(list), dict[Path, str]()
    for path in reader.find(given)[0]:
        try:
            for file in reader.files(path):
                check_fetched(file)
            scanner = reader.scanner(path)
            if scanner is None:
                raise FileError(path, "does not say model and field strength of its scanner (--site imports it).")
        except FileError as error:
            nameless[path] = error.reason
        else:
            groups[scanner].append(path)
    if nameless and not (skip_bad and groups):
        raise FilesError([FileError(path, reason) for path, reason in nameless.items()], "Nothing is written.")
    done: list[ImportSummary] = []
    refused: list[FileError] = []
    for site, paths in sorted(groups.items()):
        try:
            done.append(import_data(format, paths, site, out, skip_bad=skip_bad, plugins=plugins, **options))
        except FilesError as error:
            refused += error.refused
        except FileError as error:
            refused.append(error)
        except InputError as error:
            raise InputError(f"site '{site}': {error}") from None
    written = [one.site for one in done if one.written]
    if refused:
        raise FilesError(refused, f"Refused: {len(refused)} files. Written: {', '.join(written) or 'no site'}.")
    done[0].skipped.update(nameless)
    return done
