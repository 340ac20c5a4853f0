"""The networks of few-shot adversarial talking heads: E, G and D (arXiv 1905.08233, Sec. 3.1 and 4)."""

import copy
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from talkinghead.models.encoder import Encoder, Pooling
from talkinghead.models.layers import (
    IMAGE_CHANNELS,
    AdaptiveBlock,
    DownBlock,
    InstanceNorm,
    RowNorm,
    SelfAttention,
    conv,
    normalized,
)
from talkinghead.models.memory_format import layout_of
from talkinghead.types import Episode, Frames

Start = Literal["scaled", "embedding", "w0", "random"]


class DiscriminatorOutput(NamedTuple):
    """Output of D: the realism score, and the activations after each residual block for L_FM."""

    score: Float[Tensor, " B"]
    features: list[Tensor]


class Preset(NamedTuple):
    """The sizes of a generator: enough to build it again from a file.

    >>> preset = Preset(64, (32, 64), 2, (64, 32), attention_down=None, attention_up=None, spectral_norm=False)
    >>> person = PersonalGenerator.of(preset)  # its weights are not there yet
    >>> person.psi.is_meta, person.psi.shape
    (True, torch.Size([1, 1024]))
    """

    image_size: int
    down_channels: tuple[int, ...]
    num_residual: int
    up_channels: tuple[int, ...]
    attention_down: int | None
    attention_up: int | None
    spectral_norm: bool


