"""Quantizers for zoo. `zoo_quantizers.manifest` lists them; each lives in a file of its own."""
