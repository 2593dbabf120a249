"""The short form of scripts/chaos: load and random faults, numbered event by numbered event."""

import subprocess
import sys

import pytest

from tests.support.processes import ROOT


@pytest.mark.full  # test_two_instances.py holds the same of faults of its own choice
@pytest.mark.skipif(sys.platform != "linux", reason="the load client uses epoll")
@pytest.mark.timeout(180)
def test_half_a_minute_of_random_faults_breaks_no_guarantee() -> None:
    told = subprocess.run(
        ["scripts/chaos", "--short"], cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stderr.count("no loss, no duplicate, no gap") == 2
    assert told.stderr.count(" s  ") >= 4, "without faults it proves nothing"
