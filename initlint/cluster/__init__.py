"""Models on many machines, through an engine that is there already: Dask or Ray.

Every machine runs the ordinary isolated worker, so that a report is the same bytes as a local one.
"""
