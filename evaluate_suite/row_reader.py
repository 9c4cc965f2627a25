"""Runs rows of shared prompts through a decoder-only model and reads log-probabilities.

Shapes: B rows, P shared tokens, Q tokens of a row behind them, R reads at K places, V ids.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from evaluate_suite.shared_prompts import PromptRow
from pipeline_steps.engines.models import padded


_LENGTH_DEPENDENT = {"dynamic", "longrope"}  # rotary embeddings that change with the length of the text


class RowReader:
    """Runs beginnings and rows.

    Args:
        model: a causal model of transformers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    @torch.inference_mode()
    def beginning(self, ids: Sequence[int]) -> DynamicCache | None:
        """Return keys and values of a shared beginning, of one row; None if it has no token."""
        if not ids:
            return None
        cache = DynamicCache(config=self._model.config)
        self._model.base_model(
            input_ids=torch.tensor([ids], device=self._model.device), past_key_values=cache, use_cache=True
        )
        return cache

    def cache_of_rows(self, beginning: DynamicCache | None, rows: int) -> DynamicCache:
        """Return a new cache of a beginning for a batch: a forward pass writes into the one it gets."""
        cache = DynamicCache(config=self._model.config)
        for number, layer in enumerate(beginning.layers if beginning else ()):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
        return cache

    @torch.inference_mode()
    def read(
        self, rows: list[PromptRow], beginning: DynamicCache | None, share: bool
    ) -> tuple[list[float], list[bool]]:
        """Return the log-probability of the id of each read of the rows, in order, and whether it is likeliest."""
        device = self._model.device
        ids_BQ = padded([row.ids for row in rows], 0).to(device)
        options: dict[str, Any] = {"use_cache": False}
        if share:
            options["past_key_values"] = self.cache_of_rows(beginning, len(rows))
            options["position_ids"] = padded([row.position for row in rows], 0).to(device)
            options["attention_mask"] = self._mask(rows, beginning.get_seq_length() if beginning else 0)
        places: dict[tuple[int, int], int] = {}  # letters are read at one place
        place_R = torch.tensor(
            [
                places.setdefault((number, step), len(places))
                for number, row in enumerate(rows)
                for step, *_ in row.reads
            ]
        ).to(device)
        target_R = torch.tensor([target for row in rows for _, target, _ in row.reads], device=device)
        logits_KV = self._logits(ids_BQ, torch.tensor(list(places), device=device), options)
        chosen_R = logits_KV[place_R, target_R] - logits_KV.logsumexp(1)[place_R]
        return chosen_R.tolist(), (logits_KV.argmax(1)[place_R] == target_R).tolist()

    def _mask(self, rows: list[PromptRow], shared: int) -> Tensor:
        """Return what each step sees, [B, 1, Q, P + Q], in the form that the model's attention takes."""
        longest = max(len(row.ids) for row in rows)
        sees = torch.eye(longest, dtype=torch.bool).repeat(len(rows), 1, 1, 1)  # padding sees itself
        for number, row in enumerate(rows):
            sees[number, 0, : len(row.ids), : len(row.ids)] = torch.from_numpy(row.sees())
        sees = torch.cat([sees.new_ones(len(rows), 1, longest, shared), sees], dim=-1).to(self._model.device)
        if self._model.config._attn_implementation == "sdpa":
            return sees
        lowest = torch.finfo(self._model.dtype).min  # eager attention adds the mask to its scores
        return torch.zeros_like(sees, dtype=self._model.dtype).masked_fill(~sees, lowest)

    def _logits(self, ids_BQ: Tensor, place_K2: Tensor, options: dict[str, Any]) -> Tensor:
        """Return float32 logits [K, V] at the given rows and steps.

        The model's own output layer makes them, as some cap or scale what it gives; it gets no other hidden states.
        """

        def keep(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
            return (given[0][place_K2[:, 0], place_K2[:, 1]][None],)

        hook = self._model.get_output_embeddings().register_forward_pre_hook(keep)
        try:
            logits: Tensor = self._model(input_ids=ids_BQ, **options).logits
        finally:
            hook.remove()
        return logits[0].float()

    def unsuitable(self) -> str:
        """Return why rows behind a shared beginning are not exact, by the configuration; "" if it names no reason."""
        config = self._model.config.get_text_config(decoder=True)
        ropes = getattr(config, "rope_parameters", None) or {}
        kinds = {str(one.get("rope_type")) for one in (ropes, *ropes.values()) if isinstance(one, dict)}
        reasons = {
            "it has a recurrent state": self._model._is_stateful,
            "it takes no positions": "position_ids" not in inspect.signature(self._model.forward).parameters,
            "its attention has linear biases": getattr(config, "alibi", False),
            "its positions depend on the length of a text": bool(kinds & _LENGTH_DEPENDENT),
            f"its attention ({config._attn_implementation}) takes no dense mask": (
                config._attn_implementation not in ("sdpa", "eager")
            ),
        }
        if reason := next((reason for reason, holds in reasons.items() if holds), ""):
            return reason
        others = {type(layer).__name__ for layer in DynamicCache(config=config).layers} - {DynamicLayer.__name__}
        return f"not all of its layers see the whole text ({', '.join(sorted(others))})" if others else ""
