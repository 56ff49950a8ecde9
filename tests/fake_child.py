"""`python -m fake_child FOLDER`: jitinfer.runtime.stepwise over the driver in host memory."""

import sys

import pytest
from fake_driver import installed

from jitinfer.runtime import stepwise

with installed(pytest.MonkeyPatch()):
    stepwise.main(sys.argv[1])
