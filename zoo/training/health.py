"""Monitors of a run's health: on by default, each a line in the report; they warn, and can stop the run.

| monitor                  | looks at                                             | warns when               |
|--------------------------|------------------------------------------------------|--------------------------|
| discriminator saturation | share of pairs in which the real clip scores higher  | above 0.99 for 200 steps |
| mode collapse            | LPIPS between samples over that between real clips   | below 0.5 when evaluated |
| gradient norms           | the mean of each player since the last line          | 100 times its usual, 0   |
| codebook use             | perplexity within a batch, as a share of the codes   | below 0.02 for 200 steps |
| finite numbers           | every loss and gradient                              | one is not, and stops    |
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from zoo.assemblies import Assembly, Autoencoder, Sampler
from zoo.recipes import Adversarial
from zoo.training.callbacks import Callback

_PATIENCE = 200
"""Steps that a bad number has to last."""
_USUAL = 50
"""Lines that the usual gradient norm is the median of."""


@dataclasses.dataclass
class Finding:
    """What a monitor has to say.

    Attributes:
        monitor: Its name.
        value: The last number it saw, in words; empty when it saw none.
        since: Step since which the number is bad; None while it is good.
        advice: What to change, while it is bad.
        warned: Whether it ever warned.
    """

    monitor: str
    value: str = ""
    since: int | None = None
    advice: str = ""
    warned: bool = False


class Health(Callback):
    """Watches the numbers of a run and says what to change when they go wrong.

    Args:
        num_codes: Codes of the quantizer, 0 when there is none.
        samples: Whether there is a diversity of samples to watch.
        adversarial: The game with discriminators; None without any.
        stop: Ask for an end of the run at the first warning.
        quiet: Print nothing.

    Attributes:
        findings: The monitors, by name.
        verdict: Why the run has to end; empty while it may go on.
    """

    def __init__(
        self,
        *,
        num_codes: int,
        samples: bool,
        adversarial: Adversarial | None,
        stop: bool = False,
        quiet: bool = False,
    ) -> None:
        self.stop = stop
        self.quiet = quiet
        self._num_codes = num_codes
        self._adversarial = adversarial
        names = ["gradient norms", "finite numbers"]
        names += ["discriminator saturation"] if adversarial is not None else []
        names += ["mode collapse"] if samples else []
        names += ["codebook use"] if num_codes else []
        self.verdict = ""
        self.findings = {name: Finding(name) for name in names}
        self._norms: dict[str, deque[float]] = {}

    def on_start(self, folder: Path, recipe: Mapping[str, Any], step: int) -> None:
        """Begin anew from `step`."""
        self.findings["finite numbers"].value = "all losses and gradients so far"

    def on_log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Look at the numbers of the last steps."""
        if "discriminator saturation" in self.findings and "discriminator_wins" in numbers:
            wins = numbers["discriminator_wins"]
            self._see(
                "discriminator saturation",
                step,
                f"real clips score higher in {100 * wins:.1f} % of pairs",
                bad=wins > 0.99,
                patience=_PATIENCE,
                advice="the discriminator always wins: lower train.discriminator_optimizer.lr, "
                + self._strengthen()
                + "or make the discriminator smaller",
            )
        if "codebook use" in self.findings and "quantizer/perplexity" in numbers:
            share = numbers["quantizer/perplexity"] / self._num_codes
            self._see(
                "codebook use",
                step,
                f"perplexity {numbers['quantizer/perplexity']:.1f} of {self._num_codes} codes in a batch",
                bad=share < 0.02 and numbers["quantizer/perplexity"] < 16,
                patience=_PATIENCE,
                advice="few codes are used: take a quantizer that cannot collapse (fsq, lfq) or revives "
                "dead codes (vq-ema), or a lower train.optimizer.lr",
            )
        self._see_norms(step, numbers)

    def on_eval(self, step: int, numbers: Mapping[str, float]) -> None:
        """Compare how much samples differ with how much real clips do."""
        made, real = numbers.get("lpips_diversity"), numbers.get("lpips_diversity_of_real_clips")
        if "mode collapse" in self.findings and made is not None and real:
            self._see(
                "mode collapse",
                step,
                f"samples differ by {made:.3f} LPIPS, real clips by {real:.3f}",
                bad=made < 0.5 * real,
                advice=self._against_collapse(),
            )

    def broke(self, step: int, reason: str) -> None:
        """Note that a loss or gradient was not finite."""
        self.findings["finite numbers"] = Finding("finite numbers", reason, step, "a lower rate", warned=True)

    def lines(self) -> list[dict[str, Any]]:
        """Return every monitor's line, as plain data for run.json."""
        return [dataclasses.asdict(finding) for finding in self.findings.values()]

    def _against_collapse(self) -> str:
        if self._adversarial is None:
            return "samples are too much alike: train longer, or draw with a higher temperature"
        loss = "" if self._adversarial.loss == "relativistic" else "take the relativistic loss, "
        return (
            f"samples are too much alike: {self._strengthen()}{loss}or, with little data, "
            "make the discriminator smaller"
        )

    def _strengthen(self) -> str:
        """Say which stabilisers to add, and of R1 to raise it where the recipe has it."""
        game = self._adversarial
        assert game is not None
        field = "train.objective.adversarial"
        augment = "" if game.augment is not None else f"add {field}.augment, "
        return (f"add {field}.r1, " if game.r1 is None else f"raise {field}.r1.weight, ") + augment

    def _see_norms(self, step: int, numbers: Mapping[str, float]) -> None:
        words, troubles = [], []
        for name in ("grad_norm", "discriminator_grad_norm"):
            if name not in numbers:
                continue
            norm, usual = numbers[name], self._norms.setdefault(name, deque(maxlen=_USUAL))
            words.append(f"{name} {norm:.3g}")
            if len(usual) == _USUAL and norm > 100 * statistics.median(usual):
                troubles.append(f"{name} is {norm / statistics.median(usual):.0f} times its usual")
            elif norm == 0:
                troubles.append(f"{name} is 0: nothing is learnt")
            usual.append(norm)
        if words:
            advice = f"{'; '.join(troubles)}: set train.clip_grad_norm, or lower the rates"
            self._see("gradient norms", step, ", ".join(words), bad=bool(troubles), advice=advice)

    def _see(self, name: str, step: int, value: str, *, bad: bool, advice: str, patience: int = 0) -> None:
        finding = self.findings[name]
        finding.value = value
        if not bad:
            finding.since, finding.advice = None, ""
            return
        finding.since = step if finding.since is None else finding.since
        if step - finding.since < patience or finding.advice:
            return
        finding.advice, finding.warned = advice, True
        message = f"step {step}: {name}: {value}; {advice}"
        if self.stop:
            self.verdict = f"{message}. Stopped and saved, as train.health: stop asks"
        if not self.quiet:
            tqdm.write(f"warning: {message}", file=sys.stderr)


def make_health(model: Assembly, *, quiet: bool) -> Health | None:
    """Make the monitors that suit a model; None where its recipe switches them off."""
    recipe = model.recipe
    if recipe.train.health == "off":
        return None
    return Health(
        num_codes=int(model.quantizer.codebook_size) if isinstance(model, Autoencoder) else 0,
        samples=isinstance(model, Sampler),
        adversarial=recipe.train.objective.adversarial,
        stop=recipe.train.health == "stop",
        quiet=quiet,
    )
