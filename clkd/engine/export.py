"""The student as a file of its own at an experience's end, for whoever deploys it (`tracking.log_model`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from clkd import __version__
from clkd.data.augment import Augment
from clkd.engine.run import Run
from clkd.errors import Interrupted, one_line
from clkd.experience import Experience
from clkd.models.deployed import Deployed
from clkd.models.student import Student
from clkd.tracking import models

log = logging.getLogger("clkd.engine")


@dataclass(frozen=True, slots=True)
class Exporter:
    """Writes the student into the run's directory after `each` experience, or after the stream's last one."""

    run: Run
    student: Student
    augment: Augment
    class_names: Sequence[str]
    when: Literal["final", "each"]

    def __call__(self, experience: Experience) -> None:
        """A student that cannot be exported is reported, and the run goes on: its weights are in the checkpoint."""
        if self.when == "final" and experience.index + 1 < experience.count:
            return
        try:
            with torch.random.fork_rng(devices=[]):
                deployed = Deployed(self.student, self.augment.mean, self.augment.std)
                models.write(self.run.directory, experience.index, deployed, _rows(experience), self._about(experience))
        except Interrupted:
            raise
        except Exception as error:  # exporting runs a stranger's layers in torch's tracer: any of it may fail
            log.warning(
                "tracking.log_model: the student after experience %d cannot be exported and is not logged: %s: %s",
                experience.index,
                type(error).__name__,
                one_line(str(error), 200),
            )

    def _about(self, experience: Experience) -> dict[str, Any]:
        """What the model's metadata say under `clkd`."""
        run, student, names = self.run, self.student, self.class_names
        pixels = len(student.shape) == 3
        return {
            "version": __version__,
            "run_id": run.id,
            "scenario": run.scenario.name,
            "seed": run.seed,
            "dataset": run.stand_in or run.dataset,
            "experience": experience.index,
            "exported": round(time.time(), 3),
            "input": "8-bit pixels from 0 to 255, channels first" if pixels else "features as the data set has them",
            "output": "logits, a column for each of class_names",
            "class_names": [names[c] if c < len(names) else f"class {c}" for c in student.class_ids],
            "born": list(student.born),
            "shape": list(student.shape),
            "mean": self.augment.mean.flatten().tolist(),
            "std": self.augment.std.flatten().tolist(),
        }


def _rows(experience: Experience) -> Tensor:
    """The example's: as they are stored, of its own domain."""
    rows = experience.test if len(experience.test) else experience.train
    at = torch.arange(models.ROWS, device=rows.index.device) % len(rows)
    return rows.gather(at).x.cpu().contiguous()
