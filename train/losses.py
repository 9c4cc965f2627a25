"""The loss of a batch, for which the logits of no more than a piece of it exist at any time.

Shapes: N target tokens, D width of the model, V rows of the output layer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline_steps.errors import ModelError
from train.packed_documents import packed_documents
from train.presets import Z_LOSS
from train.tokenizers import PAD


_PIECE = 1024  # rows of logits at a time: 131 MB in float32 at 32,128 words


class Head(NamedTuple):
    """An output layer: logits are `cap * tanh(scale * hidden @ weight.T / cap)`, or without the cap where it is None.

    Attributes:
        weight: [V, D].
        scale: factor of the logits: Cohere's `logit_scale`, one over Granite's `logits_scaling`.
        cap: the value that no logit reaches: Gemma 2's `final_logit_softcapping`.
    """

    weight: Tensor
    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """Return the output layer of a causal model. Raises ModelError if there is none, or if it has a bias."""
        layer, config = model.get_output_embeddings(), model.config
        if layer is None:
            raise ModelError(f"a {config.model_type} has no output layer of its own: choose another architecture")
        if getattr(layer, "bias", None) is not None:
            raise ModelError(
                f"the output layer of {config.model_type} has a bias, which training leaves out: choose "
                "another architecture"
            )
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(layer.weight, scale, getattr(config, "final_logit_softcapping", None))


class TokenLosses(nn.Module):
    """A language model that returns what it is trained on instead of logits.

    Args:
        model: a T5, which sees inputs and predicts targets, or a causal model, for which they are alike.
        padded: rows of a T5 end in padding, which is not seen and does not count; otherwise they are full.
        z_loss: weight of the squared log-normalisers in the loss; they are no part of the nats.
        eos: of a causal model whose documents do not see each other: the id that each of them begins with.
    """

    def __init__(self, model: Any, padded: bool = False, z_loss: float = Z_LOSS, eos: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.padded = padded
        self.z_loss = z_loss
        self.eos = eos

    def forward(self, input_BI: Tensor, target_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss to minimise, summed over tokens, and float64 [2]: its nats and its squared normalisers."""
        hidden, head = self._hidden(input_BI, target_BT)
        hidden, target = hidden.flatten(0, 1), target_BT.flatten()
        if self.padded:
            counts = target != PAD
            hidden, target = hidden[counts], target[counts]
        loss, nll_N, square_N = _apply(hidden, head, target, self.z_loss)
        return loss, torch.stack([nll_N.sum(dtype=torch.float64), square_N.sum(dtype=torch.float64)])

    def by_token(self, input_BI: Tensor, target_BT: Tensor) -> Tensor:
        """Return float32 [B, T]: the negative log-likelihood of every target (nats), without gradients."""
        with torch.no_grad():
            hidden, head = self._hidden(input_BI, target_BT)
            _, nll_N, _ = _apply(hidden.flatten(0, 1), head, target_BT.flatten(), self.z_loss)
        return nll_N.view(target_BT.shape)

    def _hidden(self, input_BI: Tensor, target_BT: Tensor) -> tuple[Tensor, Head]:
        model = self.model
        if not model.config.is_encoder_decoder:
            apart = {} if self.eos is None else packed_documents(input_BI, self.eos)
            hidden = model.base_model(input_ids=input_BI, use_cache=False, **apart).last_hidden_state
            return hidden, Head.of(model)
        mask = (input_BI != PAD).long() if self.padded else None
        encoded = model.encoder(input_ids=input_BI, attention_mask=mask).last_hidden_state
        shifted = torch.cat([torch.full_like(target_BT[:, :1], PAD), target_BT[:, :-1]], dim=1)
        decoded = model.decoder(
            input_ids=shifted, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state
        if model.lm_head.weight is model.shared.weight:
            decoded = decoded * model.config.d_model**-0.5  # Raffel et al. 2020: a tied output layer is scaled
        return decoded, Head(model.lm_head.weight)


def _apply(hidden_ND: Tensor, head: Head, target_N: Tensor, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss summed over tokens, with gradients, and its nats and squared normalisers, float32 [N]."""
    wanted = torch.is_grad_enabled() and (hidden_ND.requires_grad or head.weight.requires_grad)
    result: tuple[Tensor, Tensor, Tensor] = _Loss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head.weight, target_N, head.scale, head.cap, z_loss, wanted
    )
    return result


class _Loss(torch.autograd.Function):
    """Cross-entropy of a linear layer with z-loss, whose gradients are found on the way forward, piece by piece."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        scale: float,
        cap: float | None,
        z_loss: float,
        wanted: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden_ND.device.type
        hidden, weight = hidden_ND.detach(), weight_VD.detach()
        if torch.is_autocast_enabled(device):
            hidden, weight = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (hidden, weight))
        log_normaliser_N = torch.empty(len(target_N), device=hidden.device)
        nll_N = torch.empty_like(log_normaliser_N)
        gradients = (torch.empty_like(hidden), torch.zeros_like(weight_VD)) if wanted else None
        for start in range(0, len(target_N), _PIECE):
            piece = slice(start, start + _PIECE)
            logits, target = _bent((hidden[piece] @ weight.t()).float(), scale, cap), target_N[piece, None]
            log_normaliser_N[piece] = logits.logsumexp(dim=-1)
            nll_N[piece] = log_normaliser_N[piece] - logits.gather(-1, target).squeeze(-1)
            if gradients is not None:
                slope = scale if cap is None else scale * (1 - (logits / cap).square())
                by_logit = _by_logit(logits, log_normaliser_N[piece, None], target, z_loss)
                by_logit = (by_logit if cap is None and scale == 1.0 else by_logit.mul_(slope)).to(weight.dtype)
                gradients[0][piece] = by_logit @ weight
                gradients[1].add_(by_logit.t() @ hidden[piece])
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        square_N = log_normaliser_N.square()
        ctx.mark_non_differentiable(nll_N, square_N)
        return nll_N.sum() + z_loss * square_N.sum(), nll_N, square_N

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * gradient, weight_gradient * gradient, None, None, None, None, None


def _bent(logits: Tensor, scale: float, cap: float | None) -> Tensor:
    """Return logits with their factor and soft cap, in their place."""
    if scale != 1.0:
        logits.mul_(scale)
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def _by_logit(logits: Tensor, log_normaliser: Tensor, target: Tensor, z_loss: float) -> Tensor:
    """Return the derivative of the loss of each row by its logits, in their place."""
    logits.sub_(log_normaliser).exp_().mul_(1 + 2 * z_loss * log_normaliser)
    return logits.scatter_add_(-1, target, torch.full_like(target, -1, dtype=logits.dtype))
