"""A third-party plugin of zoo. The part is named in `zoo_example.manifest`."""
