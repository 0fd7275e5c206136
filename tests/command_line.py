"""The command line as a test calls it."""

import json

from fedrecon.cli import main


class Called:
    """One call of the command line with what it printed."""

    def __init__(self, capsys, *arguments) -> None:
        capsys.readouterr()
        try:
            self.code = main([str(one) for one in arguments])
        except SystemExit as error:
            self.code = error.code
        self.out, self.err = capsys.readouterr()

    @property
    def json(self):
        return json.loads(self.out)
