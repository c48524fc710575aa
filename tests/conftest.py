"""Settings that all tests share."""

import os

# Threads of NumPy and PyTorch that wait for each other cost small networks more than they give, and
# tests run side by side; programs that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

settings.register_profile(
    "initlint",
    deadline=None,  # time never decides a test
    derandomize=True,  # the same inputs in every run; `make fuzz` looks for new ones
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("initlint")
