"""The text of an error that leaves a site: no library's words, a bounded length, and the place."""

import pickle
import traceback

import numpy as np
import pytest

from fedrecon.sites.errors import DiskFullError, InputError, RunError
from fedrecon.sites.member.error_text import LONGEST, ForeignError, leaving, walled, within_walls
from fedrecon.sites.wire import vector

SECRET = "0.123456"


def not_positive():
    raise ValueError(f"not positive: [{SECRET}]")


def chained():
    try:
        not_positive()
    except ValueError as error:
        raise InputError("refused") from error


def caught(body, log=None):
    with pytest.raises(RunError) as found, within_walls(log):
        body()
    return found.value


@pytest.mark.parametrize(
    "body",
    [
        not_positive,
        lambda: np.testing.assert_allclose([float(SECRET)], [1.0]),
        lambda: {}[SECRET],
    ],
)
def test_of_a_librarys_error_type_and_place_leave_alone(body, tmp_path):
    log = tmp_path / "private" / "errors.log"
    error = caught(body, log)
    assert isinstance(error, ForeignError)
    everything = "".join(traceback.format_exception(error)) + str(pickle.dumps(error))
    assert f"[{SECRET}]" not in everything
    assert SECRET not in str(error)
    assert SECRET in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_the_place_is_the_innermost_line_of_fedrecon():
    found = str(caught(lambda: vector(np.zeros((2, 2)))))
    assert "sites/wire.py" in found
    assert found.startswith("TypeError in line ")


def test_own_errors_keep_their_text_without_their_cause_and_not_at_any_length(tmp_path):
    for error in (InputError("b.h5: no such file"), DiskFullError(tmp_path, 3)):
        assert leaving(error) is error
    with pytest.raises(InputError, match="refused") as found, within_walls():
        chained()
    assert SECRET not in "".join(traceback.format_exception(found.value))
    long = leaving(InputError("the disk is full" + "x" * 10**6 + "the end"))
    assert len(str(long)) <= LONGEST
    assert str(long).startswith("the disk is full")
    assert str(long).endswith("the end")


def test_a_walled_function_has_its_name_and_is_sent_to_another_process():
    from ray import cloudpickle

    function = cloudpickle.loads(cloudpickle.dumps(walled(not_positive)))
    assert function.__name__ == "not_positive"
    with pytest.raises(ForeignError):
        function()
