"""One initialisation fault put into a healthy network: is it found, and where it is?

    python -m benchmarks.mutants train [--only WORD]
    python -m benchmarks.mutants lint [--only WORD] [--road onnx] [--afresh]
    python -m benchmarks.mutants evaluate [--road onnx]

A mutant is *harmful* when training it fails: on average over SGD and Adam, each at the better of
two rates, and over three draws of weights and data (``--draws``), it makes less than half of the
progress of the healthy original in 60 steps. It is found
when a warning or error names its layer, without blaming more than half of the others for a fault of
one layer. Healthy originals must be silent. The records stay in this folder, so that either half
can be taken up where it stopped; ``--sample N`` takes N mutants of a network, drawn by its name.
"""
