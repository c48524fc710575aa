"""Small networks, initialised well and badly, really trained: what initialisation does to them.

``python -m benchmarks.outcome train`` trains every model of `models.ZOO`; ``judge`` lints them
before any step; ``fit`` fits the coefficients of `initlint.risk`; ``evaluate`` prints how well
what was said before agrees with what happened.
"""
