"""Priors: generators of the tokens of a video tokenizer.

The manifest is `zoo_priors.manifest`; every other module needs torch and is imported on first use.
"""