class Embedder(nn.Module):
    """E(x, y; phi) -> e: what a person looks like, whatever the pose (Sec. 3.1).

    Args:
        channels: widths of the residual blocks, each of which halves the picture; the last one is N
        attention: side of the feature map that self-attention works on; None: no self-attention
        pooling: how the last feature map becomes a vector (`talkinghead.models.encoder`)

    >>> E = Embedder(image_size=32, channels=(8, 16, 16), attention=None)
    >>> e = E(torch.zeros(5, 3, 32, 32), torch.zeros(5, 3, 32, 32))  # five shots
    >>> e_hat = e.mean(0, keepdim=True)
    >>> e.shape, e_hat.shape
    (torch.Size([5, 16]), torch.Size([1, 16]))
    """

    def __init__(
        self, image_size: int = 256, channels: Sequence[int] = (64, 128, 256, 512, 512, 512),
        attention: int | None = 32, pooling: Pooling = "sum_relu", spectral_norm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = Encoder(image_size, channels, attention, pooling, spectral_norm)
        self.embedding_size = channels[-1]

    def forward(self, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N"]:
        return self.encoder(x, y)[0]


class Synthesizer(nn.Module):
    """What G and G' share: landmark image and AdaIN values to picture (Sec. 4). BigGAN-like; psi are its weights.

    Args:
        down_channels: widths of the encoder; the first down block takes the landmark image
        num_residual: residual blocks at the bottleneck
        up_channels: widths of the decoder, as many as down_channels
        attention_down: side of the encoder's feature map that gets self-attention, pixels; None: no self-attention
        attention_up: side of the decoder's
    """

    def __init__(
        self, image_size: int = 256, down_channels: Sequence[int] = (64, 128, 256, 512), num_residual: int = 4,
        up_channels: Sequence[int] = (512, 256, 128, 64), attention_down: int | None = 32,
        attention_up: int | None = 64, spectral_norm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(down_channels) != len(up_channels):
            raise ValueError(f"{len(down_channels)} down blocks and {len(up_channels)} up blocks: the sizes differ")
        self.preset = Preset(
            image_size, tuple(down_channels), num_residual, tuple(up_channels), attention_down, attention_up,
            spectral_norm,
        )  # fmt: skip
        sn = spectral_norm
        self.down, self.down_attention = nn.ModuleList(), nn.ModuleDict()
        size, width = image_size, IMAGE_CHANNELS
        for n, after in enumerate(down_channels):
            self.down.append(DownBlock(width, after, first=n == 0, instance_norm=True, spectral_norm=sn))
            size, width = size // 2, after
            if size == attention_down:
                self.down_attention[str(n)] = SelfAttention(width, sn)
        self.middle = nn.ModuleList(AdaptiveBlock(width, width, spectral_norm=sn) for _ in range(num_residual))
        self.up, self.up_attention = nn.ModuleList(), nn.ModuleDict()
        for n, after in enumerate(up_channels):
            self.up.append(AdaptiveBlock(width, after, upsample=True, spectral_norm=sn))
            size, width = size * 2, after
            if size == attention_up:
                self.up_attention[str(n)] = SelfAttention(width, sn)
        for side, found in ((attention_down, self.down_attention), (attention_up, self.up_attention)):
            if side is not None and not found:
                raise ValueError(f"no block of a {image_size} px generator gives {side} px for self-attention; or null")
        self.norm = InstanceNorm(width, affine=False)
        self.to_image = conv(width, IMAGE_CHANNELS, 3, sn)
        self.psi_sizes = [
            2 * m.channels for m in self.modules() if isinstance(m, InstanceNorm) and m.scale_shift is None
        ]

    def synthesize(self, y: Float[Tensor, "B 3 H W"], psi: Float[Tensor, "B S"]) -> Float[Tensor, "B 3 H W"]:
        """G(y; psi, psi_hat): the picture in [-1, 1] for given scales and shifts."""
        layers = list(psi.split(self.psi_sizes, dim=1))  # one tensor per AdaIN layer, in the order of their use
        h = y.contiguous(memory_format=layout_of(self))
        for n, block in enumerate(self.down):
            h = block(h)
            h = self.down_attention[str(n)](h) if str(n) in self.down_attention else h
        for n, block in enumerate(self.middle):
            h = block(h, layers[2 * n : 2 * n + 2])  # two AdaIN layers per block
        layers = layers[2 * len(self.middle) :]
        for n, block in enumerate(self.up):
            h = block(h, layers[2 * n : 2 * n + 2])
            h = self.up_attention[str(n)](h) if str(n) in self.up_attention else h
        return torch.tanh(self.to_image(F.relu(self.norm(h, layers[-1]))).float())


class Generator(Synthesizer):
    """G(y, e_hat; psi, P) -> x_hat: landmark image to picture; AdaIN conditions it on the person (Sec. 3.1).

    Args:
        embedding_size: N; the other options are those of `Synthesizer`
        gain: trained factors after P, whose spectral norm is 1: "one" for all, or one for each AdaIN "layer"; None:
            no factors (paper)
        gain_start: their initial value

    >>> sizes = {"down_channels": (8, 16), "up_channels": (16, 8), "num_residual": 1}
    >>> G = Generator(32, 16, **sizes, attention_down=None, attention_up=None).eval()
    >>> y, e_hat = torch.zeros(1, 3, 32, 32), torch.randn(1, 16)
    >>> G.project(e_hat).shape[1] == sum(G.psi_sizes)  # a scale and a shift for each channel that AdaIN normalises
    True
    >>> own = G.personalize(e_hat)  # G': psi_hat is a parameter, P and e_hat are gone
    >>> torch.equal(own(y), G(y, e_hat))
    True
    """

    def __init__(
        self, image_size: int = 256, embedding_size: int = 512, down_channels: Sequence[int] = (64, 128, 256, 512),
        num_residual: int = 4, up_channels: Sequence[int] = (512, 256, 128, 64), attention_down: int | None = 32,
        attention_up: int | None = 64, spectral_norm: bool = True, gain: Literal["one", "layer"] | None = None,
        gain_start: float | int = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(
            image_size, down_channels, num_residual, up_channels, attention_down, attention_up, spectral_norm
        )
        self.embedding_size = embedding_size
        self.projection = normalized(nn.Linear(embedding_size, sum(self.psi_sizes)), spectral_norm)  # P
        if gain not in (None, "one", "layer"):
            raise ValueError(f"generator.gain={gain}: choose null, one or layer")
        count = len(self.psi_sizes) if gain == "layer" else 1
        self.gain = nn.Parameter(torch.full((count,), float(gain_start))) if gain else None

    def project(self, e_hat: Float[Tensor, "B N"]) -> Float[Tensor, "B S"]:
        """psi_hat = P e_hat: all scales and shifts of the AdaIN layers, in the order of the layers."""
        with torch.autocast(e_hat.device.type, enabled=False):  # in fp32: psi_hat scales whole feature maps
            psi = self.projection(e_hat.float())
            if self.gain is None:
                return psi
            if len(self.gain) == 1:
                return psi * self.gain
            return psi * torch.cat([g.expand(size) for g, size in zip(self.gain, self.psi_sizes, strict=True)])

    def condition(self, batch: Episode) -> Float[Tensor, "B 3 H W"]:
        """The input of G for an episode, besides e_hat: the target's landmark image y_i(t)."""
        return batch.target_landmarks

    def forward(self, y: Float[Tensor, "B 3 H W"], e_hat: Float[Tensor, "B N"]) -> Float[Tensor, "B 3 H W"]:
        return self.synthesize(y, self.project(e_hat))

    @torch.no_grad()
    def personalize(self, e_hat: Float[Tensor, "1 N"], shots: Frames | None = None) -> "PersonalGenerator":
        """G' for this embedding: a copy without P, whose psi' = P e_hat; at first it draws what G draws (Sec. 3.3)."""
        person = PersonalGenerator.of(self.preset)
        names = set(person.state_dict())
        own = {name: value.clone() for name, value in self.state_dict().items() if name in names}
        person.load_state_dict({**own, "psi": self.project(e_hat).clone()}, assign=True)
        return person.train(self.training)


class PersonalGenerator(Synthesizer):
    """G'(y; psi, psi') -> x_hat, the generator of one person: psi' are parameters (Sec. 3.3)."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.psi = nn.Parameter(torch.zeros(1, sum(self.psi_sizes)))

    @staticmethod
    def of(preset: "Preset") -> "PersonalGenerator":
        """A generator of these sizes on the meta device: load weights with `assign=True`."""
        with torch.device("meta"):
            return PersonalGenerator(**preset._asdict())

    def condition(self, driving: Frames) -> Float[Tensor, "M 3 H W"]:
        """The input of G' for driving frames: their landmark images."""
        return driving.landmarks

    def forward(self, y: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return self.synthesize(y.to(self.psi.dtype), self.psi.expand(len(y), -1))

    @torch.no_grad()
    def fold(self) -> "PersonalGenerator":
        """A copy for inference: weights are divided by their spectral norm once, instead of at every use."""
        person, original = PersonalGenerator.of(self.preset._replace(spectral_norm=False)), copy.deepcopy(self).eval()
        state = original.state_dict()
        for name, layer in original.named_modules():
            if parametrize.is_parametrized(layer, "weight"):
                state[f"{name}.weight"] = layer.weight  # divided by its largest singular value
        person.load_state_dict({name: state[name] for name in person.state_dict()}, assign=True)
        return person.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Discriminator(nn.Module):
    """D(x, y, i; theta, W, w0, b) = V(x, y; theta)^T (W_i + w0) + b (Sec. 3.1, "discriminator").

    W has one row per training video. Its gradient is sparse: a step touches the rows of its batch and no other.

    Args:
        num_videos: rows of W
        spectral_norm: of V's layers; not of W and w0
        normalize_w: divides W by its largest singular value, and w0 by its norm (authors' code)

    >>> D = Discriminator(num_videos=10, image_size=32, channels=(8, 16, 16), attention=None)
    >>> score, features = D(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32), torch.tensor([3, 3]))
    >>> score.shape, [h.shape[-1] for h in features]  # sides after each block; the last one keeps the size
    (torch.Size([2]), [16, 8, 4, 4])
    >>> score.sum().backward()
    >>> D.W.weight.grad.coalesce().indices().tolist()  # the row of video 3 alone
    [[3]]
    """

    def __init__(
        self, num_videos: int, image_size: int = 256, channels: Sequence[int] = (64, 128, 256, 512, 512, 512),
        attention: int | None = 32, pooling: Pooling = "sum_relu", spectral_norm: bool = True,
        normalize_w: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_videos < 1:
            raise ValueError("W needs a row per training video, and there is none: is the training split empty?")
        self.V = Encoder(image_size, channels, attention, pooling, spectral_norm, num_flat=1)
        self.W = nn.Embedding(num_videos, channels[-1], sparse=True)
        nn.init.normal_(self.W.weight, std=0.02)
        self.w0 = nn.Parameter(0.02 * torch.randn(channels[-1]))
        self.b = nn.Parameter(torch.zeros(()))
        self.W_norm = RowNorm(self.W.weight) if normalize_w else None

    def rows(self, i: Int[Tensor, " B"]) -> Float[Tensor, "B N"]:
        """W_i, as the score and L_MCH see it."""
        return self.W(i) if self.W_norm is None else self.W_norm(self.W(i), self.W.weight)

    def common(self) -> Float[Tensor, " N"]:
        """w0, as the score sees it."""
        return self.w0 if self.W_norm is None else F.normalize(self.w0, dim=0)

    @torch.no_grad()
    def row_norm(self) -> Float[Tensor, ""]:
        """Mean norm of W's rows; the norm of w0 where W was left out of the file (all zeros)."""
        norms = self.W.weight.norm(dim=1) / (1 if self.W_norm is None else self.W_norm.sigma)
        return torch.where(norms.any(), norms.mean(), self.common().norm())

    def score(self, v: Float[Tensor, "B N"], rows: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
        """v^T (W_i + w0) + b for each picture, v = V(x, y)."""
        return (v * (rows + self.common())).sum(1) + self.b

    def forward(
        self, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"], i: Int[Tensor, " B"]
    ) -> DiscriminatorOutput:
        v, features = self.V(x, y)
        return DiscriminatorOutput(self.score(v, self.rows(i)), features)

    def compare(
        self, x: Float[Tensor, "B 3 H W"], x_hat: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"],
        i: Int[Tensor, " B"], fake_moves_w: bool = True,
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:  # fmt: skip
        """Scores of x and of x_hat, in one pass of V. Without `fake_moves_w`, W gets no gradient from x_hat."""
        v, _ = self.V(torch.cat([x, x_hat]), torch.cat([y, y]))
        rows = self.rows(i)
        score = self.score(v, torch.cat([rows, rows if fake_moves_w else rows.detach()]))
        return score[: len(x)], score[len(x) :]

    @torch.no_grad()
    def personalize(self, e_hat: Float[Tensor, "1 N"], start: Start = "scaled") -> "PersonalDiscriminator":
        """D' for this embedding: a copy with w' in place of W_i + w0 (Sec. 3.3).

        `start` is one of:

        - embedding: w' = w0 + e_hat, as in the paper; good where L_MCH has brought e_hat close to W_i
        - scaled: w' = w0 + e_hat, scaled to the mean norm of W's rows, with which theta was trained
        - random: w' = w0 + noise of that norm
        - w0: w' = w0, no information about the person
        """
        if start not in get_args(Start):
            raise ValueError(f"init_w={start}: choose {', '.join(get_args(Start))}")
        own = torch.randn_like(e_hat[0]) if start == "random" else e_hat[0]
        if start != "embedding":
            own = F.normalize(own, dim=0) * self.row_norm() * (start != "w0")
        return PersonalDiscriminator(copy.deepcopy(self.V), own + self.common(), self.b)


class PersonalDiscriminator(nn.Module):
    """D'(x, y) = V(x, y; theta)^T w' + b, the discriminator of one person (Sec. 3.3)."""

    def __init__(self, encoder: Encoder, w: Float[Tensor, " N"], b: Float[Tensor, ""]) -> None:
        super().__init__()
        self.V = encoder
        self.w = nn.Parameter(w.detach().clone())
        self.b = nn.Parameter(b.detach().clone())

    def forward(self, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"]) -> DiscriminatorOutput:
        v, features = self.V(x, y)
        return DiscriminatorOutput((v * self.w).sum(1) + self.b, features)
