"""What an import did with each file. A format notes it, the import prints it and keeps it in the shard."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Notes:
    """What a format did with one file.

    Attributes:
        facts: what was found and done, by its name in the summary: ``orientation``, ``field of view``, ``crop``,
            ``scale``, ``coils``, ``noise``, ``phase``, ... Values are text with units; equal facts of all files are
            shown once.
        dropped: the slices that were left out (numbers from 0 in the file), by the rule that left them out.
        warnings: sentences about what is doubtful. Each is printed with the file's name.
    """

    facts: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
