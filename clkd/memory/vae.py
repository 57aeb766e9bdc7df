"""A small variational autoencoder: what rows look like, in a few hundred thousand numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class VAE(nn.Module):
    """Fully connected: rows → `hidden` → a Gaussian of `latent` numbers → `hidden` backwards → pixels in [0, 1].

    Kingma & Welling 2014, "Auto-Encoding Variational Bayes", §3 and appendices B and C.1: the prior is the standard
    normal, the decoder Bernoulli. Layers have a ReLU between them.

    Args:
        shape: of one row; it is flattened.
        hidden: widths of the encoder's layers; the decoder has them in the other order.
        latent: numbers of the code.
    """

    def __init__(self, shape: tuple[int, ...], hidden: tuple[int, ...] = (400, 400), latent: int = 100) -> None:
        super().__init__()
        self.shape, self.latent = shape, latent
        inwards = (math.prod(shape), *hidden)
        self.encoder = nn.Sequential(*_layers(inwards), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(hidden[-1], latent), nn.Linear(hidden[-1], latent)
        self.decoder = nn.Sequential(*_layers((latent, *reversed(inwards))))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The two halves of the negative evidence lower bound, `[B]` each, in nats: reconstruction and KL divergence.

        Args:
            x: `[B, *shape]` in [0, 1].
            noise: `[B, latent]` standard normal draws.
        """
        x = x.flatten(1)
        inner = self.encoder(x)
        mean, log_variance = self.mean(inner), self.log_variance(inner)
        logits = self.decoder(mean + noise * (0.5 * log_variance).exp())
        apart = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        return apart, divergence(mean, log_variance)

    def decode(self, code: Tensor) -> Tensor:
        """`[n, latent]` to rows `[n, *shape]` in [0, 1]: the mean of each pixel."""
        pixels: Tensor = self.decoder(code).sigmoid()
        return pixels.view(len(code), *self.shape)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """`[B]`: KL(N(μ, σ²) ‖ N(0, 1)) of independent Gaussians, summed over the code.

    >>> import torch
    >>> divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([0.5000])
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def _layers(widths: tuple[int, ...]) -> list[nn.Module]:
    """Linear layers with a ReLU between each two."""
    layers: list[nn.Module] = []
    for i, (inside, outside) in enumerate(pairwise(widths)):
        layers += [*([nn.ReLU()] if i else []), nn.Linear(inside, outside)]
    return layers
