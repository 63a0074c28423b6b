"""T3 with a static KV cache: prefill and batched decoding, with all state on the device.

model.start_sequence(slot, prompt, sampling_row); model.prefill(length, num_cached=0)
model(batch_size, kv_len)            decode one token of the first `batch_size` slots
"""

from collections.abc import Collection

import torch
from chatterbox.models.t3 import T3
from torch import Tensor, nn

from app.engines.chatterbox.runtime.compilation import NO_COMPILER, Compiler
from app.engines.chatterbox.t3.backbone import Backbone, KVRange
from app.engines.chatterbox.t3.gpt2 import GPT2Backbone
from app.engines.chatterbox.t3.llama import LlamaBackbone
from app.engines.chatterbox.t3.sampling import SamplingTensors, sample
from app.engines.chatterbox.variants import T3Spec

BACKBONES: dict[str, type[Backbone]] = {"llama": LlamaBackbone, "gpt2": GPT2Backbone}
"""By `T3Spec.backbone`."""


class T3Model(nn.Module):
    """Slot `i` owns `rows_per_sequence` consecutive rows of the KV cache; the first is conditional.

    Prefill and decoding read and write only tensors with fixed addresses, as CUDA graphs require.
    Inactive slots are computed too, but their state is not updated.
    """

    next_token: Tensor
    prompt_len: Tensor
    num_generated: Tensor
    active: Tensor
    token_seen: Tensor
    sampling_rows: Tensor
    exp_noise: Tensor
    prompt: Tensor
    prompt_rows: Tensor

    def __init__(
        self,
        t3: T3,
        spec: T3Spec,
        slots: int,
        max_positions: int,
        noise_steps: int = 1,
        compiler: Compiler = NO_COMPILER,
    ) -> None:
        super().__init__()
        self.t3 = t3
        self.spec = spec
        self.max_positions = max_positions
        rows = spec.rows_per_sequence
        self.backbone = BACKBONES[spec.backbone](t3.tfmr, rows * slots, max_positions, compiler)
        vocabulary, device = t3.speech_head.out_features, t3.speech_emb.weight.device

        def add(name: str, tensor: Tensor) -> None:
            self.register_buffer(name, tensor.to(device), persistent=False)

        add("next_token", torch.zeros(slots, dtype=torch.int64))  # input of the next step
        add("prompt_len", torch.zeros(slots, dtype=torch.int64))
        add("num_generated", torch.zeros(slots, dtype=torch.int64))
        add("active", torch.zeros(slots, dtype=torch.bool))
        add("token_seen", torch.zeros(slots, vocabulary, dtype=torch.bool))
        add("sampling_rows", torch.ones(slots, len(SamplingTensors._fields)))
        add("exp_noise", torch.ones(slots, noise_steps, vocabulary))  # used in turn
        add("prompt", torch.zeros(rows, max_positions, t3.dim))  # of the sequence to prefill
        add("prompt_rows", torch.zeros(rows, dtype=torch.int64))

    def start_sequence(self, slot: int, prompt: Tensor, sampling_row: Tensor) -> None:
        """Set a slot's state for a new sequence after `prompt`, float32 [rows, n, dim]."""
        length = prompt.shape[1]
        self.prompt[:, :length] = prompt
        for row in range(len(prompt)):
            self.prompt_rows[row] = len(prompt) * slot + row
        self.next_token[slot] = self.t3.hp.start_speech_token
        self.prompt_len[slot] = length
        self.num_generated[slot] = 0
        self.token_seen[slot] = False
        self.sampling_rows[slot] = sampling_row

    def prefill(self, length: int, num_cached: int) -> Tensor:
        """Fill the KV cache from the prompt's positions `num_cached` to `length`.

        Padding beyond the prompt's end is computed too, and overwritten before it is read.
        """
        positions = torch.arange(num_cached, length, device=self.prompt.device)
        prompt = self.prompt[:, num_cached:length].clone()  # Dynamo makes another graph of views
        kv_range = None
        if num_cached:
            first = int(self.prompt_rows[0])
            kv_range = KVRange(slice(first, first + len(prompt)), slice(length))
        positions = positions.expand(len(prompt), -1)
        hidden: Tensor = self.backbone(prompt, self.prompt_rows, positions, kv_range)
        return hidden

    def export_prefix(self, slot: int, length: int) -> Tensor:
        """Copy a slot's first `length` positions: [layers, 2, kv_heads, length, head_dim]."""
        row = self.spec.rows_per_sequence * slot
        return torch.stack([layer.export_kv(row, length) for layer in self.backbone.layers])

    def load_prefix(self, slot: int, prefix_kv: Tensor) -> None:
        """Let all rows of a slot begin with what `export_prefix` returned."""
        rows = self.spec.rows_per_sequence
        for layer, kv in zip(self.backbone.layers, prefix_kv, strict=True):
            layer.load_kv(slice(rows * slot, rows * (slot + 1)), kv)

    def set_active(self, slots: Collection[int]) -> None:
        """Let only these slots advance from now on."""
        self.active.copy_(torch.tensor([slot in slots for slot in range(len(self.active))]))

    def forward(self, batch_size: int, kv_len: int) -> Tensor:
        """Decode one token of each of the first `batch_size` slots, int64 [batch_size].

        Active slots must have fresh noise and positions below `kv_len`.
        """
        logits = self.logits(batch_size, kv_len)
        batch = slice(batch_size)
        if self.spec.forgets_start_token:
            self.token_seen[batch] &= (self.num_generated[batch] != 1)[:, None]
        self.token_seen[batch].scatter_(1, self.next_token[batch, None], True)
        params = SamplingTensors.from_rows(self.sampling_rows[batch])
        turn = (self.num_generated[batch] % self.exp_noise.shape[1])[:, None, None]
        noise = self.exp_noise[batch].take_along_dim(turn, dim=1)[:, 0]
        tokens = sample(logits, self.token_seen[batch], params, noise, self.spec.samplers)
        active = self.active[batch]
        self.next_token[batch] = torch.where(active, tokens, self.next_token[batch])
        self.num_generated[batch] += active
        return tokens

    def logits(self, batch_size: int, kv_len: int) -> Tensor:
        """Feed each slot's next token; float32 [batch_size, rows_per_sequence, vocabulary]."""
        per_sequence = self.spec.rows_per_sequence
        num_generated = self.num_generated[:batch_size, None]
        x = self.t3.speech_emb(self.next_token[:batch_size, None])
        if self.spec.learned_positions:
            x = x + self.t3.speech_pos_emb.get_fixed_embedding(num_generated)
        positions = self.prompt_len[:batch_size, None] + num_generated
        positions = positions.clamp(max=self.max_positions - 1)  # finished slots go on being fed
        rows = torch.arange(per_sequence * batch_size, device=x.device)
        hidden = self.backbone(
            x.repeat_interleave(per_sequence, dim=0),
            rows,
            positions.repeat_interleave(per_sequence, dim=0),
            KVRange(slice(len(rows)), slice(kv_len)),
        )
        logits: Tensor = self.t3.speech_head(hidden)
        return logits.float().view(batch_size, per_sequence, -1)
