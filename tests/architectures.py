"""Small, freshly built architectures: each function returns a module and its example inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Architecture = tuple[nn.Module, tuple[Any, ...] | dict[str, Any]]


def tokens(rows: int = 4, length: int = 12, below: int = 50) -> torch.Tensor:
    return torch.randint(0, below, (rows, length))


# transformers


def _hf(config_name: str, model_name: str, inputs: dict[str, Any], **settings: Any) -> Architecture:
    import transformers

    config = getattr(transformers, config_name)(**settings)
    return getattr(transformers, model_name)(config), inputs


_TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}


def bert() -> Architecture:
    return _hf("BertConfig", "BertForSequenceClassification", {"input_ids": tokens()}, **_TEXT)


def roberta_masked() -> Architecture:
    return _hf("RobertaConfig", "RobertaForMaskedLM", {"input_ids": tokens()}, **_TEXT)


def gpt2() -> Architecture:
    return _hf(
        "GPT2Config",
        "GPT2LMHeadModel",
        {"input_ids": tokens()},
        vocab_size=50,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    )


def llama() -> Architecture:
    return _hf(
        "LlamaConfig", "LlamaForCausalLM", {"input_ids": tokens()}, num_key_value_heads=2, **_TEXT
    )


def mixtral() -> Architecture:
    return _hf(
        "MixtralConfig",
        "MixtralForCausalLM",
        {"input_ids": tokens()},
        num_key_value_heads=2,
        num_local_experts=4,
        **_TEXT,
    )


def gemma() -> Architecture:
    return _hf(
        "GemmaConfig",
        "GemmaForCausalLM",
        {"input_ids": tokens()},
        num_key_value_heads=2,
        head_dim=8,
        **_TEXT,
    )


def gpt_neox() -> Architecture:
    return _hf("GPTNeoXConfig", "GPTNeoXForCausalLM", {"input_ids": tokens()}, **_TEXT)


def t5() -> Architecture:
    return _hf(
        "T5Config",
        "T5ForConditionalGeneration",
        {"input_ids": tokens(), "decoder_input_ids": tokens(length=8)},
        vocab_size=50,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )


def vit() -> Architecture:
    return _hf(
        "ViTConfig",
        "ViTForImageClassification",
        {"pixel_values": torch.randn(4, 3, 32, 32)},
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )


def whisper() -> Architecture:
    return _hf(
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": tokens(2, 6)},
        vocab_size=50,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )


def clip() -> Architecture:
    text = {**_TEXT, "eos_token_id": 49, "bos_token_id": 48, "pad_token_id": 0}
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    }
    return _hf(
        "CLIPConfig",
        "CLIPModel",
        {"input_ids": tokens(), "pixel_values": torch.randn(4, 3, 32, 32)},
        text_config=text,
        vision_config=vision,
        projection_dim=16,
    )


def mamba() -> Architecture:
    return _hf(
        "MambaConfig",
        "MambaForCausalLM",
        {"input_ids": tokens()},
        vocab_size=50,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        time_step_rank=4,
    )


def distilbert() -> Architecture:
    return _hf(
        "DistilBertConfig",
        "DistilBertModel",
        {"input_ids": tokens()},
        vocab_size=50,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=32,
    )


# torch's own layers


def torch_transformer() -> Architecture:
    module = nn.Transformer(16, 4, 2, 2, 32, batch_first=True)
    return module, (torch.randn(4, 6, 16), torch.randn(4, 5, 16))


def torch_encoder() -> Architecture:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), (torch.randn(4, 6, 16),)


class _Tagger(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 12)
        self.rnn = kind(12, 16, batch_first=True, **settings)
        width = (settings.get("proj_size") or 16) * (2 if settings.get("bidirectional") else 1)
        self.head = nn.Linear(width, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(ids))[0])


def lstm() -> Architecture:
    return _Tagger(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.1), (tokens(),)


def lstm_projected() -> Architecture:
    return _Tagger(nn.LSTM, proj_size=6), (tokens(),)


def gru() -> Architecture:
    return _Tagger(nn.GRU), (tokens(),)


def rnn() -> Architecture:
    return _Tagger(nn.RNN, nonlinearity="relu"), (tokens(),)


class _CellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(6, 8)
        self.start = nn.Parameter(torch.zeros(1, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.start.expand(len(x), -1)
        for step in range(x.shape[1]):
            h = self.cell(x[:, step], h)
        return self.head(h)


def gru_cell() -> Architecture:
    return _CellLoop(), (torch.randn(5, 4, 6),)


# convolutional networks


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 16), depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(True)
        )
        blocks, inside = [], widths[0]
        for stage, width in enumerate(widths):
            for index in range(depth):
                blocks.append(_Block(inside, width, 2 if stage and not index else 1))
                inside = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inside, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


def resnet() -> Architecture:
    return ResNet(), (torch.randn(4, 3, 16, 16),)


class _Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.down: nn.Module | None = None
        if stride != 1 or inside != 4 * width:
            self.down = nn.Sequential(
                nn.Conv2d(inside, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y + (x if self.down is None else self.down(x)))


def resnet50() -> nn.Module:
    """ResNet-50 at full size (25.6 million parameters), for measurements of speed."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    inside = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        for index in range(depth):
            width = 64 * 2**stage
            layers.append(_Bottleneck(inside, width, 2 if stage and not index else 1))
            inside = 4 * width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 1000))
    for child in model.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
    return model


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = self.block(1, 8)
        self.down2 = self.block(8, 16)
        self.middle = self.block(16, 32)
        self.up2 = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.merge2 = self.block(32, 16)
        self.up1 = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.merge1 = self.block(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def block(inside: int, outside: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.GroupNorm(4, outside),
            nn.SiLU(),
            nn.Conv2d(outside, outside, 3, padding=1),
            nn.GroupNorm(4, outside),
            nn.SiLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        y = self.merge2(torch.cat([self.up2(c), b], dim=1))
        return self.head(self.merge1(torch.cat([self.up1(y), a], dim=1)))


def unet() -> Architecture:
    return _UNet(), (torch.randn(4, 1, 16, 16),)


def _dcgan_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def dcgan_generator() -> Architecture:
    module = nn.Sequential(
        nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(True),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(True),
        nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    module.apply(_dcgan_weights)
    return module, (torch.randn(4, 16, 1, 1),)


def dcgan_discriminator() -> Architecture:
    module = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(16, 32, 4, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(32, 1, 4, 1, 0, bias=False),
        nn.Sigmoid(),
    )
    module.apply(_dcgan_weights)
    return module, (torch.randn(4, 3, 16, 16),)


def mobile() -> Architecture:
    """Depthwise separable convolutions with squeeze-and-excite."""

    class Excite(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.reduce = nn.Conv2d(width, width // 4, 1)
            self.expand = nn.Conv2d(width // 4, width, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate = F.relu(self.reduce(x.mean((2, 3), keepdim=True)))
            return x * F.hardsigmoid(self.expand(gate))

    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.Hardswish(),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        Excite(16),
        nn.Conv2d(16, 24, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    return module, (torch.randn(4, 3, 16, 16),)


# other hand-written networks


class _Mixer(nn.Module):
    class Layer(nn.Module):
        def __init__(self, positions: int, width: int) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(width)
            self.norm2 = nn.LayerNorm(width)
            self.tokens = nn.Sequential(
                nn.Linear(positions, 32), nn.GELU(), nn.Linear(32, positions)
            )
            self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.norm2(x))

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 4, 4)
        self.layers = nn.ModuleList([self.Layer(16, 24) for _ in range(2)])
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 10)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def mlp_mixer() -> Architecture:
    return _Mixer(), (torch.randn(4, 3, 16, 16),)


class _Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [2, 32, 32, 32]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(widths)])
        self.out = nn.Linear(32, 3)
        for index, layer in enumerate([*self.layers, self.out]):
            fan = layer.in_features
            bound = 1 / fan if index == 0 else math.sqrt(6 / fan) / 30
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.out(x)


def siren() -> Architecture:
    return _Siren(), (torch.rand(64, 2) * 2 - 1,)


class _Nerf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bands", 2.0 ** torch.arange(4))
        self.trunk = nn.ModuleList([nn.Linear(24, 32), nn.Linear(32, 32), nn.Linear(56, 32)])
        self.density = nn.Linear(32, 1)
        self.colour = nn.Linear(32 + 3, 3)

    def forward(self, x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        angles = (x[..., None] * self.bands).flatten(-2)
        encoded = torch.cat([angles.sin(), angles.cos()], dim=-1)
        h = encoded
        for index, layer in enumerate(self.trunk):
            h = F.relu(layer(torch.cat([h, encoded], -1) if index == 2 else h))
        colour = torch.sigmoid(self.colour(torch.cat([h, direction], -1)))
        return torch.cat([colour, F.softplus(self.density(h))], -1)


def nerf() -> Architecture:
    return _Nerf(), (torch.randn(32, 3), torch.randn(32, 3))


class _ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor = self.net(4, 0.01)
        self.critic = self.net(1, 1.0)
        self.log_std = nn.Parameter(torch.zeros(1, 4))

    @staticmethod
    def net(outside: int, gain: float) -> nn.Sequential:
        layers = [nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, outside)]
        for layer, scale in zip(layers, (math.sqrt(2), math.sqrt(2), gain), strict=True):
            nn.init.orthogonal_(layer.weight, scale)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mean = self.actor(observation)
        spread = self.log_std.expand_as(mean).exp()
        action = mean + spread * torch.randn_like(mean)
        return action, self.critic(observation)


def actor_critic() -> Architecture:
    return _ActorCritic(), (torch.randn(16, 8),)


class _Lora(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + 2.0 * (x @ self.a.T @ self.b.T)


def lora() -> Architecture:
    module = nn.Sequential(_Lora(nn.Linear(16, 32)), nn.ReLU(), _Lora(nn.Linear(32, 5)))
    return module, (torch.randn(16, 16),)


class _PackedBlock(nn.Module):
    """Attention by hand with one packed projection, in timm's layout."""

    def __init__(self, width: int, heads: int, *, post_norm: bool) -> None:
        super().__init__()
        self.heads, self.post_norm = heads, post_norm
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.scale = nn.Parameter(torch.full((width,), 1e-4))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, t, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.post_norm:
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.scale * self.attend(self.norm1(x))
        return x + self.scale * self.mlp(self.norm2(x))


def pre_norm_transformer() -> Architecture:
    blocks = [_PackedBlock(32, 4, post_norm=False) for _ in range(2)]
    return nn.Sequential(*blocks, nn.LayerNorm(32), nn.Linear(32, 5)), (torch.randn(4, 6, 32),)


def post_norm_transformer() -> Architecture:
    blocks: list[nn.Module] = [_PackedBlock(32, 4, post_norm=True) for _ in range(2)]
    for block in blocks:
        del block.scale
    return nn.Sequential(*blocks), (torch.randn(4, 6, 32),)


class _Autoencoder(nn.Module):
    """Encoder and decoder that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(24, 8)
        self.bias = nn.Parameter(torch.zeros(24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(torch.tanh(self.encode(x)), self.encode.weight.t(), self.bias)


def tied_autoencoder() -> Architecture:
    return _Autoencoder(), (torch.randn(16, 24),)


class _AdaLn(nn.Module):
    """A diffusion-transformer block with adaLN-Zero conditioning."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 16)
        self.modulate = nn.Linear(16, 3 * 16)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        self.norm = nn.LayerNorm(16, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.out = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        condition = F.silu(self.embed(t[:, None]))
        shift, scale, gate = self.modulate(condition).chunk(3, dim=-1)
        y = self.norm(x) * (1 + scale[:, None]) + shift[:, None]
        return self.out(x + gate[:, None] * self.mlp(y))


def diffusion_block() -> Architecture:
    return _AdaLn(), (torch.randn(8, 6, 16), torch.rand(8))


ALL: tuple[Callable[[], Architecture], ...] = (
    bert,
    roberta_masked,
    gpt2,
    llama,
    mixtral,
    gemma,
    gpt_neox,
    t5,
    vit,
    whisper,
    clip,
    mamba,
    distilbert,
    torch_transformer,
    torch_encoder,
    lstm,
    lstm_projected,
    gru,
    rnn,
    gru_cell,
    resnet,
    unet,
    dcgan_generator,
    dcgan_discriminator,
    mobile,
    mlp_mixer,
    siren,
    nerf,
    actor_critic,
    lora,
    pre_norm_transformer,
    post_norm_transformer,
    tied_autoencoder,
    diffusion_block,
)
"""Every architecture that is small enough for a test."""


def build(
    function: Callable[[], Architecture],
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The module in training mode with its positional and named inputs."""
    torch.manual_seed(0)
    module, inputs = function()
    module.train()
    return (module, (), inputs) if isinstance(inputs, dict) else (module, inputs, {})
