"""Avalanche's plugins with one thing changed, to measure what that thing is worth."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from clkd.vision import avalanche


def row_fisher_ewc(ewc_lambda: float) -> Any:
    """EWC by the squares of each row's own gradient, where Avalanche squares those of whole batches' means."""
    avalanche()
    from avalanche.training.plugins import EWCPlugin
    from avalanche.training.utils import zerolike_params_dict

    class RowFisher(EWCPlugin):  # type: ignore[misc]  # Avalanche has no types
        def compute_importances(
            self, model: Any, criterion: Any, optimizer: Any, dataset: Any, device: Any, batch_size: int, **_: Any
        ) -> Any:
            model.eval()
            found = zerolike_params_dict(model)
            for x, y, *_rest in DataLoader(dataset, batch_size=batch_size, collate_fn=dataset.collate_fn):
                for name, squares in row_squares(model, x.to(device), y.to(device)).items():
                    found[name].data += squares / len(dataset)
            model.train()
            return found

    return RowFisher(ewc_lambda)


def row_squares(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Each parameter's `Σ_b (∂ log p(y_b | x_b) / ∂θ)²`, where all parameters are those of linear layers.

    A row's gradient of a weight is `δ ⊗ a`, δ that of the layer's output and a its input: `(δ ⊗ a)² = δ² ⊗ a²`.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Any:
        def note(_: nn.Module, given: tuple[Tensor], said: Tensor) -> None:
            said.retain_grad()
            seen[name] = given[0].detach(), said

        return note

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    nn.functional.cross_entropy(model(x), y, reduction="sum").backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    squares = {}
    for name, (a, said) in seen.items():
        assert said.grad is not None, "every layer has a part in the loss"
        squares[f"{name}.weight"] = said.grad.square().T @ a.square()
        squares[f"{name}.bias"] = said.grad.square().sum(0)
    return squares


def copying_si(si_lambda: float, eps: float, unbounded: bool = False) -> Any:
    """SI that remembers weights, where Avalanche's on a CPU remembers views of them, which follow every step.

    With them no weight ever seems to have moved. `unbounded` cuts Ω off at 0 and nowhere else, where Avalanche cuts it
    off above 0.001 and not at 0.
    """
    avalanche()
    from avalanche.training.plugins import SynapticIntelligencePlugin

    class Copying(SynapticIntelligencePlugin):  # type: ignore[misc]  # Avalanche has no types
        def before_training_exp(self, strategy: Any, **options: Any) -> None:
            super().before_training_exp(strategy, **options)
            copy(self.ewc_data[0])

        def before_training_iteration(self, strategy: Any, **options: Any) -> None:
            super().before_training_iteration(strategy, **options)
            copy(self.syn_data["old_theta"])

        def after_training_exp(self, strategy: Any, **options: Any) -> None:
            most, excluded = float("inf") if unbounded else 0.001, self.excluded_parameters
            self.update_ewc_data(strategy.model, self.ewc_data, self.syn_data, most, excluded, 1, eps=self.eps)
            for name, importance in self.ewc_data[1].items() if unbounded else ():
                importance.data = importance.data.clamp(min=0)
                self.syn_data["cum_trajectory"][name].data = -importance.data

    return Copying(si_lambda, eps=eps)


def copy(remembered: Any) -> None:
    """Let each of Avalanche's tensors be one of its own."""
    for one in remembered.values():
        one.data = one.data.clone()
