"""Settings that all tests share."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "initlint",
    deadline=None,  # time never decides a test
    derandomize=True,  # the same inputs in every run; `make fuzz` looks for new ones
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("initlint")
