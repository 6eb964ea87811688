"""timm backbones as parts of zoo. The parts are named in `zoo_timm.manifest`."""
