"""A memory that keeps no row of the past and makes up rows like them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam

from clkd.errors import UserError
from clkd.frozen import freeze
from clkd.memory.base import Memory, scaled
from clkd.memory.vae import VAE
from clkd.seeding import derive, forked, generator
from clkd.signals import Batch, Needs

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.experience import Experience
    from clkd.models.student import Student

MADE_UP = -1
"""The sample id and the domain of a row that nobody ever saw."""


class Generator(Memory):
    """Deep generative replay: a variational autoencoder that is trained beside the student, on the same rows.

    Shin et al. 2017, "Continual Learning with Deep Generative Replay", with the generator of van de Ven et al. 2022,
    "Three types of incremental learning". What is replayed comes from a copy of the generator that was taken when the
    last experience ended, and its label from a copy of the student taken at the same time: the class, among those that
    it knew, that it finds most likely. A student that is told its task labels each row within a past task drawn evenly.

    In every step the generator learns from the new rows and the replayed ones, the c-th experience's counting 1 / c and
    the replayed ones the rest. Rows are shown to it as they are stored, scaled to [0, 1]; what it makes up is rounded
    to uint8, as all images are stored.

    Args:
        hidden, latent: widths of the encoder's layers and of the code (`clkd.memory.vae`).
        lr: Adam's learning rate.
        seed: of the run.
        device: where it computes.
        context: knows the shape of rows.
        student: whose copies label what is made up.
    """

    invents: ClassVar[bool] = True
    contract_optouts: ClassVar[dict[str, str]] = {
        "faithful": "what it replays was never stored",
        "distinct": "it keeps no rows, and makes up as many as it is asked for",
        "weighed": "its bytes are those of networks, which the law does not look into",
    }

    def __init__(
        self,
        hidden: tuple[int, ...] = (400, 400),
        latent: int = 100,
        lr: float = 0.001,
        seed: int = 0,
        device: torch.device | str = "cpu",
        context: Context | None = None,
        student: Student | None = None,
    ) -> None:
        if context is not None and len(context.shape) != 3:
            raise UserError(
                f"memory: a generator makes up images, and rows are vectors of {context.shape[0]} features: use a "
                "memory that keeps rows, such as reservoir"
            )
        self.hidden, self.latent, self.lr = hidden, latent, lr
        self.seed, self.device, self.student = seed, torch.device(device), student
        self.draws = generator(seed, "memory", "generator")
        self.past = 0
        """Experiences that are over."""
        self.vae: VAE | None = None
        self.optimizer: Adam | None = None
        self.copy: VAE | None = None
        self.labeller: Student | None = None
        self.born = torch.empty(0, dtype=torch.long)
        """`[C]` the experience that brought each of the labeller's columns."""

    def learn(self, rows: Batch) -> dict[str, Tensor]:
        x = scaled(rows.stored())
        vae, optimizer = self._networks(tuple(x.shape[1:]))
        noise = torch.randn(len(x), self.latent, generator=self.draws).to(x.device, non_blocking=True)
        apart, divergence = (self._mean(values, rows.new) for values in vae(x, noise))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(apart + divergence)
        optimizer.step()
        return {"generator/reconstruction": apart.detach(), "generator/divergence": divergence.detach()}

    def _mean(self, values: Tensor, new: int) -> Tensor:
        """New rows' mean counts 1 / c, and the replayed rows' what is left."""
        if new == len(values):
            return values.mean()
        share = 1 / (self.past + 1)
        return share * values[:new].mean() + (1 - share) * values[new:].mean()

    def _networks(self, shape: tuple[int, ...]) -> tuple[VAE, Adam]:
        """Made when the first row shows its shape; the weights depend on the seed alone."""
        if self.vae is None or self.optimizer is None:
            with forked(self.device):
                torch.manual_seed(derive(self.seed, "memory", "generator", "weights"))
                self.vae = VAE(shape, self.hidden, self.latent)
            self.vae.to(self.device)
            self.optimizer = Adam(self.vae.parameters(), self.lr)
        return self.vae, self.optimizer

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Batch | None:
        """`n` rows that were made up with `generator` (on the CPU); None in the first experience."""
        if n <= 0 or self.copy is None:
            return None
        code = torch.randn(n, self.latent, generator=generator).to(self.device, non_blocking=True)
        x = self.copy.decode(code).mul(255).round().to(torch.uint8)
        y, experience = self._labelled(x, generator)
        nobody = torch.full_like(y, MADE_UP)
        return Batch(x, y, sample_id=nobody, domain=nobody, experience=experience, new=0)

    def _labelled(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`[n]` the class that the previous self finds most likely, and the experience that brought it."""
        assert self.labeller is not None, "taken with the copy"
        logits = self.labeller.signals(self.plain(x), Needs()).logits
        assert logits is not None, "asked for"
        competes = self.born >= 0
        if self.labeller.task_aware:
            tasks = sorted({born for born in self.labeller.born if born >= 0})
            drawn = torch.tensor(tasks)[torch.randint(len(tasks), (len(x),), generator=generator)]
            competes = self.born == drawn.to(self.device, non_blocking=True)[:, None]
        column = logits.masked_fill(~competes, -torch.inf).argmax(1)
        return self.labeller.class_ids_tensor[column], self.born[column]

    def end(self, experience: Experience, student: Student) -> None:
        """From now on, it replays the past as generator and student know it now."""
        self.past += 1
        if self.vae is not None:
            self.copy = freeze(copy.deepcopy(self.vae))
            self._take(student.frozen_copy())

    def _take(self, labeller: Student) -> None:
        self.labeller = labeller
        self.born = torch.tensor(labeller.born, device=self.device)

    def nbytes(self) -> int:
        """Of generator, its copy, the copy of the student, and what the optimizer keeps."""
        networks: list[nn.Module] = [each for each in (self.vae, self.copy, self.labeller) if each is not None]
        held = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        if self.optimizer is not None:
            held += [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        return sum(tensor.nbytes for tensor in held)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"draws": self.draws.get_state(), "past": self.past}
        if self.vae is not None and self.optimizer is not None:
            learned = {"shape": self.vae.shape, "vae": self.vae.state_dict(), "optimizer": self.optimizer.state_dict()}
            state |= copy.deepcopy(learned)
        if self.copy is not None and self.labeller is not None:
            labeller = {"layout": self.labeller.layout(), "state": self.labeller.state_dict()}
            state |= copy.deepcopy({"copy": self.copy.state_dict(), "labeller": labeller})
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws.set_state(state["draws"].cpu())
        self.past = state["past"]
        self.vae = self.optimizer = self.copy = self.labeller = None
        if "vae" not in state:
            return
        vae, optimizer = self._networks(tuple(state["shape"]))
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        if "copy" in state:
            assert self.student is not None, "the engine offers it"
            self.copy = freeze(copy.deepcopy(vae))
            self.copy.load_state_dict(state["copy"])
            labeller = self.student.frozen_copy()
            labeller.lay_out(state["labeller"]["layout"])
            labeller.load_state_dict(state["labeller"]["state"])
            self._take(labeller)

    def to(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        for network in (self.vae, self.copy, self.labeller):
            if network is not None:
                network.to(self.device)
        if self.optimizer is not None:
            self.optimizer.load_state_dict(self.optimizer.state_dict())  # which follows the parameters
        if self.labeller is not None:
            self._take(self.labeller)
