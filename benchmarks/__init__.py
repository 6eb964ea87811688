"""Speed and memory beside other packages: ``python -m benchmarks.quantizers``. No part of the wheel."""
